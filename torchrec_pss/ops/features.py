"""The op's `features` matrix: one int64 row of metadata for each feature."""

from collections.abc import Iterable, Sequence
from enum import IntEnum

import torch


class FeatureColumn(IntEnum):
    """Columns of `features`, in the terms of docs/hashing.md; csrc/hashing.h holds the same list.

    Under ``hash="robe"`` KEY is the number of rows of the tables before this one and SLOTS is
    ``N - Z + 1``. HOT_BEGIN and HOT_END bound the table's keys in the op's `hot_keys`. HOT_DIRECTORY is
    where `hot_keys` holds the table's :func:`hot_directory`; without one (HOT_SHIFT 0) keys are searched for.
    PROJECTION is where the op's `projections` hold the table's, INNER its rows (WIDTH, and one more with a bias; 0: the table is
    not projected), DIM its columns.
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
    HOT_DIRECTORY = 11
    HOT_SHIFT = 12
    PROJECTION = 13
    INNER = 14
    DIM = 15


class PoolingMode(IntEnum):
    """FBGEMM's pooling modes, with its numbers."""

    SUM = 0
    MEAN = 1
    NONE = 2


def feature_matrix(rows: Sequence[dict[FeatureColumn, int]], device: torch.device) -> torch.Tensor:
    """Packs one dict a feature into the int64 ``[F, len(FeatureColumn)]`` matrix the op reads; absent columns are 0."""
    values = [[row.get(column, 0) for column in FeatureColumn] for row in rows]
    return torch.tensor(values, dtype=torch.int64, device=device).view(len(rows), len(FeatureColumn))


def padded(width: int) -> int:
    """Columns for a read of that width, whole registers."""
    return (width + 7) // 8 * 8


def read_width(inners: Iterable[int], pooling_mode: int) -> int:
    """Columns of the pooled reads that forward keeps for backward, from the features' INNER."""
    widths = [padded(inner) for inner in inners]
    return max(widths, default=0) if pooling_mode == PoolingMode.NONE else sum(widths)


def check_read_width(given: int, expected: int) -> None:
    """Raises ValueError where they differ."""
    if given != expected:
        raise ValueError(f"read_width is {given}, but the projected features are read {expected} columns wide")


def hot_directory(keys: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Spares the search for a table's hot keys: where those begin that share their upper bits.

    The directory of `H` keys has between `H / 2` and `H` entries and one more: one or two keys a bucket, and a directory that
    stays in the cache. It goes behind the keys in the op's `hot_keys`, at HOT_DIRECTORY.

    Args:
        keys: int32 ``[H]``, ascending, `H` at least 1.

    Returns:
        The directory, int32, and HOT_SHIFT: a key belongs to the entry that its upper ``32 - shift`` bits name.
    """
    shift = 32 - min(max(len(keys).bit_length() - 1, 1), 31)
    buckets = torch.arange((1 << (32 - shift)) + 1) << shift
    # A key is the upper half of a hash less 2^31.
    return torch.searchsorted(keys.to(torch.int64) + (1 << 31), buckets).to(torch.int32), shift
