"""`open_rows`: a reader of whatever files a path names."""

from pathlib import Path

from torchrec_pss.datasets.criteo_files import CriteoFile, CriteoReader, open_files
from torchrec_pss.datasets.parquet_rows import ParquetFile, ParquetReader, is_parquet, open_parquet
from torchrec_pss.datasets.schema import CRITEO_SCHEMA, Schema

DataFile = CriteoFile | ParquetFile
FileReader = CriteoReader | ParquetReader


def find_rows_files(
    path: str | Path, schema: Schema = CRITEO_SCHEMA, cache_dir: str | Path | None = None
) -> list[DataFile]:
    """Parquet, or text: Criteo's, or that of another schema.

    Raises:
        FileNotFoundError, ValueError: see `open_files` and `open_parquet`; Parquet without a schema of its own.
    """
    if is_parquet(path):
        if schema is CRITEO_SCHEMA:
            raise ValueError(
                f"data path {path} is Parquet: a schema says what its columns are (--schema, docs/data.md)"
            )
        return open_parquet(path, schema)
    return open_files(path, cache_dir, None if schema is CRITEO_SCHEMA else schema)


def reader_of(files: list[DataFile], schema: Schema = CRITEO_SCHEMA, max_bad_rows: int = 100) -> FileReader:
    """Of files that `find_rows_files` found."""
    if files and isinstance(files[0], ParquetFile):
        return ParquetReader(files, schema, max_bad_rows)
    return CriteoReader(files, max_bad_rows)
