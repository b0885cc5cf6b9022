"""The op's `features` matrix: one int64 row of metadata for each feature."""

from collections.abc import Iterable, Sequence
from enum import IntEnum

import torch


class FeatureColumn(IntEnum):
    """Columns of `features`, in the terms of docs/how/hashing.md; csrc/hashing.h holds the same list.

    Under ``hash="robe"`` KEY is the number of rows of the tables before this one and SLOTS is
    ``N - Z + 1``. HOT_BEGIN and HOT_END bound the table's keys in the op's `hot_keys`. HOT_DIRECTORY is
    where `hot_keys` holds the table's `hot_directory`; without one (HOT_SHIFT 0) keys are searched for. HOT_DROP are the lower
    bits that a key is without (`shortened`).
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
    HOT_DROP = 13
    PROJECTION = 14
    INNER = 15
    DIM = 16


# More is no row of a table, and the kernels' buffers are by the width.
MOST_WIDTH = 1 << 20
_MOST_ROBE_ROWS = 1 << 32


class PoolingMode(IntEnum):
    """FBGEMM's pooling modes, with its numbers."""

    SUM = 0
    MEAN = 1
    NONE = 2


def feature_matrix(rows: Sequence[dict[FeatureColumn, int]], device: torch.device) -> torch.Tensor:
    """Packs one dict a feature into the int64 ``[F, len(FeatureColumn)]`` matrix the op reads; absent columns are 0.

    Args:
        rows: of each feature its columns.
        device: of the matrix.
    """
    values = [[row.get(column, 0) for column in FeatureColumn] for row in rows]
    return torch.tensor(values, dtype=torch.int64, device=device).view(len(rows), len(FeatureColumn))


def check_layout(rows: Sequence[Sequence[int]], numel: int, num_hot: int, num_projected: int, robe: bool) -> None:
    """Whether metadata describe places inside an array; csrc/inputs.cpp holds the same rule.

    Args:
        rows: of the `features` matrix.
        numel, num_hot, num_projected: elements of the array, of the op's `hot_keys` and `projections`.
        robe: whether the hash is HASH_ROBE.

    Raises:
        ValueError: a row that does not; names it.
    """
    for number, row in enumerate(rows):
        if not _is_layout(row, numel, num_hot, robe):
            raise ValueError(
                f"row {number} of `features` does not fit an array of {numel} elements and {num_hot} hot keys"
            )
        width, (begin, inner, dim) = row[FeatureColumn.WIDTH], row[FeatureColumn.PROJECTION :]
        if inner not in (0, width, width + 1):
            raise ValueError(f"feature {number} has width {width}, but its projection has {inner} rows")
        if inner and not (dim >= 1 and 0 <= begin <= num_projected - inner * dim):
            raise ValueError(
                f"feature {number}: {inner} x {dim} numbers from {begin} on are not within projections of {num_projected}"
            )


def _is_layout(row: Sequence[int], numel: int, num_hot: int, robe: bool) -> bool:
    (key, rows, width, prefix, base, block, slots, first,
     hot_begin, hot_end, hot_base, directory, shift, drop, *_) = row  # fmt: skip
    if not (1 <= width <= MOST_WIDTH and 0 <= prefix <= width and rows >= 0):
        return False
    if prefix and not 0 <= base <= numel - rows * prefix:
        return False
    if not 0 <= hot_begin <= hot_end <= num_hot:
        return False
    if not 0 <= drop < 32:
        return False
    if shift and not (0 < shift < 32 and 0 <= directory < num_hot - (1 << (32 - shift))):
        return False
    if robe and not 0 <= key <= _MOST_ROBE_ROWS - rows:
        return False
    shared, hot = width - prefix, hot_end - hot_begin
    if not shared:
        return True
    room = numel - block + 1 if robe else (numel - first) // max(block, 1)
    return (
        1 <= block <= numel and shared % block == 0 and 0 <= first <= numel and 1 <= slots <= min(room, (1 << 32) - 1)
        and (not hot or 0 <= hot_base <= numel - hot * shared)
    )  # fmt: skip


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


def output_dims(rows: Sequence[Sequence[int]]) -> list[int]:
    """Columns of the output of each feature, from its row of metadata."""
    return [row[FeatureColumn.DIM] if row[FeatureColumn.INNER] else row[FeatureColumn.WIDTH] for row in rows]


def check_total_width(given: int, dims: Sequence[int], pooling_mode: int) -> None:
    """Raises ValueError where the op's total_width is not that of its features, `output_dims`."""
    if pooling_mode == PoolingMode.NONE:
        for number, dim in enumerate(dims):
            if dim != given:
                raise ValueError(f"unpooled features must all have width {given}, feature {number} has {dim}")
    elif sum(dims) != given:
        raise ValueError(f"the features' widths add up to {sum(dims)}, not {given}")


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
