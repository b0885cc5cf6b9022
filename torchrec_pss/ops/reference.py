"""The lookup in plain PyTorch: the truth that every kernel is tested against.

Written to be read, not to be fast: it materialises one address an output element. It is also
what runs where no kernel was built.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch

from torchrec_pss.ops.arguments import check_arguments
from torchrec_pss.ops.features import (
    FeatureColumn,
    PoolingMode,
    check_layout,
    check_read_width,
    check_total_width,
    output_dims,
    padded,
)
from torchrec_pss.ops.features import read_width as read_width_of
from torchrec_pss.ops.hashing import HASH_ROBE, block_hashes, hot_keys_of, robe_offsets, shortened, signs, slots
from torchrec_pss.ops.update_kinds import UpdateKind, UpdateNumbers, apply_update


def row_addresses(
    feature: torch.Tensor, hot_keys: torch.Tensor, ids: torch.Tensor, hash_kind: int, sign: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the rows ``ids`` of one feature's table live (docs/how/hashing.md, section 1).

    Args:
        feature: one row of the `features` matrix, int64 ``[len(FeatureColumn)]``.
        hot_keys: the op's, int32 ``[K]``.
        ids: ``[n]``, any integer dtype.
        hash_kind: HASH_MIX64 or HASH_ROBE.
        sign: whether shared coordinates carry a sign.

    Returns:
        Addresses into the array and signs (+1 or -1), both int64 ``[n, width]``.
    """
    key, _, width, prefix, base, block, num_slots, first_shared, hot_begin, hot_end, hot_base, _, _, drop, *_ = (
        feature.tolist()
    )
    if width == prefix:  # what an exact table's row says of hashed blocks and hot rows means nothing
        block, num_slots, first_shared, hot_end = 1, 1, 0, hot_begin
    ids = ids.to(torch.int64)
    exact = base + ids[:, None] * prefix + torch.arange(prefix, device=ids.device)
    num_blocks = (width - prefix) // block if width > prefix else 0
    if hash_kind == HASH_ROBE:
        first = robe_offsets(key, ids, num_blocks, num_slots)
        block_signs = torch.ones_like(first)
    else:
        hashes = block_hashes(key, ids, num_blocks)
        first = first_shared + slots(hashes, num_slots) * block
        block_signs = signs(hashes) if sign else torch.ones_like(first)
    shared = (first[:, :, None] + torch.arange(block, device=ids.device)).flatten(1)
    shared_signs = block_signs.repeat_interleave(block, dim=1)
    if hot_end > hot_begin:
        wanted, keys = shortened(hot_keys_of(key, ids), drop), hot_keys[hot_begin:hot_end]
        at = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        is_hot = (keys[at] == wanted)[:, None]
        own = hot_base + at[:, None] * (width - prefix) + torch.arange(width - prefix, device=ids.device)
        shared, shared_signs = torch.where(is_hot, own, shared), shared_signs.masked_fill(is_hot, 1)
    return torch.cat([exact, shared], dim=1), torch.cat([torch.ones_like(exact), shared_signs], dim=1)


def check_inputs(features: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor, hash_kind: int) -> None:
    """Raises IndexError for offsets that do not describe bags, and for ids out of an exact table's range."""
    if int(offsets[0]) != 0:
        raise IndexError(f"offsets must start at 0, got {int(offsets[0])}")
    lengths = offsets.diff()
    if bool((lengths < 0).any()):
        bag = int((lengths < 0).nonzero()[0])
        pair = f"offsets[{bag}] = {int(offsets[bag])}, offsets[{bag + 1}] = {int(offsets[bag + 1])}"
        raise IndexError(f"offsets must not decrease: {pair}")
    if int(offsets[-1]) != indices.numel():
        raise IndexError(f"offsets end at {int(offsets[-1])}, but there are {indices.numel()} indices")
    for f, ids in enumerate(_ids_per_feature(features, indices, offsets)):
        if hash_kind == HASH_ROBE or int(features[f, FeatureColumn.PREFIX]) > 0:
            rows = int(features[f, FeatureColumn.ROWS])
            ids = ids.to(torch.int64)  # an int32 does not compare with a larger number of rows
            bad = ids[(ids < 0) | (ids >= rows)]
            if bad.numel():
                raise IndexError(f"feature {f}: id {int(bad[0])} is out of range [0, {rows})")


def lookup(
    array: torch.Tensor,
    features: torch.Tensor,
    hot_keys: torch.Tensor,
    projections: torch.Tensor,
    indices: torch.Tensor,
    offsets: torch.Tensor,
    per_sample_weights: torch.Tensor | None,
    total_width: int,
    read_width: int,
    pooling_mode: int,
    hash_kind: int,
    sign: bool,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The op's forward; differentiable in array, projections and weights. See ops/lookup.py.

    Returns:
        The output, and what backward needs: the pooled reads of the features that are projected, each with its bias and padded
        to a multiple of 8 columns, side by side ``[B, sum of them]`` (for NONE ``[L, largest of them]``). Nothing reads the padding.
    """
    check_arguments(
        array, features, hot_keys, projections, indices, offsets, per_sample_weights, pooling_mode, hash_kind
    )
    check_layout(features.tolist(), len(array), len(hot_keys), len(projections), hash_kind == HASH_ROBE)
    check_total_width(total_width, output_dims(features.tolist()), pooling_mode)
    check_inputs(features, indices, offsets, hash_kind)
    check_read_width(read_width, read_width_of(features[:, FeatureColumn.INNER].tolist(), pooling_mode))
    dtype = torch.promote_types(array.dtype, torch.float32)
    pooled = pooling_mode != PoolingMode.NONE
    batch_size = _batch_size(features, offsets)
    scales = _scales(indices, offsets, per_sample_weights, pooling_mode, dtype)
    values = array.to(dtype)  # the whole array first, so that autograd adds gradients up in fp32
    outputs, reads = [], []
    for f, ids in enumerate(_ids_per_feature(features, indices, offsets)):
        start = int(offsets[f * batch_size])
        addresses, row_signs = row_addresses(features[f], hot_keys, ids, hash_kind, sign)
        rows = values[addresses] * row_signs
        projection = _projection(features[f], projections)
        is_projected = projection.shape[0] > 0
        if projection.shape[0] > rows.shape[1]:
            rows = torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)
        read = rows * scales[start : start + ids.numel(), None]
        if pooled:
            read = read.new_zeros(batch_size, rows.shape[1]).index_add(0, _bag_of_index(f, batch_size, offsets), read)
        outputs.append(read @ projection if is_projected else read)
        if is_projected:
            reads.append(torch.nn.functional.pad(read, (0, padded(read.shape[1]) - read.shape[1])))
        elif not pooled:
            reads.append(read[:, :0])
    if not outputs:
        return array.new_zeros(0, total_width, dtype=dtype), [array.new_zeros(0, 0, dtype=dtype)]
    out = torch.cat(outputs, dim=1 if pooled else 0)
    if pooled:
        return out, [torch.cat(reads, dim=1) if reads else out.new_zeros(batch_size, 0)]
    return out, [torch.cat([torch.nn.functional.pad(read, (0, read_width - read.shape[1])) for read in reads])]


def lookup_backward(
    grad: torch.Tensor,
    saved: Sequence[torch.Tensor],
    array: torch.Tensor,
    features: torch.Tensor,
    hot_keys: torch.Tensor,
    projections: torch.Tensor,
    indices: torch.Tensor,
    offsets: torch.Tensor,
    per_sample_weights: torch.Tensor | None,
    pooling_mode: int,
    hash_kind: int,
    sign: bool,
    *,
    wide: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of the array (its dtype; ``wide``: the accumulator's), of the projections ``[P]``, and of the weights (empty where
    there are none)."""
    (read,) = saved
    batch_size = _batch_size(features, offsets)
    scales = _scales(indices, offsets, per_sample_weights, pooling_mode, grad.dtype)
    lengths_only = _scales(indices, offsets, None, pooling_mode, grad.dtype)
    grad_array = torch.zeros_like(array, dtype=grad.dtype)
    grad_projections = torch.zeros_like(projections)
    grad_weights = grad.new_zeros(0 if per_sample_weights is None else indices.numel())
    column = read_column = 0
    for f, ids in enumerate(_ids_per_feature(features, indices, offsets)):
        start = int(offsets[f * batch_size])
        here = slice(start, start + ids.numel())
        addresses, row_signs = row_addresses(features[f], hot_keys, ids, hash_kind, sign)
        width = addresses.shape[1]
        projection = _projection(features[f], projections)
        is_projected = projection.shape[0] > 0
        out_width = projection.shape[1] if is_projected else width
        if pooling_mode == PoolingMode.NONE:
            grad_read, read_here = grad[here], read[here]
        else:
            grad_read, read_here = grad[:, column : column + out_width], read[:, read_column:]
            column += out_width
        if is_projected:
            inner = projection.shape[0]
            _projection(features[f], grad_projections).add_(read_here[:, :inner].T @ grad_read)
            grad_read = grad_read @ projection.T
            read_column += padded(inner)
        if pooling_mode != PoolingMode.NONE:
            grad_read = grad_read[_bag_of_index(f, batch_size, offsets)]
        contribution = grad_read[:, :width] * row_signs * scales[here, None]
        grad_array.index_add_(0, addresses.flatten(), contribution.flatten())
        if per_sample_weights is not None:
            rows = array[addresses].to(grad.dtype) * row_signs
            biases = grad_read[:, width:].sum(1)  # one column or none
            grad_weights[here] = ((rows * grad_read[:, :width]).sum(1) + biases) * lengths_only[here]
    return grad_array if wide else grad_array.to(array.dtype), grad_projections, grad_weights


def lookup_backward_update_(
    grad: torch.Tensor,
    saved: Sequence[torch.Tensor],
    array: torch.Tensor,
    sink: torch.Tensor,
    state: torch.Tensor | None,
    second: torch.Tensor | None,
    *arguments: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`lookup_backward` whose gradient of the array becomes a step on it, or is left in ``sink``, see
    `torchrec_pss.ops.update_kinds`; the last of ``arguments`` are the kind and its numbers. The other gradients are returned."""
    *others, kind, numbers = arguments
    gradient, grad_projections, grad_weights = lookup_backward(grad, saved, array, *others, wide=True)
    step(array, gradient, sink, state, second, kind, numbers)
    return grad_projections, grad_weights


def step(
    array: torch.Tensor,
    gradient: torch.Tensor,
    sink: torch.Tensor,
    state: torch.Tensor | None,
    second: torch.Tensor | None,
    kind: int,
    numbers: Sequence[float],
) -> None:
    """What ops that step the array do with its gradient."""
    if kind == UpdateKind.NONE:
        sink += gradient
    else:
        apply_update(array, gradient.to(sink.dtype), state, second, kind, UpdateNumbers(*numbers))


def _projection(feature: torch.Tensor, projections: torch.Tensor) -> torch.Tensor:
    """The feature's part of ``projections`` (or of their gradient), a view; of no rows where it is not projected."""
    begin, inner, dim = feature[FeatureColumn.PROJECTION :].tolist()
    if inner == 0:
        return projections[:0].view(0, 0)
    return projections[begin : begin + inner * dim].view(inner, dim)


def _batch_size(features: torch.Tensor, offsets: torch.Tensor) -> int:
    return (offsets.numel() - 1) // max(features.shape[0], 1)


def _ids_per_feature(features: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor) -> list[torch.Tensor]:
    batch_size = _batch_size(features, offsets)
    bounds = [int(offsets[f * batch_size]) for f in range(features.shape[0] + 1)]
    return [indices[begin:end] for begin, end in itertools.pairwise(bounds)]


def _bag_of_index(feature: int, batch_size: int, offsets: torch.Tensor) -> torch.Tensor:
    """The bag (0 .. batch_size - 1) of each index of one feature."""
    lengths = offsets[feature * batch_size : (feature + 1) * batch_size + 1].diff()
    return torch.arange(batch_size, device=offsets.device).repeat_interleave(lengths)


def _scales(
    indices: torch.Tensor,
    offsets: torch.Tensor,
    per_sample_weights: torch.Tensor | None,
    pooling_mode: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """What each index's row is multiplied with: its weight, over its bag's length for MEAN."""
    scales = torch.ones(indices.numel(), dtype=dtype, device=indices.device)
    if pooling_mode == PoolingMode.MEAN:
        lengths = offsets.diff()
        scales = scales / lengths.repeat_interleave(lengths)
    return scales if per_sample_weights is None else scales * per_sample_weights.to(dtype)
