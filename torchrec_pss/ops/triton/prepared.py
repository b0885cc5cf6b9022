"""What is known of a lookup before its batch comes: its arguments are good, and these are its launches.

Remembered with the tensor ``features``, whose values are read on the host once, for as long as that lives and is not written to.
"""

import weakref
from functools import cached_property
from typing import Any, NamedTuple

import torch

from torchrec_pss.ops.arguments import check_arguments
from torchrec_pss.ops.features import FeatureColumn, PoolingMode, check_read_width, check_total_width
from torchrec_pss.ops.triton import tiling
from torchrec_pss.ops.triton.choices import (
    Kind,
    ProjectionChoice,
    backward_kernels,
    forward_kernels,
    projection_choices,
)
from torchrec_pss.ops.triton.launch import Kernel
from torchrec_pss.ops.triton.launches import Plan, plan, version_of


class Step(NamedTuple):
    """Kernels for a group of features, in their order."""

    metadata: torch.Tensor
    pointer: int  # to them
    num_features: int
    kernels: list[Kernel]


class Projections(NamedTuple):
    """Kernels for the projections' gradients.

    Attributes:
        adds: whether all add to one sum.
        read: width and dim of the groups whose reads' gradients they give too.
    """

    steps: list[tuple[Step, ProjectionChoice]]
    adds: bool
    read: frozenset[tuple[int, int]]


class Prepared:
    """The launches of a lookup; each kind is chosen when it is first made."""

    def __init__(self, planned: Plan, kind: Kind, rows: list[list[int]]) -> None:
        self.plan = planned
        self.num_features = len(rows)
        self._kind = kind
        self._width: int | None = None
        sizes = (row[FeatureColumn.INNER] * row[FeatureColumn.DIM] for row in rows if row[FeatureColumn.INNER])
        self.is_all_projected = sum(sizes) == planned.partial_numel  # all of the projections is some feature's
        self._backward: dict[tuple[bool, torch.dtype], list[Step]] = {}
        self._projections: dict[bool, Projections] = {}

    def check_widths(self, total_width: int, read_width: int) -> None:
        """
        Raises:
            ValueError: they are not those of the features.
        """
        if read_width != self.plan.read_width or total_width != self._width:
            check_read_width(read_width, self.plan.read_width)
            check_total_width(total_width, self.plan.dims, self._kind.pooling_mode)
            self._width = total_width

    @cached_property
    def forward(self) -> list[Step]:
        """Of a forward."""
        return [_step(group.metadata, forward_kernels(group, self._kind)) for group in self.plan.launches]

    def backward(self, by_sorting: bool, dtype: torch.dtype) -> list[Step]:
        """Of a backward into gradients of a dtype, in the order of ``plan.launches``."""
        steps = self._backward.get((by_sorting, dtype))
        if steps is None:
            read = self.projections(by_sorting).read
            steps = [
                _step(g.metadata, backward_kernels(g, self._kind, by_sorting, g.projected and (g.vec * g.units, g.dim) not in read))
                for g in self.plan.launches
            ]  # fmt: skip
            self._backward[by_sorting, dtype] = steps
        return steps

    def projections(self, by_sorting: bool) -> Projections:
        """Of the projections' gradients."""
        found = self._projections.get(by_sorting)
        if found is None:
            groups = self.plan.projections
            choices, adds = projection_choices(groups, self._kind.pooling_mode, by_sorting)
            pairs = list(zip(groups, choices, strict=True))
            steps = [(_step(group.metadata, choice.kernels), choice) for group, choice in pairs]
            read = frozenset((group.width, group.dim) for group, choice in pairs if choice.reads)
            found = self._projections[by_sorting] = Projections(steps, adds, read)
        return found


def _step(metadata: torch.Tensor, kernels: list[Kernel]) -> Step:
    return Step(metadata, metadata.data_ptr(), metadata.shape[0], kernels)


_Known = tuple[weakref.ref[torch.Tensor], tuple[int, int], dict[tuple[Any, ...], Prepared]]
_of_features: dict[int, _Known] = {}


def prepared(
    values: torch.Tensor, numel: int, bits: int, features: torch.Tensor, hot_keys: torch.Tensor, projections: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor, weights: torch.Tensor | None,
    pooling_mode: int, hash: int, sign: bool,
) -> tuple[Prepared, int]:  # fmt: skip
    """
    Args:
        values: the array, or its codes.
        numel, bits: of the array.
        features, hot_keys, projections, indices, offsets, weights, pooling_mode, hash, sign: the op's.

    Returns:
        What is prepared, and the batch size.

    Raises:
        ValueError: see `check_arguments` and `torchrec_pss.ops.features.check_layout`.
    """
    state = (version_of(features), features.data_ptr())
    known = _of_features.get(id(features))
    if known is None or known[0]() is not features or known[1] != state:
        number = id(features)
        known = (weakref.ref(features, lambda _: _of_features.pop(number, None)), state, {})
        _of_features[number] = known
    choice, many = (
        tiling.current(),
        indices.dim() == 1 and indices.numel() >= tiling.MANY_IDS * max(offsets.numel() - 1, 1),
    )
    # All that the checks and the compiled code depend on, but for what each batch has another of.
    key = (
        values.dtype, values.shape, values.device, numel, bits, hot_keys.dtype, hot_keys.shape, hot_keys.device, projections.dtype,
        projections.shape, projections.device, indices.dtype, indices.dim(), indices.device, offsets.dtype, offsets.dim(), offsets.device,
        None if weights is None else (weights.dtype, weights.device), pooling_mode, hash, sign, choice, many,
    )  # fmt: skip
    found = known[2].get(key)
    if found is not None:
        batch_size, rest = divmod(offsets.shape[0] - 1, found.num_features or 1)
        if not rest and batch_size >= 0 and (weights is None or weights.shape == indices.shape):
            return found, batch_size
    like = values if bits == 32 else torch.empty(numel, dtype=torch.float32, device="meta")
    array = values if bits == 32 else values.new_empty(0, dtype=torch.float32)
    check_arguments(array, features, hot_keys, projections, indices, offsets, weights, pooling_mode, hash)
    planned = plan(features, like, hot_keys, projections, pooling_mode, hash)
    kind = Kind(
        int(pooling_mode),
        weights is not None,
        int(hash),
        bool(sign),
        numel < 1 << 31,
        bits,
        tiling.MANY_IDS if many else 1.0,
    )
    found = known[2][key] = Prepared(planned, kind, features.tolist())
    return found, (offsets.numel() - 1) // max(found.num_features, 1)


def output_rows(indices: torch.Tensor, batch_size: int, pooling_mode: int) -> int:
    """Of the output."""
    return indices.shape[0] if pooling_mode == PoolingMode.NONE else batch_size
