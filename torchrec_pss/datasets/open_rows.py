"""`open_rows`: a reader of whatever files a path names."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from torchrec_pss.datasets.criteo_files import CriteoFile, CriteoReader, open_files
from torchrec_pss.datasets.locations import AnyPath
from torchrec_pss.datasets.parquet_files import ParquetFile, is_parquet, open_parquet
from torchrec_pss.datasets.parquet_rows import ParquetReader
from torchrec_pss.datasets.prepared_rows import PreparedFile, PreparedReader, is_begun, is_prepared, open_prepared
from torchrec_pss.datasets.schema import CRITEO_SCHEMA, Schema

DataFile = CriteoFile | ParquetFile | PreparedFile
FileReader = CriteoReader | ParquetReader | PreparedReader


def schema_of(path: AnyPath, named: str | Path | Schema | None = None) -> Schema:
    """Of the rows at a path: what was named, what prepared rows say of themselves, or Criteo's.

    Raises:
        FileNotFoundError, ValueError: see `Schema.read` and `open_prepared`; one that is named and of other columns than prepared rows.
    """
    given = named if named is None or isinstance(named, Schema) else Schema.read(named)
    if not is_prepared(path):
        return CRITEO_SCHEMA if given is None else given
    own = open_prepared(path)[0].schema
    if given is None:
        return own
    if replace(given.written(), group=own.group) != own:
        raise ValueError(f"data path {path} was prepared with another schema: leave it out, or prepare the rows again")
    return replace(own, group=given.group)


def find_rows_files(
    path: AnyPath, schema: Schema = CRITEO_SCHEMA, cache_dir: str | Path | None = None
) -> list[DataFile]:
    """Prepared rows, Parquet, or text: Criteo's, or that of another schema.

    Raises:
        FileNotFoundError, ValueError: see `open_files`, `open_parquet` and `open_prepared`; Parquet without a schema of its own, or one whose rows
            must be divided first.
    """
    if is_prepared(path):
        return list(open_prepared(path))
    if schema.split is not None:
        raise ValueError(
            f"data path {path}: its schema has a split: prepare the rows first, torchrec-pss prepare {path} FOLDER --schema FILE"
        )
    if is_begun(path):
        raise ValueError(f"data path {path}: its preparing has not ended: call torchrec-pss prepare again")
    if is_parquet(path):
        if schema is CRITEO_SCHEMA:
            raise ValueError(
                f"data path {path} is Parquet: a schema says what its columns are (--schema, docs/guides/your_data.md)"
            )
        return list(open_parquet(path, schema))
    return list(open_files(path, cache_dir, None if schema is CRITEO_SCHEMA else schema))


def reader_of(files: Sequence[DataFile], schema: Schema = CRITEO_SCHEMA, max_bad_rows: int = 100) -> FileReader:
    """Of files that `find_rows_files` found."""
    if files and isinstance(files[0], PreparedFile):
        return PreparedReader(cast(Sequence[PreparedFile], files))
    if files and isinstance(files[0], ParquetFile):
        return ParquetReader(cast(Sequence[ParquetFile], files), schema, max_bad_rows)
    return CriteoReader(cast(Sequence[CriteoFile], files), max_bad_rows)


def texts_of(files: Sequence[DataFile], schema: Schema = CRITEO_SCHEMA) -> tuple[str, ...]:
    """The features whose ids are those of tokens; the others' are whole numbers."""
    return schema.features if isinstance(files[0], CriteoFile) else files[0].texts
