"""Lines of a file, plain or packed by gzip, in bounded memory whatever a line holds."""

import gzip
import os
import zlib
from dataclasses import dataclass
from typing import IO

import numpy as np
from tqdm import tqdm

from torchrec_pss.datasets.errors import DataChangedError, DataError
from torchrec_pss.datasets.file_kinds import GZIP, UTF8_MARK, regular_file
from torchrec_pss.datasets.file_signature import FileSignature
from torchrec_pss.datasets.locations import Location, is_remote

LONGEST_LINE = 1 << 24  # bytes; a longer one is malformed
_CHUNK = 1 << 20  # at most a longest line
_HEAD_BYTES = 1 << 12
_NO_LINES = np.zeros(0, np.int64)
_COUNTED_AT_ONCE = 1 << 20
_UNREADABLE = (OSError, EOFError, zlib.error)


class CutLine(bytes):
    """Stands, empty, for a line that is too long to be kept.

    Attributes:
        length: its bytes.
    """

    length: int


@dataclass
class Lines:
    """Consecutive lines of a file.

    Attributes:
        text: what they are in, among others.
        first: where in it the first of them begins.
        ends: int64 ``[n]``, the place behind the last byte of each; where another one follows, a byte lies between.
        cut: what the first of them stands for, if that was too long to be kept.
    """

    text: bytes
    first: int
    ends: np.ndarray
    cut: CutLine | None = None

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, place: int) -> bytes:
        if place == 0 and self.cut is not None:
            return self.cut
        return self.text[self.first if place == 0 else self.ends[place - 1] + 1 : self.ends[place]]

    def split(self) -> list[bytes]:
        return [self[place] for place in range(len(self))]


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

    def __init__(self, path: Location, signature: FileSignature | None = None) -> None:
        self.path = path
        self._size = None if signature is None else signature.size
        self._raw = _open_unchanged(path, signature)
        try:
            packed = self._raw.read(len(GZIP)) == GZIP
            self._raw.seek(0)
        except OSError as error:
            raise self._unreadable(error) from error
        self._stream = gzip.GzipFile(fileobj=self._raw, mode="rb") if packed else self._raw
        self._text, self._ends = b"", _NO_LINES  # whole lines, see `Lines`
        self._first_cut: CutLine | None = None  # of those
        self._at = 0  # the next of them to hand out
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
        if is_remote(self.path):
            return  # it is looked at with each request
        size = os.fstat(self._raw.fileno()).st_size
        if self._size is not None and size != self._size:
            raise DataChangedError(f"{self._size:,} bytes then, {size:,} now")

    def take(self, count: int) -> Lines:
        """The next lines, at most ``count`` and so many as lie together; none: the file has ended, or ``count`` is 0."""
        while count and self._at == len(self._ends) and not self._ended:
            self._split(self._read())
        at, stop = self._at, min(self._at + count, len(self._ends))
        self._at = stop
        first = int(self._ends[at - 1]) + 1 if at else 0
        return Lines(self._text, first, self._ends[at:stop], None if at else self._first_cut)

    def skip(self, count: int) -> int:
        """Passes over as many lines; how many there were."""
        skipped = min(count, len(self._ends) - self._at)
        self._at += skipped
        while skipped < count and not self._ended:
            chunk = self._read()
            ends = chunk.count(self._newline)
            if chunk and 0 < ends <= count - skipped:
                # All of its lines are passed over: they need not be told apart.
                skipped += ends
                self._hold(b"", _NO_LINES)
                self._tail, self._cut = chunk[chunk.rfind(self._newline) + 1 :], 0
                continue
            self._split(chunk)
            here = min(count - skipped, len(self._ends))
            self._at = here
            skipped += here
        return skipped

    def _hold(self, text: bytes, ends: np.ndarray, cut: CutLine | None = None) -> None:
        self._text, self._ends, self._first_cut, self._at = text, ends, cut, 0

    def _split(self, chunk: bytes) -> None:
        """Takes over what was read: whole lines are held, and the rest is the tail."""
        if not chunk:
            self._ended = True
            text = self._whole(self._tail) if self._tail or self._cut else None
            self._tail, self._cut = b"", 0
            self._hold(*((b"", _NO_LINES) if text is None else (text, np.array([len(text)]), _cut_or_none(text))))
            return
        ends = np.flatnonzero(np.frombuffer(chunk, np.uint8) == self._newline[0])
        if not len(ends):
            self._hold(b"", _NO_LINES)
            if len(self._tail) + len(chunk) <= LONGEST_LINE and not self._cut:
                self._tail += chunk
            else:
                self._cut += len(self._tail) + len(chunk)
                self._tail = b""
            return
        first, last = int(ends[0]), int(ends[-1])
        line = self._whole(self._tail + chunk[:first])
        self._tail, self._cut = chunk[last + 1 :], 0
        self._hold(line + chunk[first : last + 1], ends + (len(line) - first), _cut_or_none(line))

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


def _cut_or_none(line: bytes) -> CutLine | None:
    return line if isinstance(line, CutLine) else None


def _open_unchanged(path: Location, signature: FileSignature | None) -> IO[bytes]:
    try:
        status = regular_file(path, "data file")
        stream = path.open("rb", _CHUNK) if is_remote(path) else open(path, "rb", buffering=_CHUNK)  # noqa: SIM115
    except FileNotFoundError as error:
        if signature is None:
            raise
        raise DataChangedError("it is not there any more") from error
    except OSError as error:
        raise DataError(f"data file {path} is unreadable: {error}") from error
    # A copy, or a file that was touched, has another time and the same content.
    if signature is not None and not signature.fits(status):
        difference = signature.difference(FileSignature.of(path))
        if difference:
            stream.close()
            raise DataChangedError(difference)
    return stream


def count_lines(path: Location) -> int:
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
