"""Criteo files as one long sequence of rows, streamed in bounded memory.

A row's position is its line's number over all files (headers and nothing else left out), so that positions, and with
them splits, ranks and resuming, do not depend on which lines turn out to be malformed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torchrec_pss.datasets.bad_rows import BadRows, ReadFile
from torchrec_pss.datasets.columns import CRITEO, Columns
from torchrec_pss.datasets.criteo_folder import FoundFile, find_rows
from torchrec_pss.datasets.errors import DataChangedError
from torchrec_pss.datasets.file_signature import FileSignature, refuse_copies
from torchrec_pss.datasets.line_counts import num_lines
from torchrec_pss.datasets.line_stream import Lines, LineStream, count_lines
from torchrec_pss.datasets.locations import AnyPath, Location, is_remote
from torchrec_pss.datasets.rows import RowBlock, join_blocks
from torchrec_pss.datasets.schema import Schema
from torchrec_pss.datasets.splits import files_of_training
from torchrec_pss.datasets.text_rows import parse_text

_File = TypeVar("_File", bound=ReadFile)


@dataclass(frozen=True)
class CriteoFile:
    """A file, its dialect, its number of rows, what it is for (see `file_roles.arrange`), and what it was when the rows were
    counted."""

    path: Location
    delimiter: bytes
    has_header: bool
    num_rows: int
    role: str | None
    signature: FileSignature
    columns: Columns = CRITEO


def find_files(path: AnyPath) -> list[Location]:
    """Paths of the Criteo files that ``path`` names, in the order of their rows: see `criteo_folder.find_rows`."""
    return [found.path for found in find_rows(path)]


def open_files(path: AnyPath, cache_dir: str | Path | None = None, schema: Schema | None = None) -> list[CriteoFile]:
    """Finds the files, recognises their dialects and counts their rows. ``schema``: of other logs than Criteo's, as text.

    Counting reads every file once; with ``cache_dir`` the counts are kept there for the next run (by path, size,
    modification time and a sample of the content).

    Raises:
        FileNotFoundError, ValueError: see `criteo_folder.find_rows`.
        ValueError: a file that is unreadable or has no rows, two files of one content, or a cache that cannot be read or written.
    """
    files = [_counted(found, cache_dir) for found in find_rows(path, schema)]
    refuse_copies({file.path: file.signature for file in files})
    return files


def training_files(files: Sequence[_File]) -> list[_File]:
    """Those that have rows to train on, see `splits.split_files`."""
    trained_on = files_of_training([file.role for file in files])
    return [file for file, trains in zip(files, trained_on, strict=True) if trains]


def _counted(found: FoundFile, cache_dir: str | Path | None) -> CriteoFile:
    signature = FileSignature.of(found.path)
    has_header = found.dialect.has_header
    num_rows = num_lines(found.path, signature, cache_dir) - int(has_header)
    if num_rows < 1:
        raise ValueError(f"data file {found.path} has no rows")
    return CriteoFile(
        found.path, found.dialect.delimiter, has_header, num_rows, found.role, signature, found.dialect.columns
    )


class CriteoReader(BadRows[CriteoFile]):
    """A `RowSource` over text files.

    Args:
        files: from `open_files`.
        max_bad_rows: see `BadRows`.
    """

    def __init__(self, files: Sequence[CriteoFile], max_bad_rows: int = 100) -> None:
        super().__init__(files, max_bad_rows)
        self._nothing = (files[0].columns if files else CRITEO).nothing

    def read(self, windows: Iterator[range]) -> Iterator[RowBlock]:
        """One block for each window; windows ascend and do not overlap.

        Raises:
            BadRowsError: more than ``max_bad_rows`` malformed lines.
            DataChangedError: a file that is not what it was when its rows were counted.
            DataError: a file that is unreadable.
        """
        lines = _Lines(self.files)
        try:
            for window in windows:
                blocks = []
                for file, first_line, position, chunk in lines.take(window):
                    block, bad = parse_text(chunk, file.delimiter, file.columns)
                    for line in bad:
                        where = f"{file.path}:{first_line + line.position}: {line.reason}"
                        self.count_bad(where, position + line.position)
                    blocks.append(block)
                yield join_blocks(blocks or [self._nothing])
        finally:
            lines.close()


class _Lines:
    """A cursor over the lines of all files that only moves forward."""

    def __init__(self, files: Sequence[CriteoFile]) -> None:
        self._files = list(files)
        self._start = 0  # position of the current file's first row
        self._next = 0  # position of the next line to read
        self._stream: LineStream | None = None

    def take(self, window: range) -> Iterator[tuple[CriteoFile, int, int, Lines]]:
        """(file, number of the first line in the file, its position, lines) for each file that the window touches, and for each so many
        bytes of it."""
        position = window.start
        while position < window.stop:
            while position >= self._start + self._files[0].num_rows:
                self._next_file()
            file = self._files[0]
            lines = self._lines(file, position, min(window.stop, self._start + file.num_rows) - position)
            yield file, position - self._start + 1 + int(file.has_header), position, lines
            position = self._next

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _lines(self, file: CriteoFile, position: int, count: int) -> Lines:
        """Lines from ``position`` on, at least one; of a file that still is what was counted."""
        try:
            if self._stream is None:
                self._stream = LineStream(file.path, file.signature)
                self._next = self._start - int(file.has_header)
            self._stream.check_size()
            self._next += self._stream.skip(position - self._next)
            lines = self._stream.take(count if self._next == position else 0)
            if not len(lines):
                raise DataChangedError("it ends earlier")
            self._next += len(lines)
            if self._next == self._start + file.num_rows and len(self._stream.take(1)):
                raise DataChangedError("it goes on")
        except DataChangedError as error:
            raise DataChangedError(
                f"data file {file.path} has changed since its rows were counted: {file.num_rows:,} rows then, "
                f"{_rows_now(file)} now ({error})"
            ) from error
        return lines

    def _next_file(self) -> None:
        self._start += self._files.pop(0).num_rows
        self.close()


def _rows_now(file: CriteoFile) -> str:
    if is_remote(file.path):
        return "not counted"  # all of it would come over the network once more
    try:
        return f"{count_lines(file.path) - int(file.has_header):,}"
    except (FileNotFoundError, ValueError):
        return "none that can be read"
