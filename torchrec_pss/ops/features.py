"""The op's `features` matrix: one int64 row of metadata for each feature."""

from collections.abc import Sequence
from enum import IntEnum

import torch


class FeatureColumn(IntEnum):
    """Columns of `features`, in the terms of docs/hashing.md; csrc/hashing.h holds the same list.

    Under ``hash="robe"`` KEY is the number of rows of the tables before this one and SLOTS is
    ``N - Z + 1``. HOT_BEGIN and HOT_END bound the table's keys in the op's `hot_keys`.
    """

    KEY = 0
    ROWS = 1
    WIDTH = 2
    PREFIX = 3
    BASE = 4
    BLOCK = 5
    SLOTS = 6
    FIRST = 7
    HOT_BEGIN = 8
    HOT_END = 9
    HOT_BASE = 10


class PoolingMode(IntEnum):
    """FBGEMM's pooling modes, with its numbers."""

    SUM = 0
    MEAN = 1
    NONE = 2


def feature_matrix(rows: Sequence[dict[FeatureColumn, int]], device: torch.device) -> torch.Tensor:
    """Packs one dict a feature into the int64 ``[F, len(FeatureColumn)]`` matrix the op reads; absent columns are 0."""
    values = [[row.get(column, 0) for column in FeatureColumn] for row in rows]
    return torch.tensor(values, dtype=torch.int64, device=device).view(len(rows), len(FeatureColumn))
