"""Embedding tables described in a file, a JSON list of objects or a CSV with a header, or known by name."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

from torchrec.modules.embedding_configs import EmbeddingBagConfig

from torchrec_pss.datasets.rows import KAGGLE_NUM_EMBEDDINGS, MLPERF_NUM_EMBEDDINGS, SPARSE_NAMES

_KNOWN = {"kaggle": (KAGGLE_NUM_EMBEDDINGS, 16), "mlperf": (MLPERF_NUM_EMBEDDINGS, 128)}  # rows, dim
_DEFAULT_DIM = 128


@dataclass(frozen=True)
class ListedTable:
    """A table; ``pooling`` is the mean number of ids a bag, ``skew`` the exponent of the power law that its ids follow."""

    name: str
    rows: int
    dim: int
    pooling: float
    skew: float

    @property
    def config(self) -> EmbeddingBagConfig:
        return EmbeddingBagConfig(
            name=self.name, num_embeddings=self.rows, embedding_dim=self.dim, feature_names=[self.name]
        )


def read_table_list(source: str, embedding_dim: int | None = None, skew: float = 1.0) -> list[ListedTable]:
    """Tables of ``name`` and ``rows``, and optionally ``dim``, ``pooling`` (1) and ``skew``.

    Args:
        source: a file, or "kaggle" or "mlperf": the 26 tables of Criteo's logs.
        embedding_dim: where the list has no ``dim``; default 128, of "kaggle" 16.
        skew: where the list has none.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a list, naming the entry; a name that comes twice.
    """
    if source in _KNOWN:
        rows, dim = _KNOWN[source]
        named = zip(SPARSE_NAMES, rows, strict=True)
        return [ListedTable(f"t_{name}", n, embedding_dim or dim, 1.0, skew) for name, n in named]
    file = Path(source)
    if not file.is_file():
        raise FileNotFoundError(f"table list {source} does not exist")
    try:
        if file.suffix.lower() == ".json":
            entries = json.loads(file.read_text())
        else:
            with open(file, newline="") as stream:
                entries = list(csv.DictReader(stream))
        if not isinstance(entries, list) or not entries:
            raise ValueError("no entries")
    except ValueError as error:
        raise ValueError(f"table list {source} is neither a JSON list nor a CSV: {error}") from error
    tables: dict[str, ListedTable] = {}
    for number, entry in enumerate(entries, start=1):
        try:
            table = ListedTable(
                str(entry["name"]),
                int(entry["rows"]),
                int(entry.get("dim") or embedding_dim or _DEFAULT_DIM),
                float(entry.get("pooling") or 1),
                float(entry.get("skew") or skew),
            )
            if min(table.rows, table.dim, table.pooling, table.skew) <= 0:
                raise ValueError("rows, dim, pooling and skew must be positive")
            if table.name in tables:
                raise ValueError(f"the name {table.name!r} comes twice")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"table list {source}, entry {number}: needs name and rows ({error!r})") from error
        tables[table.name] = table
    return list(tables.values())
