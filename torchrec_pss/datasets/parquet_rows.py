"""`ParquetReader`: rows of Parquet files, by a schema; only its columns are read, and only the row groups that are wanted."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torchrec_pss.datasets.bad_rows import BadRows
from torchrec_pss.datasets.bags import Bags
from torchrec_pss.datasets.criteo_lines import MISSING_ID
from torchrec_pss.datasets.errors import DataChangedError, DataError
from torchrec_pss.datasets.file_kinds import regular_file
from torchrec_pss.datasets.file_roles import TRAIN, arrange, check_doubled, roles_of
from torchrec_pss.datasets.file_signature import FileSignature, refuse_copies
from torchrec_pss.datasets.locations import is_remote, location
from torchrec_pss.datasets.rows import RowBlock, join_blocks
from torchrec_pss.datasets.schema import BagColumn, Schema
from torchrec_pss.datasets.text_rows import ids_in

logger: logging.Logger = logging.getLogger(__name__)

_MAGIC = b"PAR1"
_LISTED = 20  # names that a line has at most
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
    texts: tuple[str, ...] = ()  # features that are text


def is_parquet(path: str | Path) -> bool:
    """Whether a file is one, or a folder has some."""
    path = location(path)
    try:
        if path.is_dir():
            return bool(_names(path))
        if not path.is_file():  # a pipe would wait
            return False
        with path.open("rb") as stream:
            return stream.read(len(_MAGIC)) == _MAGIC
    except OSError as error:
        if is_remote(path):  # it has been tried often enough
            raise DataError(f"data path {path} is unreadable: {error}") from error
        return False


def open_parquet(path: str | Path, schema: Schema) -> list[ParquetFile]:
    """The files that ``path`` names, itself or those of a folder that end in .parquet or .pq, in the order of their rows. What a folder has beside
    is logged, and so are files without rows, and files to validate or test on that have no labels.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a file that cannot be read, or is there twice, a column that is missing or of a type that is not taken, one that has another
            type in another file, or names that cannot be understood together; names file and column.
    """
    path = location(path)
    if not path.is_dir():
        regular_file(path, "data file")
        return _of_one_type([(path, None, _opened(path))], schema)
    opened, names = {}, _names(path)
    others = [p.name for p in sorted(path.iterdir()) if p.name not in names and not p.name.startswith(_NOT_DATA)]
    if others:
        logger.info("left out, for they are no Parquet files: %s", ", ".join(others[:_LISTED]))
    for name in names:
        file = _opened(path / name)
        said = set(file.schema_arrow.names)
        if not file.metadata.num_rows:
            logger.info("left out %s: it has no rows", path / name)
        elif schema.label not in said and roles_of(name) and TRAIN not in roles_of(name):
            logger.info("left out %s: it has no labels", path / name)
        else:
            opened[name] = file
    if not opened:
        raise ValueError(f"data folder {path} has no Parquet file with rows")
    try:
        check_doubled(list(opened))
        return _of_one_type([(path / name, role, opened[name]) for name, role in arrange(list(opened))], schema)
    except ValueError as error:
        raise ValueError(f"data folder {path}: {error}") from error


def _of_one_type(found: Sequence[tuple[Path, str | None, object]], schema: Schema) -> list[ParquetFile]:
    files, kinds = [], {}
    for path, role, opened in found:
        here = _kinds(path, opened.schema_arrow, schema)
        for name, kind in here.items():
            first, before = kinds.setdefault(name, (path, kind))
            if kind != before:
                raise ValueError(
                    f"data file {path}: the column {name!r} holds {kind}, and {before} in {first}: their ids would differ"
                )
        if not opened.metadata.num_rows:
            raise ValueError(f"data file {path} has no rows")
        texts = tuple(name for name, kind in here.items() if kind == _TEXTS)
        files.append(ParquetFile(path, opened.metadata.num_rows, role, FileSignature.of(path), texts))
    refuse_copies({file.path: file.signature for file in files})
    return files


def first_columns(path: Path, number: int) -> dict[str, list[bytes] | list[list[bytes]]]:
    """The first rows of a file, or of a folder's first one: each column that a model can read as text, lists as lists of it; b"" is missing.

    Raises:
        DataError: it is unreadable, or has no rows.
    """
    from pyarrow import Table

    file = path / _names(path)[0] if path.is_dir() else path
    batches, seen = [], 0
    for batch in _opened(file).iter_batches(number):
        batches.append(batch)
        seen += batch.num_rows
        if seen >= number:
            break
    if not seen:
        raise DataError(f"data file {file} has no rows")
    rows = Table.from_batches(batches).slice(0, number)
    found = {}
    for name in rows.schema.names:
        column = rows.column(name).combine_chunks()
        if not _is_list(column.type):
            found[name] = _as_text(column)
        elif (inside := _as_text(column.flatten())) is not None:
            stops = _lengths(column).cumsum()
            found[name] = [inside[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]
    return {name: column for name, column in found.items() if column is not None}


def _as_text(column) -> list[bytes] | None:
    """Of numbers, truth values and text."""
    from pyarrow import types as is_

    kind = column.type.value_type if is_.is_dictionary(column.type) else column.type
    if is_.is_boolean(kind) or is_.is_integer(kind) or is_.is_floating(kind):
        column = column.cast(kind).cast("int8" if is_.is_boolean(kind) else kind)
    elif not (is_.is_string(kind) or is_.is_large_string(kind)):
        return None
    return [(value or "").encode() for value in column.cast("string").to_pylist()]


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
        if is_remote(path):  # columns that lie together come with one request
            return parquet.ParquetFile(path.open("rb", buffering=0), pre_buffer=True)
        return parquet.ParquetFile(path)
    except (ArrowException, OSError, ValueError) as error:
        raise DataError(f"data file {path} is no Parquet that can be read: {str(error).splitlines()[0]}") from error


def _kinds(path: Path, types, schema: Schema) -> dict[str, str]:
    """Of each feature what its column holds.

    Raises:
        ValueError: a column is missing, or of a type that is not taken; names it.
    """
    from pyarrow import types as is_

    try:
        schema.columns(types.names)
    except ValueError as error:
        raise ValueError(f"data file {path}: {error}") from error
    kinds = {}
    for name in (schema.label, *schema.dense, *([] if schema.time is None else [schema.time])):
        kind = types.field(name).type
        if name == schema.time and is_.is_temporal(kind):
            continue
        if not (is_.is_boolean(kind) or is_.is_integer(kind) or is_.is_floating(kind)):
            raise ValueError(
                f"data file {path}: the column {name!r} is {kind}, and must be a whole or floating-point number: cast it"
            )
    for name in schema.sparse:
        kinds[name] = _kind_of_ids(path, name, types.field(name).type)
    for bag in schema.bags:
        kind = types.field(bag.name).type
        if _is_list(kind):
            kinds[bag.name] = _kind_of_ids(path, bag.name, kind.value_type)
        elif _is_text(kind):
            kinds[bag.name] = _TEXTS
        else:
            raise ValueError(
                f"data file {path}: the bags {bag.name!r} are {kind}, and must be lists, or text with a separator"
            )
        if bag.weights is not None:
            kind = types.field(bag.weights).type
            if not (_is_list(kind) and (is_.is_integer(kind.value_type) or is_.is_floating(kind.value_type))):
                raise ValueError(
                    f"data file {path}: the weights {bag.weights!r} are {kind}, and must be lists of numbers"
                )
    return kinds


def _kind_of_ids(path: Path, name: str, kind) -> str:
    from pyarrow import types as is_

    inside = kind.value_type if is_.is_dictionary(kind) else kind
    if is_.is_integer(inside) or is_.is_boolean(inside):
        return _INTEGERS
    if _is_text(inside):
        return _TEXTS
    hint = "name it under bags" if _is_list(inside) else "cast it"
    raise ValueError(f"data file {path}: the column {name!r} is {kind}, and must be whole numbers or text: {hint}")


def _is_text(kind) -> bool:
    from pyarrow import types as is_

    return any(is_of(kind) for is_of in (is_.is_string, is_.is_large_string, is_.is_binary, is_.is_large_binary))


def _is_list(kind) -> bool:
    from pyarrow import types as is_

    return is_.is_list(kind) or is_.is_large_list(kind) or is_.is_fixed_size_list(kind)


class ParquetReader(BadRows):
    """A `RowSource` over Parquet files.

    Args:
        files: from `open_parquet`.
        schema: likewise.
        max_bad_rows: see `BadRows`.
    """

    def __init__(self, files: Sequence[ParquetFile], schema: Schema, max_bad_rows: int = 100) -> None:
        super().__init__(files, max_bad_rows)
        self.schema = schema
        self._columns = schema.columns(schema.used)

    def read(self, windows: Iterator[range]) -> Iterator[RowBlock]:
        """One block for each window; windows ascend and do not overlap.

        Raises:
            BadRowsError: more than ``max_bad_rows`` malformed rows: a label that is not 0 or 1, or a number that is not finite.
            DataChangedError: a file that is not what it was when it was opened first.
            DataError: a file that is unreadable.
        """
        files, start, rows = list(self.files), 0, None
        for window in windows:
            blocks, position = [], window.start
            while position < window.stop:
                while position >= start + files[0].num_rows:
                    start, rows = start + files.pop(0).num_rows, None
                rows = rows or _Rows(files[0], self.schema)
                stop = min(window.stop - start, files[0].num_rows)
                for first, part in rows.take(range(position - start, stop)):
                    blocks.append(self._block(files[0].path, first, start + first, part))
                position = start + stop
            yield join_blocks(blocks or [self._columns.nothing])

    def _block(self, path: Path, first: int, position: int, rows) -> RowBlock:
        """Of a record batch, whose first row is the file's ``first``, at ``position`` of all."""
        labels = _numbers(rows.column(self.schema.label), np.nan)
        names = [*self.schema.dense, *([] if self.schema.time is None else [self.schema.time])]
        raw = np.empty((len(labels), len(names)))
        for place, name in enumerate(names):
            raw[:, place] = _numbers(rows.column(name), 0)
        features = [Bags(_ids(rows.column(name))) for name in self.schema.sparse]
        reasons: dict[int, str] = {}
        features += [self._bags(rows, bag, reasons) for bag in self.schema.bags]
        block = self._columns.block(raw, features, labels.astype(np.float32))
        finite = np.isfinite(block.dense)
        good = finite.all(axis=1) & ((labels == 0) | (labels == 1))
        good[list(reasons)] = False
        for row in np.flatnonzero(~good).tolist():
            reason = self._reason(labels[row], raw[row], finite[row]) or reasons[row]
            self.count_bad(f"{path}, row {first + row + 1}: {reason}", position + row)
        return block if good.all() else block.take(good)

    def _reason(self, label: float, raw: np.ndarray, finite: np.ndarray) -> str | None:
        """Why a row is none for its label or dense values."""
        if label not in (0, 1):
            return f"{self.schema.label} is {'missing' if np.isnan(label) else label}, not 0 or 1"
        if finite.all():
            return None
        place = int(np.argmin(finite))
        return f"{self.schema.dense[place]} is {raw[place]}, not a finite number"

    def _bags(self, rows, bag: BagColumn, reasons: dict[int, str]) -> Bags:
        """Of a record batch; fills in why rows are none, of which no ids are kept."""
        column = rows.column(bag.name)
        found = _pieces(column, bag.separator) if _is_text(column.type) else _lists(column)
        if bag.weights is None:
            return found
        weights = rows.column(bag.weights)
        weighed = Bags(_numbers(weights.flatten(), np.nan).astype(np.float32), _lengths(weights))
        for row in np.flatnonzero(found.lengths != weighed.lengths).tolist():
            reasons.setdefault(
                row, f"{bag.name} has {found.lengths[row]} ids, and {bag.weights} {weighed.lengths[row]} weights"
            )
        same = found.lengths == weighed.lengths
        found, weighed = found.take(same), weighed.take(same)
        of_row = np.repeat(np.flatnonzero(same), found.lengths)
        for at in np.flatnonzero(~np.isfinite(weighed.ids)).tolist():
            shown = "nothing" if np.isnan(weighed.ids[at]) else weighed.ids[at]
            reasons.setdefault(int(of_row[at]), f"{bag.weights} has {shown}, not a finite number")
        lengths = np.zeros(len(same), np.int32)
        lengths[same] = found.lengths
        return Bags(found.ids, lengths, weighed.ids)


class _Rows:
    """A cursor over a file's rows that only moves forward."""

    def __init__(self, file: ParquetFile, schema: Schema) -> None:
        self._signature = file.signature
        self._path = file.path
        self._check_unchanged()
        self._file = _opened(file.path)
        self._columns = list(schema.used)
        groups = [self._file.metadata.row_group(g).num_rows for g in range(self._file.num_row_groups)]
        self._ends = np.cumsum(groups)  # rows up to that of each group
        self._batches: Iterator = iter(())
        self._group, self._start, self._held = -1, 0, None  # the batch in hand, and its first row

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


def _numbers(column, missing: float) -> np.ndarray:
    """float64; a date or time in its unit since 1970."""
    from pyarrow import types as is_

    if is_.is_temporal(column.type):
        column = column.cast("int32" if column.type.bit_width == 32 else "int64")
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
    tokens = _filled(column, _empty(column))
    _, offsets, text = tokens.buffers()
    if offsets is None or not len(tokens):
        return np.zeros(0, np.int64)
    wide = pa.types.is_large_string(tokens.type) or pa.types.is_large_binary(tokens.type)
    places = np.frombuffer(offsets, np.int64 if wide else np.int32)[tokens.offset : tokens.offset + len(tokens) + 1]
    return ids_in(text or b"", places.astype(np.int64))


def _empty(column) -> str | bytes:
    """The text of no characters, as the column has it."""
    from pyarrow import types as is_

    return "" if is_.is_string(column.type) or is_.is_large_string(column.type) else b""


def _lists(column) -> Bags:
    return Bags(_ids(column.flatten()), _lengths(column))


def _lengths(column) -> np.ndarray:
    """int32; of what is missing 0."""
    return _filled(column.value_lengths().cast("int32"), 0).to_numpy(zero_copy_only=False)


def _pieces(column, separator: str) -> Bags:
    """Of text, what a separator divides, without what is empty."""
    import pyarrow.compute as compute

    lists = compute.split_pattern(_filled(column, _empty(column)), separator)
    pieces = lists.flatten()
    filled = compute.not_equal(compute.binary_length(pieces), 0).to_numpy(zero_copy_only=False)
    of_row = np.repeat(np.arange(len(lists)), _lengths(lists))
    lengths = np.bincount(of_row[filled], minlength=len(lists)).astype(np.int32)
    return Bags(_ids(pieces)[filled], lengths)


def _whole(column) -> np.ndarray:
    """Of 64 bits; what is above 2^63 has the same bits."""
    import pyarrow as pa

    if column.type == pa.uint64():
        return _filled(column, MISSING_ID).to_numpy(zero_copy_only=False).view(np.int64)
    return _filled(column.cast("int64"), MISSING_ID).to_numpy(zero_copy_only=False)
