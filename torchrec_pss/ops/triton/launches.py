"""How a lookup's features are divided among kernel launches, and what the kernels know of each."""

import weakref
from dataclasses import dataclass
from enum import IntEnum
from math import gcd
from typing import Any

import torch

from torchrec_pss.ops.features import FeatureColumn, PoolingMode, check_layout, output_dims, padded, read_width
from torchrec_pss.ops.hashing import HASH_ROBE

_VECTOR_BYTES = 16
LEAST_DOT = 16  # smallest dimension of tl.dot


class LaunchColumn(IntEnum):
    """Columns of a launch's int64 metadata, one row a feature. Of the array's places and widths, the unit is not the element but
    the launch's `vec` elements, so that the compiler knows how they are aligned."""

    FEATURE = 0
    KEY = 1
    ROWS = 2
    UNITS = 3  # of a row
    PREFIX = 4
    BASE = 5
    BLOCK = 6
    SLOTS = 7
    FIRST = 8
    HOT_BEGIN = 9
    HOT_END = 10
    HOT_BASE = 11
    HOT_DIRECTORY = 12
    HOT_SHIFT = 13
    HOT_DROP = 14
    OUT_COLUMN = 15
    READ_COLUMN = 16
    PROJECTION = 17
    INNER = 18
    DIM = 19  # columns of the output
    WIDTH = 20  # elements of a row
    PARTIAL = 21  # in partial gradients: as PROJECTION, or behind all where an earlier feature has the same


@dataclass(frozen=True)
class Launch:
    """Features that one compiled kernel serves.

    Attributes:
        vec: elements that are loaded and reduced as one, at most 16 bytes.
        units: units of `vec` a row has, rounded up to a power of two.
        dim: columns of a feature's output, rounded up to a power of two.
        projected, hashed, hot, checked: whether there are projections, shared coordinates, hot rows, and ids that can be out of range.
        aligned: columns of output and gradient start at multiples of 4.
        metadata: int64 ``[n, len(LaunchColumn)]``, on the array's device.
    """

    vec: int
    units: int
    dim: int
    projected: bool
    hashed: bool
    hot: bool
    checked: bool
    aligned: bool
    metadata: torch.Tensor

    @property
    def num_features(self) -> int:
        return self.metadata.shape[0]


@dataclass(frozen=True)
class ProjectionLaunch:
    """Features whose projections' gradients one compiled kernel adds up.

    Attributes:
        width: of a row read, rounded up as in the lookup's launch.
        dim, aligned, metadata: as a `Launch`'s.
    """

    width: int
    dim: int
    aligned: bool
    metadata: torch.Tensor

    @property
    def num_features(self) -> int:
        return self.metadata.shape[0]


@dataclass(frozen=True)
class Plan:
    """
    Attributes:
        repeated: of each feature whose projection an earlier one has too: PROJECTION, PARTIAL, and how many elements lie there.
        partial_numel: elements of the projections' gradient, and behind them of those of `repeated`.
        read_width: see `torchrec_pss.ops.features.read_width`.
        dims: see `torchrec_pss.ops.features.output_dims`.
    """

    launches: list[Launch]
    projections: list[ProjectionLaunch]
    repeated: list[tuple[int, int, int]]
    partial_numel: int
    read_width: int
    dims: list[int]


_of_features: dict[int, tuple[weakref.ref[torch.Tensor], dict[tuple[Any, ...], Plan]]] = {}


def plan(
    features: torch.Tensor,
    array: torch.Tensor,
    hot_keys: torch.Tensor,
    projections: torch.Tensor,
    pooling_mode: int,
    hash_kind: int,
) -> Plan:
    """The launches of a lookup; remembered with the tensor ``features``, whose values are read on the host once.

    Args: the op's; of array, keys and projections only the sizes count.

    Raises:
        ValueError: see `torchrec_pss.ops.features.check_layout`.
    """
    sizes = (array.numel(), hot_keys.numel(), projections.numel())
    key = (sizes, pooling_mode, hash_kind, array.element_size(), version_of(features))
    known = _of_features.get(id(features))
    if known is None or known[0]() is not features:
        number = id(features)
        known = (weakref.ref(features, lambda _: _of_features.pop(number, None)), {})
        _of_features[number] = known
    if key not in known[1]:
        check_layout(features.tolist(), *sizes, hash_kind == HASH_ROBE)
        known[1][key] = _plan(features, projections.numel(), pooling_mode, hash_kind, array.element_size())
    return known[1][key]


def version_of(tensor: torch.Tensor) -> int:
    """How often it was written to; 0 of one that was made under `torch.inference_mode`, where nobody counts."""
    return 0 if tensor.is_inference() else tensor._version


def _plan(features: torch.Tensor, num_projected: int, pooling_mode: int, hash_kind: int, itemsize: int) -> Plan:
    groups: dict[tuple[int, int, int, bool, bool, bool, bool], list[list[int]]] = {}
    out_column = read_column = row_width = 0
    columns: list[int] = []
    seen: list[tuple[int, int]] = []
    repeated: list[tuple[int, int, int]] = []
    partial_numel = num_projected
    for feature, row in enumerate(features.tolist()):
        width, projection, inner = row[FeatureColumn.WIDTH], row[FeatureColumn.PROJECTION], row[FeatureColumn.INNER]
        projected = inner > 0
        dim = row[FeatureColumn.DIM] if projected else width
        vec = _vector(row, hash_kind, itemsize)
        hashed = width > row[FeatureColumn.PREFIX]
        hot = row[FeatureColumn.HOT_END] > row[FeatureColumn.HOT_BEGIN]
        checked = hash_kind == HASH_ROBE or row[FeatureColumn.PREFIX] > 0
        columns.append(out_column)
        partial, end = projection, projection + inner * dim
        if projected and any(projection < other_end and other < end for other, other_end in seen):
            partial = partial_numel
            repeated.append((projection, partial, inner * dim))
            partial_numel += inner * dim
        seen.append((projection, end))
        place = [out_column, read_column, projection, inner, dim, width, partial]
        wide = max(_power_of_two(width), LEAST_DOT // 2 * projected)  # the other half is the bias's
        kind = (vec, wide // vec, max(_power_of_two(dim), LEAST_DOT * projected), projected, hashed, hot, checked)
        groups.setdefault(kind, []).append([feature, *_in_units(row, vec), *place])
        if pooling_mode != PoolingMode.NONE:
            out_column += dim
            read_column += padded(inner)
        row_width = out_column or dim
    aligned = all(column % 4 == 0 for column in columns) and row_width % 4 == 0
    launches = [Launch(*kind, aligned, torch.tensor(rows, device=features.device)) for kind, rows in groups.items()]
    projected_by: dict[tuple[int, int], list[list[int]]] = {}
    for (vec, units, dim, projected, *_), rows in groups.items():
        if projected:
            projected_by.setdefault((vec * units, dim), []).extend(rows)
    projections = [
        ProjectionLaunch(*sizes, aligned, torch.tensor(rows, device=features.device))
        for sizes, rows in projected_by.items()
    ]
    return Plan(
        launches,
        projections,
        repeated,
        partial_numel,
        read_width(features[:, FeatureColumn.INNER].tolist(), pooling_mode),
        output_dims(features.tolist()),
    )


def _vector(row: list[int], hash_kind: int, itemsize: int) -> int:
    """The largest power of two that divides all that an address is made of, up to 16 bytes."""
    if hash_kind == HASH_ROBE:
        return 1
    places = [row[FeatureColumn.WIDTH], row[FeatureColumn.PREFIX]]
    if row[FeatureColumn.PREFIX]:
        places.append(row[FeatureColumn.BASE])
    if row[FeatureColumn.WIDTH] > row[FeatureColumn.PREFIX]:
        places += [row[FeatureColumn.BLOCK], row[FeatureColumn.FIRST]]
    if row[FeatureColumn.HOT_END] > row[FeatureColumn.HOT_BEGIN]:
        places.append(row[FeatureColumn.HOT_BASE])
    return gcd(_VECTOR_BYTES // itemsize, *places)


def _in_units(row: list[int], vec: int) -> list[int]:
    c = FeatureColumn
    units = {name: row[name] // vec for name in (c.WIDTH, c.PREFIX, c.BASE, c.BLOCK, c.FIRST, c.HOT_BASE)}
    return [
        row[c.KEY], row[c.ROWS], units[c.WIDTH], units[c.PREFIX], units[c.BASE], max(units[c.BLOCK], 1), row[c.SLOTS],
        units[c.FIRST], row[c.HOT_BEGIN], row[c.HOT_END], units[c.HOT_BASE], row[c.HOT_DIRECTORY], row[c.HOT_SHIFT],
        row[c.HOT_DROP],
    ]  # fmt: skip


def _power_of_two(number: int) -> int:
    return 1 << max(number - 1, 0).bit_length()
