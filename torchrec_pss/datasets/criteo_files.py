"""Criteo files as one long sequence of rows, streamed in bounded memory.

A row's position is its line's number over all files (headers and nothing else left out), so that positions, and with
them splits, ranks and resuming, do not depend on which lines turn out to be malformed.
"""

import gzip
import json
import logging
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from torchrec_pss.datasets.criteo_lines import parse_lines
from torchrec_pss.datasets.rows import RowBlock, join_blocks
from torchrec_pss.whole_file import write_json

logger: logging.Logger = logging.getLogger(__name__)

_SUFFIXES = (".txt", ".tsv", ".csv", ".txt.gz", ".tsv.gz", ".csv.gz")
_SHOWN_BAD_LINES = 5
_GZIP = b"\x1f\x8b"
_NOT_READ = {b"\xfd7zXZ": "xz", b"BZh": "bzip2", b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zstd"}


class BadRowsError(ValueError):
    """More malformed lines than allowed."""


@dataclass(frozen=True)
class CriteoFile:
    """A file, its dialect and its number of rows."""

    path: Path
    delimiter: bytes
    has_header: bool
    num_rows: int


def find_files(path: str | Path) -> list[Path]:
    """The Criteo files that ``path`` names, in time order: itself, or of a folder the ``day_*`` files by number, else
    ``train.txt`` (Kaggle), else every text file by name.

    Raises:
        FileNotFoundError: no such path, or a folder without such files.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"data path {path} does not exist")
    days = [p for p in path.iterdir() if re.fullmatch(r"day_\d+(\.gz)?", p.name)]
    if days:
        return sorted(days, key=lambda p: int(re.findall(r"\d+", p.name)[0]))
    kaggle = [path / name for name in ("train.txt", "train.txt.gz") if (path / name).is_file()]
    files = kaggle[:1] or sorted(p for p in path.iterdir() if p.name.endswith(_SUFFIXES))
    if not files:
        raise FileNotFoundError(f"no Criteo file (day_*, train.txt, or any of {', '.join(_SUFFIXES)}) in folder {path}")
    return files


def open_files(path: str | Path, cache_dir: str | Path | None = None) -> list[CriteoFile]:
    """Finds the files, recognises their dialects and counts their rows.

    Counting reads every file once; with ``cache_dir`` the counts are kept there for the next run (by path, size and
    modification time).

    Raises:
        FileNotFoundError: see `find_files`.
        ValueError: a file that is unreadable, empty, or no Criteo file by its first line.
    """
    return [_inspect(p, cache_dir) for p in find_files(path)]


class CriteoReader:
    """A `RowSource` over Criteo files.

    Args:
        files: from `open_files`.
        max_bad_rows: how many malformed lines to leave out before giving up; each is counted, and the first few are
            logged with file, line and reason.
    """

    def __init__(self, files: Sequence[CriteoFile], max_bad_rows: int = 100) -> None:
        self.files = list(files)
        self.max_bad_rows = max_bad_rows
        self.num_bad_rows = 0
        self._first_bad = ""

    @property
    def rows_per_file(self) -> list[int]:
        return [f.num_rows for f in self.files]

    def read(self, windows: Iterator[range]) -> Iterator[RowBlock]:
        """One block for each window; windows ascend and do not overlap.

        Raises:
            BadRowsError: more than ``max_bad_rows`` malformed lines.
        """
        lines = _Lines(self.files)
        for window in windows:
            blocks = []
            for file, first_line, chunk in lines.take(window):
                block, bad = parse_lines(chunk, file.delimiter)
                for line in bad:
                    self._count_bad(file, first_line + line.position, line.reason)
                blocks.append(block)
            yield join_blocks(blocks)

    def _count_bad(self, file: CriteoFile, line: int, reason: str) -> None:
        self.num_bad_rows += 1
        where = f"{file.path}:{line}: {reason}"
        self._first_bad = self._first_bad or where
        if self.num_bad_rows <= min(_SHOWN_BAD_LINES, self.max_bad_rows):
            logger.warning("left out a malformed line: %s", where)
        if self.num_bad_rows > self.max_bad_rows:
            raise BadRowsError(
                f"{self.num_bad_rows} malformed lines, more than --max_bad_rows {self.max_bad_rows}; "
                f"the first: {self._first_bad}; the last: {where}"
            )


class _Lines:
    """A cursor over the lines of all files that only moves forward."""

    def __init__(self, files: Sequence[CriteoFile]) -> None:
        self._files = list(files)
        self._start = 0  # position of the current file's first row
        self._next = 0  # position of the next line to read
        self._stream: BinaryIO | None = None

    def take(self, window: range) -> Iterator[tuple[CriteoFile, int, list[bytes]]]:
        """(file, number of the first line in the file, lines) for each file that the window touches."""
        position = window.start
        while position < window.stop:
            while position >= self._start + self._files[0].num_rows:
                self._next_file()
            file = self._files[0]
            if self._stream is None:
                self._stream = _open(file.path)
                next(islice(self._stream, int(file.has_header), int(file.has_header)), None)
                self._next = self._start
            skip = position - self._next
            next(islice(self._stream, skip, skip), None)
            stop = min(window.stop, self._start + file.num_rows)
            lines = list(islice(self._stream, stop - position))
            self._next = stop
            yield file, position - self._start + 1 + int(file.has_header), lines
            position = stop

    def _next_file(self) -> None:
        self._start += self._files.pop(0).num_rows
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _open(path: Path) -> BinaryIO:
    """The lines' bytes; gzip is told by what the file begins with, whatever its name."""
    with open(path, "rb") as stream:
        packed = stream.read(len(_GZIP)) == _GZIP
    return gzip.open(path, "rb") if packed else open(path, "rb", buffering=1 << 20)


def _inspect(path: Path, cache_dir: str | Path | None) -> CriteoFile:
    try:
        with _open(path) as stream:
            first = stream.readline(1 << 16)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"data file {path} is unreadable: {error}") from error
    for magic, packer in _NOT_READ.items():
        if first.startswith(magic):
            raise ValueError(f"data file {path} is packed by {packer}: unpack it, or pack it by gzip")
    if not first.strip():
        raise ValueError(f"data file {path} is empty")
    delimiter = b"\t" if first.count(b"\t") >= first.count(b",") else b","
    if delimiter not in first:
        raise ValueError(f"data file {path} is no Criteo file: its first line has neither tabs nor commas")
    has_header = first.split(delimiter)[0].strip().strip(b'"').lower() == b"label"
    num_rows = _count_lines(path, cache_dir) - int(has_header)
    if num_rows < 1:
        raise ValueError(f"data file {path} has no rows")
    return CriteoFile(path, delimiter, has_header, num_rows)


def _count_lines(path: Path, cache_dir: str | Path | None) -> int:
    stat = path.stat()
    key = f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
    cache = Path(cache_dir) / "line_counts.json" if cache_dir is not None else None
    counts = {}
    if cache is not None and cache.exists():
        try:
            counts = json.loads(cache.read_text())
        except ValueError:
            logger.warning("ignoring the unreadable cache %s", cache)
    if key not in counts:
        counts[key] = _count(path)
        if cache is not None:
            write_json(cache, counts)
    return counts[key]


def _count(path: Path) -> int:
    lines, last = 0, b"\n"
    try:
        with _open(path) as stream, tqdm(desc=f"counting {path.name}", unit="B", unit_scale=True, delay=5) as bar:
            while chunk := stream.read(1 << 22):
                lines += chunk.count(b"\n")
                last = chunk[-1:]
                bar.update(len(chunk))
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"data file {path} is unreadable: {error}") from error
    return lines + (last != b"\n")
