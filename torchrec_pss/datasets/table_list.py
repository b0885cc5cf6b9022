"""Embedding tables described in a file, a JSON list of objects or a CSV with a header, or known by name."""

import math
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from torchrec_pss.datasets.rows import KAGGLE_NUM_EMBEDDINGS, MLPERF_NUM_EMBEDDINGS, SPARSE_NAMES
from torchrec_pss.datasets.table_file import NumberText, read_entries
from torchrec_pss.ranges import is_plain

_KNOWN = {"kaggle": (KAGGLE_NUM_EMBEDDINGS, 16), "mlperf": (MLPERF_NUM_EMBEDDINGS, 128)}  # rows, dim
_DEFAULT_DIM = 128
_ITEMSIZE = 4
_LARGEST = 2**63 - 1  # rows, and bytes of all tables
_LARGEST_DIM = 1 << 20
_LONGEST_NAME = 1024  # characters
_LARGEST_POOLING = 1e9
_LARGEST_SKEW = 100.0


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

    Whole numbers may be written as ``1e6`` or ``1000000.0``. A field that is empty, or null, is as one that is not there.

    Args:
        source: a file, or "kaggle" or "mlperf": the 26 tables of Criteo's logs.
        embedding_dim: where the list has no ``dim``; default 128, of "kaggle" 16.
        skew: where the list has none.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a list, naming the entry, the field and its value; a name that comes twice, or that no TorchRec
            module can have; a number out of range.
    """
    if source in _KNOWN:
        rows, dim = _KNOWN[source]
        named = zip(SPARSE_NAMES, rows, strict=True)
        return [ListedTable(f"t_{name}", n, embedding_dim or dim, 1.0, skew) for name, n in named]
    tables: dict[str, ListedTable] = {}
    num_bytes = 0
    for number, entry in enumerate(read_entries(Path(source)), start=1):
        try:
            table = _table(entry, embedding_dim or _DEFAULT_DIM, skew)
            if table.name in tables:
                raise ValueError(f"the name {table.name!r} comes twice")
            num_bytes += table.rows * table.dim * _ITEMSIZE
            if num_bytes > _LARGEST:
                raise ValueError(
                    f"rows {table.rows:,} of dim {table.dim:,} make it {num_bytes:.3g} bytes, more than 2^63"
                )
        except ValueError as error:
            raise ValueError(f"table list {source}, entry {number}: {error}") from error
        tables[table.name] = table
    return list(tables.values())


def _table(entry: dict[str, Any], dim: int, skew: float) -> ListedTable:
    if _is_missing(entry.get("name")) or _is_missing(entry.get("rows")):
        missing = "name" if _is_missing(entry.get("name")) else "rows"
        raise ValueError(f"needs name and rows: {missing} is missing")
    return ListedTable(
        _name(entry["name"]),
        _whole_number(entry, "rows", None, _LARGEST),
        _whole_number(entry, "dim", dim, _LARGEST_DIM),
        _real_number(entry, "pooling", 1.0, _LARGEST_POOLING),
        _real_number(entry, "skew", skew, _LARGEST_SKEW),
    )


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"name is {_shown(value)}, not text")
    name = str(value).strip()
    check_name(name)
    return name


def check_name(name: str) -> None:
    """
    Raises:
        ValueError: a TorchRec module cannot have such a name, which becomes one of torch's.
    """
    if len(name) > _LONGEST_NAME:
        raise ValueError(f"name is {_shown(name)}, of {len(name):,} characters, more than {_LONGEST_NAME:,}")
    if "." in name:
        raise ValueError(f"name is {_shown(name)}: a module of TorchRec cannot have a '.' in its name")
    if not name.isprintable():
        raise ValueError(f"name is {_shown(name)}: it has characters that cannot be printed")
    if hasattr(nn.ModuleDict(), name):
        raise ValueError(f"name is {_shown(name)}: torch's ModuleDict has an attribute of that name")


def _whole_number(entry: dict[str, Any], field: str, default: int | None, largest: int) -> int:
    value = entry.get(field)
    if _is_missing(value) and default is not None:
        return default
    needs = "needs name and rows: " if field == "rows" else ""
    number = _decimal(value)
    if number is None or not number.is_finite() or number != number.to_integral_value():
        raise ValueError(f"{needs}{field} is {_shown(value)}, not a whole number")
    # Compared before it is made an int: 1e999999999 has too many digits for one.
    if not 1 <= number <= largest:
        raise ValueError(f"{needs}{field} is {_shown(value)}, not between 1 and {largest:,}")
    return int(number)


def _real_number(entry: dict[str, Any], field: str, default: float, largest: float) -> float:
    value = entry.get(field)
    if _is_missing(value):
        return default
    number = _decimal(value)
    if number is None:
        raise ValueError(f"{field} is {_shown(value)}, not a number")
    # float: of what is positive and too small nothing is left.
    if not (math.isfinite(number) and 0 < float(number) <= largest):
        raise ValueError(f"{field} is {_shown(value)}, not positive and at most {largest:g}")
    return float(number)


def _decimal(value: object) -> Decimal | None:
    """The number, not rounded; None where it is none."""
    if not isinstance(value, str) or not is_plain(value):
        return None
    try:
        return Decimal(value.strip())
    except InvalidOperation:
        return None


def _shown(value: object) -> str:
    text = str(value) if isinstance(value, NumberText) else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
