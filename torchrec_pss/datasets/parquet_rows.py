"""`ParquetReader`: rows of Parquet files, by a schema; only its columns are read, and only the row groups that are wanted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torchrec_pss.datasets.bad_rows import BadRows
from torchrec_pss.datasets.criteo_lines import MISSING_ID, dense_values
from torchrec_pss.datasets.errors import DataChangedError, DataError
from torchrec_pss.datasets.file_kinds import regular_file
from torchrec_pss.datasets.file_roles import arrange, check_doubled
from torchrec_pss.datasets.file_signature import FileSignature
from torchrec_pss.datasets.rows import RowBlock, empty_block, join_blocks
from torchrec_pss.datasets.schema import Schema
from torchrec_pss.datasets.text_rows import ids_in

_MAGIC = b"PAR1"
_SUFFIXES = (".parquet", ".pq")
_NOT_DATA = (".", "_")  # what the names of hidden files and of others' marks begin with
_ROWS = 1 << 14  # decoded at a time
_INTEGERS, _TEXTS = "whole numbers", "text"


@dataclass(frozen=True)
class ParquetFile:
    """A file, its number of rows, what it is for (see `file_roles.arrange`), and what it was when it was opened first."""

    path: Path
    num_rows: int
    role: str | None
    signature: FileSignature
    texts: tuple[str, ...] = ()  # sparse columns that hold text


def is_parquet(path: str | Path) -> bool:
    """Whether a file is one, or a folder that has some."""
    path = Path(path)
    try:
        if path.is_dir():
            return bool(_names(path))
        with open(path, "rb") as stream:
            return stream.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def open_parquet(path: str | Path, schema: Schema) -> list[ParquetFile]:
    """The files that ``path`` names, itself or those of a folder that end in .parquet or .pq, in the order of their rows.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a file that cannot be read, a column that is missing or of a type that is not taken, one that has another type in another
            file, or names that cannot be understood together; names file and column.
    """
    path = Path(path)
    if path.is_dir():
        names = _names(path)
        try:
            check_doubled(names)
            found = [(path / name, role) for name, role in arrange(names)]
        except ValueError as error:
            raise ValueError(f"data folder {path}: {error}") from error
    else:
        regular_file(path, "data file")
        found = [(path, None)]
    files, kinds = [], {}
    for file, role in found:
        signature, opened = FileSignature.of(file), _opened(file)
        here = _kinds(file, opened.schema_arrow, schema)
        for name, kind in here.items():
            first, before = kinds.setdefault(name, (file, kind))
            if kind != before:
                raise ValueError(
                    f"data file {file}: the column {name!r} holds {kind}, and {before} in {first}: their ids would differ"
                )
        if opened.metadata.num_rows < 1:
            raise ValueError(f"data file {file} has no rows")
        texts = tuple(name for name, kind in here.items() if kind == _TEXTS)
        files.append(ParquetFile(file, opened.metadata.num_rows, role, signature, texts))
    return files


def _names(folder: Path) -> list[str]:
    return sorted(
        p.name for p in folder.iterdir() if p.name.lower().endswith(_SUFFIXES) and not p.name.startswith(_NOT_DATA)
    )


def _opened(path: Path):
    """
    Raises:
        DataError: it is no Parquet that can be read, or pyarrow is missing.
    """
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise DataError(f"data file {path}: Parquet needs pyarrow (pip install pyarrow)") from error
    try:
        return parquet.ParquetFile(path)
    except (ArrowException, OSError, ValueError) as error:
        raise DataError(f"data file {path} is no Parquet that can be read: {str(error).splitlines()[0]}") from error


def _kinds(path: Path, types, schema: Schema) -> dict[str, str]:
    """Of each sparse column what it holds.

    Raises:
        ValueError: a column is missing, or of a type that is not taken; names it.
    """
    from pyarrow import types as is_

    try:
        schema.columns(types.names)
    except ValueError as error:
        raise ValueError(f"data file {path}: {error}") from error
    kinds = {}
    for name in (schema.label, *schema.dense):
        kind = types.field(name).type
        if not (is_.is_boolean(kind) or is_.is_integer(kind) or is_.is_floating(kind)):
            raise ValueError(
                f"data file {path}: the column {name!r} is {kind}, and must be a whole or floating-point number: cast it"
            )
    for name in schema.sparse:
        kind = types.field(name).type
        inside = kind.value_type if is_.is_dictionary(kind) else kind
        if is_.is_integer(inside) or is_.is_boolean(inside):
            kinds[name] = _INTEGERS
        elif (
            is_.is_string(inside) or is_.is_large_string(inside) or is_.is_binary(inside) or is_.is_large_binary(inside)
        ):
            kinds[name] = _TEXTS
        else:
            hint = ": bags are not read" if is_.is_list(inside) or is_.is_large_list(inside) else ": cast it"
            raise ValueError(
                f"data file {path}: the column {name!r} is {kind}, and must be whole numbers or text{hint}"
            )
    return kinds


class ParquetReader(BadRows):
    """A `RowSource` over Parquet files.

    Args:
        files: from `open_parquet`.
        schema: likewise.
        max_bad_rows: see `BadRows`.
    """

    def __init__(self, files: Sequence[ParquetFile], schema: Schema, max_bad_rows: int = 100) -> None:
        super().__init__(max_bad_rows)
        self.files, self.schema = list(files), schema
        self._plain = schema.columns([schema.label, *schema.dense, *schema.sparse])

    @property
    def rows_per_file(self) -> list[int]:
        return [f.num_rows for f in self.files]

    @property
    def roles(self) -> list[str | None]:
        return [f.role for f in self.files]

    @property
    def signatures(self) -> list[FileSignature]:
        return [f.signature for f in self.files]

    def read(self, windows: Iterator[range]) -> Iterator[RowBlock]:
        """One block for each window; windows ascend and do not overlap.

        Raises:
            BadRowsError: more than ``max_bad_rows`` malformed rows: a label that is not 0 or 1, or a number that is not finite.
            DataChangedError: a file that is not what it was when it was opened first.
            DataError: a file that is unreadable.
        """
        files, start, rows = list(self.files), 0, None
        nothing = empty_block(len(self.schema.dense), len(self.schema.sparse))
        for window in windows:
            blocks, position = [], window.start
            while position < window.stop:
                while position >= start + files[0].num_rows:
                    start, rows = start + files.pop(0).num_rows, None
                rows = rows or _Rows(files[0], self.schema)
                stop = min(window.stop - start, files[0].num_rows)
                for first, part in rows.take(range(position - start, stop)):
                    blocks.append(self._block(files[0].path, first, part))
                position = start + stop
            yield join_blocks(blocks or [nothing])

    def _block(self, path: Path, first: int, rows) -> RowBlock:
        """Of a record batch, whose first row is the file's ``first``."""
        labels = _numbers(rows.column(self.schema.label), np.nan)
        raw = np.empty((len(labels), len(self.schema.dense)))
        for place, name in enumerate(self.schema.dense):
            raw[:, place] = _numbers(rows.column(name), 0)
        ids = np.stack([_ids(rows.column(name)) for name in self.schema.sparse])
        finite = np.isfinite(raw)
        good = finite.all(axis=1) & ((labels == 0) | (labels == 1))
        for row in np.flatnonzero(~good):
            name, value = self.schema.label, labels[row]
            if value in (0, 1):
                place = int(np.argmin(finite[row]))
                name, value = self.schema.dense[place], raw[row, place]
            shown = "missing" if name == self.schema.label and np.isnan(value) else value
            wanted = "0 or 1" if name == self.schema.label else "a finite number"
            self.count_bad(f"{path}, row {first + row + 1}: {name} is {shown}, not {wanted}")
        if good.all():
            return RowBlock(dense_values(raw, self._plain), ids, labels.astype(np.float32))
        return RowBlock(dense_values(raw[good], self._plain), ids[:, good], labels[good].astype(np.float32))


class _Rows:
    """A cursor over a file's rows that only moves forward."""

    def __init__(self, file: ParquetFile, schema: Schema) -> None:
        difference = file.signature.difference(FileSignature.of(file.path))
        if difference:
            raise DataChangedError(f"data file {file.path} has changed since it was opened first: {difference}")
        self._path, self._file = file.path, _opened(file.path)
        self._columns = [schema.label, *schema.dense, *schema.sparse]
        groups = [self._file.metadata.row_group(g).num_rows for g in range(self._file.num_row_groups)]
        self._ends = np.cumsum(groups)  # rows up to that of each group
        self._batches: Iterator = iter(())
        self._group, self._start, self._held = -1, 0, None  # the batch in hand, and its first row

    def take(self, rows: range) -> Iterator[tuple[int, object]]:
        """Record batches of those rows, each with its first row."""
        position = rows.start
        while position < rows.stop:
            while self._held is None or position >= self._start + self._held.num_rows:
                self._next(position)
            skip = position - self._start
            part = self._held.slice(skip, min(rows.stop, self._start + self._held.num_rows) - position)
            yield position, part
            position += part.num_rows

    def _next(self, position: int) -> None:
        from pyarrow import ArrowException

        group = int(np.searchsorted(self._ends, position, side="right"))
        self._start += 0 if self._held is None else self._held.num_rows
        try:
            if group != self._group:
                self._group, self._start = group, int(self._ends[group - 1]) if group else 0
                self._batches = self._file.iter_batches(
                    _ROWS, row_groups=[group], columns=self._columns, use_threads=False
                )
            self._held = next(self._batches)
        except (ArrowException, OSError, StopIteration) as error:
            said = str(error).splitlines()[0] if str(error) else "it ends earlier than it says"
            raise DataError(f"data file {self._path} is unreadable: row group {group}: {said}") from error


def _numbers(column, missing: float) -> np.ndarray:
    """float64."""
    return _filled(column.cast("float64", safe=False), missing).to_numpy(zero_copy_only=False)


def _filled(column, value):
    """Without missing values; where there are none, as it is."""
    return column.fill_null(value) if column.null_count else column


def _ids(column) -> np.ndarray:
    """int64: whole numbers are their own; of text those of `token_ids`; of what is missing `MISSING_ID`."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        ids = _ids(column.dictionary)
        places = _filled(column.indices.cast("int64"), len(ids)).to_numpy(zero_copy_only=False)
        return np.append(ids, MISSING_ID)[places]
    if pa.types.is_integer(column.type) or pa.types.is_boolean(column.type):
        return _whole(column)
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    tokens = _filled(column, "" if is_text else b"")
    _, offsets, text = tokens.buffers()
    if offsets is None or not len(tokens):
        return np.zeros(0, np.int64)
    wide = pa.types.is_large_string(tokens.type) or pa.types.is_large_binary(tokens.type)
    places = np.frombuffer(offsets, np.int64 if wide else np.int32)[tokens.offset : tokens.offset + len(tokens) + 1]
    return ids_in(text or b"", places.astype(np.int64))


def _whole(column) -> np.ndarray:
    """Of 64 bits; what is above 2^63 has the same bits."""
    import pyarrow as pa

    if column.type == pa.uint64():
        return _filled(column, MISSING_ID).to_numpy(zero_copy_only=False).view(np.int64)
    return _filled(column.cast("int64"), MISSING_ID).to_numpy(zero_copy_only=False)
