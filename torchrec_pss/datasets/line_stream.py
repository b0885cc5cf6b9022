"""Lines of a file, plain or packed by gzip, in bounded memory whatever a line holds."""

import gzip
import os
import zlib
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from torchrec_pss.datasets.errors import DataChangedError, DataError
from torchrec_pss.datasets.file_kinds import GZIP, UTF8_MARK, regular_file
from torchrec_pss.datasets.file_signature import FileSignature

LONGEST_LINE = 1 << 24  # bytes; a longer one is malformed
_CHUNK = 1 << 20  # at most a longest line
_HEAD_BYTES = 1 << 12
# What `LineStream.take` hands out at once, or one line more.
_TAKEN_BYTES = 1 << 25
_TAKEN_LINES = 1 << 12
_COUNTED_AT_ONCE = 1 << 20
_UNREADABLE = (OSError, EOFError, zlib.error)


class CutLine(bytes):
    """Stands, empty, for a line that is too long to be kept.

    Attributes:
        length: its bytes.
    """

    length: int


class LineStream:
    """A cursor over a file's lines that only moves forward. Lines come without their line feeds; where the first MiB has none,
    carriage returns end lines.

    Args:
        path: the file. A UTF-8 byte order mark at its beginning is skipped.
        signature: what the file was when its rows were counted; None: it may be anything.

    Attributes:
        head: the file's first bytes, unpacked.

    Raises:
        DataChangedError: the file has another size or other content.
        DataError: it is unreadable.
    """

    def __init__(self, path: Path, signature: FileSignature | None = None) -> None:
        self.path = path
        self._size = None if signature is None else signature.size
        self._raw = _open_unchanged(path, signature)
        try:
            packed = self._raw.read(len(GZIP)) == GZIP
            self._raw.seek(0)
        except OSError as error:
            raise self._unreadable(error) from error
        self._stream = gzip.GzipFile(fileobj=self._raw, mode="rb") if packed else self._raw
        self._lines: list[bytes] = []
        self._at = 0  # of self._lines, the next to hand out
        self._tail = b""  # what follows the last line's end
        self._cut = 0  # bytes of the line in hand that were dropped
        self._ended = False
        chunk = self._read()
        self.head = chunk[:_HEAD_BYTES]
        self._newline = b"\r" if b"\r" in chunk and b"\n" not in chunk else b"\n"
        self._split(chunk.removeprefix(UTF8_MARK))

    def close(self) -> None:
        self._stream.close()
        self._raw.close()

    def check_size(self) -> None:
        """Raises:
        DataChangedError: the file that is being read has grown or shrunk."""
        size = os.fstat(self._raw.fileno()).st_size
        if self._size is not None and size != self._size:
            raise DataChangedError(f"{self._size:,} bytes then, {size:,} now")

    def take(self, count: int) -> list[bytes]:
        """The next lines, at most ``count`` and so many as are handled at once; none: the file has ended."""
        count = min(count, _TAKEN_LINES)
        taken: list[bytes] = []
        num_bytes = 0
        while len(taken) < count and (num_bytes < _TAKEN_BYTES or not taken):
            if self._at == len(self._lines):
                if self._ended:
                    break
                chunk = self._read()
                self._split(chunk)
                num_bytes += len(chunk)
                continue
            here = self._lines[self._at : self._at + count - len(taken)]
            self._at += len(here)
            taken += here
        return taken

    def skip(self, count: int) -> int:
        """Passes over as many lines; how many there were."""
        skipped = min(count, len(self._lines) - self._at)
        self._at += skipped
        while skipped < count and not self._ended:
            chunk = self._read()
            ends = chunk.count(self._newline)
            if chunk and 0 < ends <= count - skipped:
                # All of its lines are passed over: they need not be told apart.
                skipped += ends
                self._lines, self._at = [], 0
                self._tail, self._cut = chunk[chunk.rfind(self._newline) + 1 :], 0
                continue
            self._split(chunk)
            here = min(count - skipped, len(self._lines))
            self._at = here
            skipped += here
        return skipped

    def _split(self, chunk: bytes) -> None:
        self._at = 0
        if not chunk:
            self._ended = True
            self._lines = [self._whole(self._tail)] if self._tail or self._cut else []
            self._tail, self._cut = b"", 0
            return
        first, *rest = chunk.split(self._newline)
        if not rest and len(self._tail) + len(first) <= LONGEST_LINE and not self._cut:
            self._lines, self._tail = [], self._tail + first
            return
        if not rest:
            self._cut += len(self._tail) + len(first)
            self._lines, self._tail = [], b""
            return
        tail = rest.pop()
        self._lines = [self._whole(self._tail + first), *rest]
        self._tail, self._cut = tail, 0

    def _whole(self, end: bytes) -> bytes:
        """The line that ends so; what stands for it, where it is too long."""
        length = self._cut + len(end)
        if length <= LONGEST_LINE:
            return end
        line = CutLine()
        line.length = length
        return line

    def _read(self) -> bytes:
        try:
            return self._stream.read(_CHUNK)
        except _UNREADABLE as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> DataError:
        return DataError(f"data file {self.path} is unreadable: {error}")


def _open_unchanged(path: Path, signature: FileSignature | None) -> BinaryIO:
    try:
        status = regular_file(path, "data file")
        stream = open(path, "rb", buffering=_CHUNK)  # noqa: SIM115
    except FileNotFoundError as error:
        if signature is None:
            raise
        raise DataChangedError("it is not there any more") from error
    except OSError as error:
        raise DataError(f"data file {path} is unreadable: {error}") from error
    # A copy, or a file that was touched, has another time and the same content.
    if signature is not None and (status.st_size, status.st_mtime_ns) != (signature.size, signature.mtime_ns):
        difference = signature.difference(FileSignature.of(path))
        if difference:
            stream.close()
            raise DataChangedError(difference)
    return stream


def count_lines(path: Path) -> int:
    """Lines of a file, the last of them with its end or without.

    Raises:
        FileNotFoundError, ValueError: see `LineStream`.
    """
    stream = LineStream(path)
    try:
        with tqdm(desc=f"counting {path.name}", unit="line", unit_scale=True, delay=5) as bar:
            while skipped := stream.skip(_COUNTED_AT_ONCE):
                bar.update(skipped)
            return bar.n
    finally:
        stream.close()
