"""`RemotePath`: a file or folder that a URL names, with the part of `pathlib.Path` that readers of data use."""

import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from torchrec_pss.datasets import remote_stores
from torchrec_pss.datasets.remote_errors import retried
from torchrec_pss.datasets.remote_file import RemoteFile

_BUFFER = 1 << 16
_TAGS = ("ETag", "etag", "generation", "md5Hash")


@dataclass(frozen=True)
class RemoteStatus:
    """What a store says of a file or folder.

    Attributes:
        st_mode: a file's, or a folder's.
        st_size: bytes.
        st_mtime_ns: when it was written; 0 where the store does not say.
        tag: what another content has another one of; "" where the store has none.
        has_ranges: whether it can be read from any place, as far as the store says.
    """

    st_mode: int
    st_size: int
    st_mtime_ns: int
    tag: str
    has_ranges: bool

    def difference(self, now: "RemoteStatus") -> str | None:
        """What says that ``now`` may have other content; None: nothing does."""
        if self.st_size != now.st_size:
            return f"{self.st_size:,} bytes then, {now.st_size:,} now"
        same = self.tag == now.tag if self.tag or now.tag else self.st_mtime_ns == now.st_mtime_ns
        return None if same else f"written anew, {now.st_size:,} bytes as before"


class RemotePath:
    """
    Args:
        url: with its protocol.
        options: of its filesystem (fsspec), above those of fsspec's configuration.

    Its methods raise what `retried` does. It may be pickled, and used by a process that is forked: each has a filesystem of its own.

    Raises:
        DataError: see `remote_stores.require`.
    """

    def __init__(self, url: str, options: dict[str, Any] | None = None) -> None:
        remote_stores.require(url)
        self._url, self._given = url, options or {}
        self._made: tuple[int, Any] | None = None  # by which process, and its UPath

    def __str__(self) -> str:
        return self._url

    def __repr__(self) -> str:
        return f"RemotePath({self._url!r})"

    def __reduce__(self) -> tuple[type["RemotePath"], tuple[str, dict[str, Any]]]:
        return RemotePath, (self._url, self._given)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and self._url == other._url

    def __lt__(self, other: "RemotePath") -> bool:
        return self._url < other._url

    def __hash__(self) -> int:
        return hash(self._url)

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(f"{self._url.rstrip('/')}/{name}", self._given)

    @property
    def name(self) -> str:
        """Without folders; of HTTP without a query."""
        path = urlsplit(self._url).path if self._is_http else self._url
        return path.rstrip("/").rpartition("/")[2]

    @property
    def suffix(self) -> str:
        return os.path.splitext(self.name)[1]

    def resolve(self) -> "RemotePath":
        """Itself: URLs have no links."""
        return self

    def is_symlink(self) -> bool:
        return False

    def stat(self) -> RemoteStatus:
        return retried(self._url, self.stat_once)

    def stat_once(self) -> RemoteStatus:
        """Without another attempt. Raises what the store's package does."""
        return _status(self._upath.fs.info(self._upath.path))

    def is_dir(self) -> bool:
        return stat.S_ISDIR(self._mode())

    def is_file(self) -> bool:
        return stat.S_ISREG(self._mode())

    def iterdir(self) -> Iterator["RemotePath"]:
        found = retried(self._url, lambda: self._upath.fs.ls(self._upath.path, detail=False))
        itself = self._upath.path.rstrip("/")  # some stores mark a folder by an empty file of its name
        inside = {name.rstrip("/") for name in found} - {itself}
        names = {name.rpartition("/")[2] for name in inside if not (self._is_http and {"?", "#"} & set(name))}
        return (self / name for name in sorted(names))

    def open(self, mode: str = "rb", buffering: int = -1) -> BinaryIO:
        """To read. ``buffering``: bytes of a buffer; 0: none, and no byte is requested that is not read.

        Raises:
            DataError: the store has no ranges.
        """
        if mode != "rb":
            raise ValueError(f"{self._url} can be read only, mode {mode!r}")
        if not buffering:
            return cast(BinaryIO, RemoteFile(self, read_ahead=0))
        return io.BufferedReader(RemoteFile(self), _BUFFER if buffering < 0 else buffering)

    def read_bytes(self) -> bytes:
        with self.open() as stream:
            return stream.read()

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def open_once(self) -> BinaryIO:
        """The store's own file, which neither keeps anything nor tries again. Raises what its package does."""
        return self._upath.fs.open(self._upath.path, "rb", cache_type="none")

    @property
    def checks_each_request(self) -> bool:
        return remote_stores.checks_each_request(self._url)

    @property
    def _is_http(self) -> bool:
        return remote_stores.protocol_of(self._url) in ("http", "https")

    @property
    def _upath(self) -> Any:
        # A filesystem's thread is not there in a process that was forked.
        if self._made is None or self._made[0] != os.getpid():
            self._made = os.getpid(), remote_stores.filesystem_path(self._url, self._given)
        return self._made[1]

    def _mode(self) -> int:
        try:
            return self.stat().st_mode
        except FileNotFoundError:
            return 0


def _status(info: dict[str, Any]) -> RemoteStatus:
    is_folder = info.get("type") == "directory" or urlsplit(info.get("url", "")).path.endswith("/")  # of HTTP
    tag = next((str(info[name]) for name in _TAGS if info.get(name)), "")
    partial = info.get("partial", True) and info.get("size") is not None
    mode = stat.S_IFDIR if is_folder else stat.S_IFREG
    return RemoteStatus(mode, int(info.get("size") or 0), _time_of(info), tag, partial)


def _time_of(info: dict[str, Any]) -> int:
    """Nanoseconds; 0: it is not said."""
    for name in ("mtime", "LastModified", "Last-Modified", "last_modified", "updated", "modified", "created"):
        said: Any = info.get(name)
        if isinstance(said, str):
            said = _parsed(said)
        if hasattr(said, "timestamp"):
            said = said.timestamp()
        if isinstance(said, (int, float)) and said > 0:
            return round(said * 1_000_000) * 1000
    return 0


def _parsed(said: str) -> datetime | None:
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            return parse(said.replace("Z", "+00:00"))
        except ValueError:
            pass
    return None
