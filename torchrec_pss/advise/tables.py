"""The tables to advise on: from a sample of Criteo's logs, or from a list of names, rows and dims."""

from dataclasses import dataclass, replace

import numpy as np
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from tqdm import tqdm

from torchrec_pss.datasets.counted_ids import CountedIds
from torchrec_pss.datasets.criteo_files import training_files
from torchrec_pss.datasets.locations import location
from torchrec_pss.datasets.open_rows import DataFile, find_rows_files, reader_of, schema_of
from torchrec_pss.datasets.table_list import ListedTable, read_table_list
from torchrec_pss.modules.id_counts import IdCounts
from torchrec_pss.progress import told

_PASS_ROWS = 1 << 14
_LOGS_DIM = 16
_LEAST_POOLING = 1e-6  # of a feature that was empty in all rows
_LISTED_IDS = 1 << 18  # ids of a power law that are counted one by one
_LISTED_READS = 10_000_000


@dataclass
class Described:
    """Tables, how often their ids occur, whether ids lie in ``[0, num_embeddings)``, reads of a training over those counted, and, of logs, the rows
    that were counted."""

    tables: list[EmbeddingBagConfig]
    counts: dict[str, IdCounts]
    contiguous: bool
    source: str
    reads_per_count: float = 1.0
    rows: int | None = None

    def listed(self) -> list[ListedTable]:
        """Of logs: with the mean number of ids a bag."""
        assert self.rows is not None
        return [
            ListedTable(
                t.name,
                t.num_embeddings,
                t.embedding_dim,
                max(self.counts[t.name].total / self.rows, _LEAST_POOLING),
                1.0,
            )
            for t in self.tables
        ]


def from_logs(
    path: str, sample_rows: int, embedding_dim: int | None, train_rows: int | None = None, schema: str | None = None
) -> Described:
    """Rows and counts of the first ``sample_rows`` rows of Criteo files, of prepared ones, or those of a ``schema``, of a folder only those of files to train on.
    ``train_rows``: that are read in training, all of theirs if None.

    Raises:
        FileNotFoundError, ValueError: see `torchrec_pss.datasets.criteo_files.open_files`.
    """
    described = schema_of(path, schema)
    if described.split is not None:
        described = replace(described, split=None)  # of the first rows all are counted
    files = training_files(find_rows_files(path, described))
    names = described.features
    all_rows = sum(f.num_rows for f in files)
    rows = min(all_rows, sample_rows)
    starts = tqdm(range(0, rows, _PASS_ROWS), desc="counting ids", delay=5)
    windows = (range(start, min(start + _PASS_ROWS, rows)) for start in starts)
    counted = CountedIds.of(reader_of(files, described).read(windows), len(names))
    dim = embedding_dim or _LOGS_DIM
    tables = [_config(n, r, dim) for n, r in zip(names, counted.distinct, strict=True)]
    counts = dict(zip(names, counted.counts, strict=True))
    source = f"{rows:,} rows of {_named(path, files)}"
    return Described(tables, counts, False, source, (train_rows or all_rows) / rows, rows)


def _named(path: str, files: list[DataFile]) -> str:
    if not location(path).is_dir():
        return path
    return f"{path} ({files[0].path.name}" + (f" to {files[-1].path.name})" if len(files) > 1 else ")")


def from_list(source: str, embedding_dim: int | None, skew: float, train_rows: int | None = None) -> Described:
    """The tables of a list, or known by name; ids are taken to follow a power law of each table's skew. ``train_rows``: that are read in
    training, 10 million if None.

    Raises:
        FileNotFoundError, ValueError: see `torchrec_pss.datasets.table_list.read_table_list`.
    """
    listed = read_table_list(source, embedding_dim, skew)
    counts = {}
    with told("counting expected ids", "table", len(listed)) as step:
        for table in listed:
            counts[table.name] = power_law_counts(table.rows, table.skew)
            step()
    reads_per_count = (train_rows or _LISTED_READS) / _LISTED_READS
    return Described(
        [t.config for t in listed], counts, contiguous=True, source=source, reads_per_count=reads_per_count
    )


def power_law_counts(rows: int, skew: float) -> IdCounts:
    """Expected counts of 10 M reads; the ids are ranks."""
    ranks = np.arange(1, min(rows, _LISTED_IDS) + 1, dtype=np.float64)
    head = ranks**-skew
    tail = _power_sum(ranks[-1] + 1, rows, skew) if rows > len(ranks) else 0.0
    reads = np.floor(head / (head.sum() + tail) * _LISTED_READS).astype(np.int64)
    kept = int((reads >= 1).sum())
    return IdCounts(np.arange(kept), reads[:kept], _LISTED_READS)


def _power_sum(first: float, last: float, skew: float) -> float:
    """Sum of k^-skew by its integral."""
    if abs(skew - 1) < 1e-9:
        return float(np.log((last + 0.5) / (first - 0.5)))
    return float(((last + 0.5) ** (1 - skew) - (first - 0.5) ** (1 - skew)) / (1 - skew))


def _config(name: str, rows: int, dim: int) -> EmbeddingBagConfig:
    return EmbeddingBagConfig(name=name, num_embeddings=rows, embedding_dim=dim, feature_names=[name])
