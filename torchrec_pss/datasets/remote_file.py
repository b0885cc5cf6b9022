"""`RemoteFile`: the bytes of a store's file, by requests of ranges that are repeated where they fail."""

import io
from typing import TYPE_CHECKING, Any, BinaryIO

from torchrec_pss.datasets.errors import DataChangedError, DataError
from torchrec_pss.datasets.remote_errors import is_missing, retried

if TYPE_CHECKING:
    from torchrec_pss.datasets.remote_path import RemotePath

_READ_AHEAD = 1 << 23


class RemoteFile(io.RawIOBase):
    """A stream that may be read from any place. What is read in one go is requested in growing blocks, of which one is held.

    Args:
        path: the file.
        read_ahead: the largest block, bytes; 0: what is read is requested, and no more.

    Raises:
        FileNotFoundError, OSError: see `retried`.
        DataError: the store cannot serve ranges.
    """

    def __init__(self, path: "RemotePath", read_ahead: int = _READ_AHEAD) -> None:
        self._path, self._read_ahead = path, read_ahead
        self._status = path.stat()
        if not self._status.has_ranges:
            raise self._without_ranges()
        self._at = 0
        self._held, self._first = b"", 0  # a block, and where it begins
        self._file: BinaryIO | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def size(self) -> int:
        return self._status.st_size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._status.st_size}[whence]
        self._at = max(start + offset, 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """As many bytes as there is room for, unless the file ends.

        Raises:
            DataChangedError: the file is not what it was when it was opened; says how.
            OSError: see `retried`.
        """
        into = memoryview(buffer).cast("B")
        wanted = min(len(into), max(self._status.st_size - self._at, 0))
        done = 0
        while done < wanted:
            skip = self._at - self._first
            if not 0 <= skip < len(self._held):
                self._fetch(wanted - done)
                skip = 0
            part = memoryview(self._held)[skip : skip + wanted - done]
            into[done : done + len(part)] = part
            done += len(part)
            self._at += len(part)
        return done

    def close(self) -> None:
        self._let_go()
        super().close()

    def _fetch(self, wanted: int) -> None:
        goes_on = self._held and self._at == self._first + len(self._held)
        if goes_on:
            wanted = max(wanted, min(2 * len(self._held), self._read_ahead))
        wanted = min(wanted, self._status.st_size - self._at)
        self._held = b""  # one block at a time
        self._held, self._first = retried(str(self._path), lambda: self._request(wanted)), self._at

    def _request(self, wanted: int) -> bytes:
        """Once. After an error the file is opened anew, at the same place."""
        opens = self._file is None
        try:
            self._file = self._file or self._path.open_once()
            self._file.seek(self._at)
            content = self._file.read(wanted)
            # Afterwards: what has changed before the answer is seen.
            if opens or not self._path.checks_each_request:
                self._check_unchanged()
        except Exception as error:
            self._let_go()
            if is_missing(error) or type(error).__name__ == "FileExpired":  # s3fs's, by If-Match
                self._check_unchanged()
            if isinstance(error, ValueError) and "range requests" in str(error):  # fsspec's HTTP
                raise self._without_ranges() from error
            raise
        if len(content) != wanted:
            self._let_go()
            self._check_unchanged()
            raise ConnectionError(f"{len(content):,} of {wanted:,} bytes came")
        return content

    def _check_unchanged(self) -> None:
        try:
            difference = self._status.difference(self._path.stat_once())
        except Exception as error:
            if not is_missing(error):
                raise
            difference = "it is not there any more"
        if difference:
            raise DataChangedError(difference)

    def _let_go(self) -> None:
        file, self._file = getattr(self, "_file", None), None
        if file is not None:
            file.close()

    def _without_ranges(self) -> DataError:
        return DataError(
            f"data file {self._path} cannot be read from any place: its server has no ranges; copy it to this machine"
        )
