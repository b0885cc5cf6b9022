"""`ParquetReader`: rows of Parquet files, by a schema; only its columns are read, and only the row groups that are wanted."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from torchrec_pss.datasets.arrow_rows import ArrowRows
from torchrec_pss.datasets.bad_rows import BadRows
from torchrec_pss.datasets.errors import DataChangedError, DataError
from torchrec_pss.datasets.file_signature import FileSignature
from torchrec_pss.datasets.locations import is_remote
from torchrec_pss.datasets.parquet_files import ParquetFile, opened_parquet
from torchrec_pss.datasets.rows import RowBlock, join_blocks
from torchrec_pss.datasets.schema import Schema

_ROWS = 1 << 14  # decoded at a time


class ParquetReader(BadRows[ParquetFile]):
    """A `RowSource` over Parquet files.

    Args:
        files: from `open_parquet`.
        schema: likewise.
        max_bad_rows: see `BadRows`.
    """

    def __init__(self, files: Sequence[ParquetFile], schema: Schema, max_bad_rows: int = 100) -> None:
        super().__init__(files, max_bad_rows)
        self.schema = schema
        self._rows = ArrowRows(schema)

    def read(self, windows: Iterator[range]) -> Iterator[RowBlock]:
        """One block for each window; windows ascend and do not overlap.

        Raises:
            BadRowsError: more than ``max_bad_rows`` malformed rows: a label that is not 0 or 1, or a number that is not finite.
            DataChangedError: a file that is not what it was when it was opened first.
            DataError: a file that is unreadable.
        """
        files, start = list(self.files), 0
        rows: _Rows | None = None
        for window in windows:
            blocks, position = [], window.start
            while position < window.stop:
                while position >= start + files[0].num_rows:
                    start, rows = start + files.pop(0).num_rows, None
                rows = rows or _Rows(files[0], self.schema)
                stop = min(window.stop - start, files[0].num_rows)
                for first, part in rows.take(range(position - start, stop)):
                    block, bad = self._rows.block(part)
                    for left_out in bad:
                        row = first + left_out.row
                        self.count_bad(f"{files[0].path}, row {row + 1}: {left_out.reason}", start + row)
                    blocks.append(block)
                position = start + stop
            yield join_blocks(blocks or [self._rows.columns.nothing])


class _Rows:
    """A cursor over a file's rows that only moves forward."""

    def __init__(self, file: ParquetFile, schema: Schema) -> None:
        self._signature = file.signature
        self._path = file.path
        self._check_unchanged()
        self._file = opened_parquet(file.path)
        self._constants = file.constants
        self._columns = [name for name in schema.used if name not in file.constants]
        groups = [self._file.metadata.row_group(g).num_rows for g in range(self._file.num_row_groups)]
        self._ends = np.cumsum(groups)  # rows up to that of each group
        self._batches: Iterator[Any] = iter(())
        self._group, self._start = -1, 0
        self._held: Any = None  # the batch in hand, and its first row

    def _check_unchanged(self) -> None:
        """
        Raises:
            DataChangedError: it has another size, or another time and other content.
            DataError: nobody can tell.
        """
        try:
            status = self._path.stat()
            if self._signature.fits(status):
                return
            difference = self._signature.difference(FileSignature.of(self._path))
        except FileNotFoundError:
            difference = "it is not there any more"
        except OSError as error:
            raise DataError(f"data file {self._path} is unreadable: {error}") from error
        if difference:
            raise DataChangedError(f"data file {self._path} has changed since it was opened first: {difference}")

    def take(self, rows: range) -> Iterator[tuple[int, Any]]:
        """Record batches of those rows, each with its first row."""
        position = rows.start
        while position < rows.stop:
            while self._held is None or position >= self._start + self._held.num_rows:
                self._next(position)
            skip = position - self._start
            part = self._held.slice(skip, min(rows.stop, self._start + self._held.num_rows) - position)
            yield position, self._with_constants(part)
            position += part.num_rows

    def _with_constants(self, part: Any) -> Any:
        import pyarrow as pa

        if not self._constants:
            return part
        kinds = {name: pa.int64() if isinstance(value, int) else pa.string() for name, value in self._constants.items()}
        more = [pa.repeat(pa.scalar(value, kinds[name]), part.num_rows) for name, value in self._constants.items()]
        return pa.RecordBatch.from_arrays([*part.columns, *more], [*part.schema.names, *kinds])

    def _next(self, position: int) -> None:
        from pyarrow import ArrowException

        if not is_remote(self._path):  # which is looked at with each request
            self._check_unchanged()
        group = int(np.searchsorted(self._ends, position, side="right"))
        self._start += 0 if self._held is None else self._held.num_rows
        try:
            if group != self._group:
                self._group, self._start = group, int(self._ends[group - 1]) if group else 0
                self._batches = self._file.iter_batches(
                    _ROWS, row_groups=[group], columns=self._columns, use_threads=False
                )
            self._held = next(self._batches)
        except DataChangedError as error:
            raise DataChangedError(f"data file {self._path} has changed since it was opened first: {error}") from error
        except (ArrowException, OSError, StopIteration) as error:
            said = str(error).splitlines()[0] if str(error) else "it ends earlier than it says"
            raise DataError(f"data file {self._path} is unreadable: row group {group}: {said}") from error
