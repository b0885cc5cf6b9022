"""`location`: where data lie, on this machine or in a store that a URL names. Code behind it takes both alike."""

import re
from pathlib import Path

from torchrec_pss.datasets.remote_path import RemotePath

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_LOCAL = ("file://", "local://")


def location(path: str | Path | RemotePath) -> Path | RemotePath:
    """A `Path` of a local path or a ``file://`` URL; of another URL, or a `UPath` with options of its own, a `RemotePath`,
    which has what readers use of a `Path`. Annotations behind it say `Path`.

    Raises:
        DataError: a protocol that is not known, or whose package is missing; says what to install.
    """
    if isinstance(path, (Path, RemotePath)):
        return path
    protocol, mark, rest = str(path).partition("://")
    url = f"{protocol.lower() if mark else protocol}{mark}{rest}"
    if url.startswith(_LOCAL):
        return Path(url.partition("://")[2])
    if not _URL.match(url):
        return Path(url)
    return RemotePath(url, dict(getattr(path, "storage_options", {})))


def is_remote(path: Path | RemotePath) -> bool:
    return isinstance(path, RemotePath)
