"""How often the rows of a log are read: what tells sparse logs from dense ones, which are trained and laid out otherwise."""

from collections.abc import Sequence

DENSE_READS = 40  # of a row in a pass, on the mean, from which a log is dense; docs/research/2026-11-30-passes-of-dense-logs.md has the measurements
FEW_IDS = 1_000_000  # rows of all tables up to which one mean says how often most of them are read


def is_dense(num_reads: float, num_embeddings: Sequence[int]) -> bool:
    """Whether a log that reads each table so often is a dense one of few ids."""
    return reads_a_row(num_reads, num_embeddings) >= DENSE_READS and sum(num_embeddings) <= FEW_IDS


def reads_a_row(num_reads: float, num_embeddings: Sequence[int]) -> float:
    """Mean reads of a row in a pass that reads each table so often; tables of one row are none."""
    tables = [n for n in num_embeddings if n > 1]
    return num_reads * len(tables) / sum(tables) if tables else 0.0
