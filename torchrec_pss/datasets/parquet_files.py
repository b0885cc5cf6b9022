"""Parquet files: which a path names, what their columns hold, and a first look at them."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote

from torchrec_pss.datasets.arrow_columns import as_text, lengths_of
from torchrec_pss.datasets.arrow_kinds import NOTHING, TEXTS, is_list, kinds_of, time_kind
from torchrec_pss.datasets.errors import DataError
from torchrec_pss.datasets.file_kinds import regular_file
from torchrec_pss.datasets.file_roles import TRAIN, arrange, check_doubled, roles_of
from torchrec_pss.datasets.file_signature import FileSignature, refuse_copies
from torchrec_pss.datasets.locations import AnyPath, Location, entries, is_remote, location
from torchrec_pss.datasets.schema import Schema

logger: logging.Logger = logging.getLogger(__name__)

_MAGIC = (b"PAR1", b"PARE")  # the second is encrypted
_LISTED = 20  # names that a line has at most
_SUFFIXES = (".parquet", ".pq")
_PARTITION = re.compile(r"([^/=]+)=([^/]*)/")
_NOTHING = "__HIVE_DEFAULT_PARTITION__"
_NOT_DATA = (".", "_")  # what the names of hidden files and of others' marks begin with


@dataclass(frozen=True)
class ParquetFile:
    """A file, its number of rows, what it is for (see `file_roles.arrange`), and what it was when it was opened first."""

    path: Location
    num_rows: int
    role: str | None
    signature: FileSignature
    texts: tuple[str, ...] = ()  # features that are text
    constants: Mapping[str, int | str | None] = field(default_factory=dict)  # columns that its partitions give


def is_parquet(path: AnyPath) -> bool:
    """Whether a file is one, or a folder has some."""
    path = location(path)
    try:
        if path.is_dir():
            return bool(_names(path))
        if not path.is_file():  # a pipe would wait
            return False
        with path.open("rb") as stream:
            return stream.read(4) in _MAGIC or path.name.lower().endswith(_SUFFIXES)
    except OSError as error:
        if is_remote(path):  # it has been tried often enough
            raise DataError(f"data path {path} is unreadable: {error}") from error
        return False


def open_parquet(path: AnyPath, schema: Schema) -> list[ParquetFile]:
    """The files that ``path`` names, itself or those of a folder that end in .parquet or .pq, in the order of their rows. Subfolders are looked
    into where they are partitions, ``day=2014-10-21``: a column that files lack is theirs. What a folder has beside is logged, and so are files
    without rows, and files to validate or test on that have no labels.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a file that cannot be read, or is there twice, a column that is missing or of a type that is not taken, one that has another
            type in another file, or names that cannot be understood together; names file and column.
    """
    path = location(path)
    if not path.is_dir():
        regular_file(path, "data file")
        return _of_one_type(path, {"": opened_parquet(path)}, [("", None)], schema)
    opened, names = {}, _names(path)
    tops = {name.partition("/")[0] for name in names}
    others = [p.name for p in entries(path) if p.name not in tops and not p.name.startswith(_NOT_DATA)]
    if others:
        logger.info("left out, for they are no Parquet files: %s", ", ".join(others[:_LISTED]))
    for name in names:
        file = opened_parquet(path / name)
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
        # A partition's value may say what its rows are for, its key does not.
        shown = {_PARTITION.sub(r"\2/", name): name for name in opened}
        check_doubled(list(shown))
        return _of_one_type(path, opened, [(shown[name], role) for name, role in arrange(list(shown))], schema)
    except ValueError as error:
        raise ValueError(f"data folder {path}: {error}") from error


def _of_one_type(
    path: Location, opened: Mapping[str, Any], arranged: Sequence[tuple[str, str | None]], schema: Schema
) -> list[ParquetFile]:
    """Of files by their names below ``path``, and what they are for."""
    import pyarrow as pa

    constants, files = _constants(list(opened)), []
    kinds: dict[str, tuple[Location, str]] = {}
    times: list[tuple[Location, str]] = []
    for name, role in arranged:
        here, file = path / name if name else path, opened[name]
        added = {k: v for k, v in constants[name].items() if k not in file.schema_arrow.names}
        types = file.schema_arrow
        for key, value in added.items():
            types = types.append(pa.field(key, pa.int64() if isinstance(value, int) else pa.string()))
        try:
            found = kinds_of(types, schema)
        except ValueError as error:
            raise ValueError(f"data file {here}: {error}") from error
        for column, kind in found.items():
            first, before = kinds.setdefault(column, (here, kind))
            if NOTHING in (kind, before):
                kinds[column] = (here, kind) if before == NOTHING else (first, before)
            elif kind != before:
                raise ValueError(
                    f"data file {here}: the column {column!r} holds {kind}, and {before} in {first}: their ids would differ"
                )
        if schema.time is not None:
            times.append((here, time_kind(types.field(schema.time).type)))
            if times[-1][1] != times[0][1]:
                raise ValueError(
                    f"data file {here}: the time {schema.time!r} is {times[-1][1]}, and {times[0][1]} in {times[0][0]}"
                )
        if not file.metadata.num_rows:
            raise ValueError(f"data file {here} has no rows")
        texts = tuple(column for column, kind in found.items() if kind == TEXTS)
        signature = FileSignature.of(here)
        if "/" in name:  # partitions have files of one name
            signature = replace(signature, name=name)
        files.append(ParquetFile(here, file.metadata.num_rows, role, signature, texts, added))
    refuse_copies({file.path: file.signature for file in files})
    return files


def _constants(names: Sequence[str]) -> dict[str, dict[str, int | str | None]]:
    """Of each name the columns that its partitions give: whole numbers where all values of a key are."""
    found: dict[str, dict[str, Any]] = {
        name: {key: _value(text) for key, text in _PARTITION.findall(name)} for name in names
    }
    for key in {key for of in found.values() for key in of}:
        values = [of[key] for of in found.values() if key in of]
        if all(value is None or _is_whole(value) for value in values) and any(values):
            for of in found.values():
                if of.get(key) is not None:
                    of[key] = int(of[key])
    return found


def _value(text: str) -> str | None:
    return None if text == _NOTHING else unquote(text)


def _is_whole(text: str) -> bool:
    return text.removeprefix("-").isdigit() and len(text) < 19 and str(int(text)) == text  # of 64 bits, surely


def first_columns(path: Location, number: int) -> dict[str, list[bytes] | list[list[bytes]]]:
    """The first rows of a file, or of a folder's first one: each column that a model can read as text, lists as lists of it; b"" is missing.

    Raises:
        DataError: it is unreadable, or has no rows.
    """
    from pyarrow import Table

    file = path / _names(path)[0] if path.is_dir() else path
    batches, seen = [], 0
    for batch in opened_parquet(file).iter_batches(number):
        batches.append(batch)
        seen += batch.num_rows
        if seen >= number:
            break
    if not seen:
        raise DataError(f"data file {file} has no rows")
    rows = Table.from_batches(batches).slice(0, number)
    found: dict[str, Any] = {}
    for name in rows.schema.names:
        column = rows.column(name).combine_chunks()
        if not is_list(column.type):
            found[name] = as_text(column)
        elif (inside := as_text(column.flatten())) is not None:
            stops = lengths_of(column).cumsum()
            found[name] = [inside[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]
    return {name: column for name, column in found.items() if column is not None}


def partition_keys(path: AnyPath) -> list[str]:
    """Of a folder's files."""
    path = location(path)
    return (
        list(dict.fromkeys(key for name in _names(path) for key, _ in _PARTITION.findall(name)))
        if path.is_dir()
        else []
    )


def _names(folder: Location) -> list[str]:
    """Of the files in it and in its partitions, from the folder on."""
    found = []
    for path in entries(folder):
        if path.name.startswith(_NOT_DATA):
            continue
        if _PARTITION.fullmatch(f"{path.name}/") and path.is_dir():
            found += [f"{path.name}/{name}" for name in _names(path)]
        elif path.name.lower().endswith(_SUFFIXES):
            found.append(path.name)
    return found


def opened_parquet(path: Location) -> Any:
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
