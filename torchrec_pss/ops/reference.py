"""The lookup in plain PyTorch: the truth that every kernel is tested against.

Written to be read, not to be fast: it materialises one address an output element. It is also
what runs where no kernel was built.
"""

import itertools

import torch

from torchrec_pss.ops.features import FeatureColumn, PoolingMode
from torchrec_pss.ops.hashing import HASH_ROBE, block_hashes, hot_keys_of, robe_offsets, signs, slots


def row_addresses(
    feature: torch.Tensor, hot_keys: torch.Tensor, ids: torch.Tensor, hash_kind: int, sign: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the rows ``ids`` of one feature's table live (docs/hashing.md, section 1).

    Args:
        feature: one row of the `features` matrix, int64 ``[len(FeatureColumn)]``.
        hot_keys: the op's, int32 ``[K]``.
        ids: ``[n]``, any integer dtype.
        hash_kind: HASH_MIX64 or HASH_ROBE.
        sign: whether shared coordinates carry a sign.

    Returns:
        Addresses into the array and signs (+1 or -1), both int64 ``[n, width]``.
    """
    key, _, width, prefix, base, block, num_slots, first_shared, hot_begin, hot_end, hot_base = feature.tolist()
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
        wanted, keys = hot_keys_of(key, ids), hot_keys[hot_begin:hot_end]
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
    indices: torch.Tensor,
    offsets: torch.Tensor,
    per_sample_weights: torch.Tensor | None,
    total_width: int,
    pooling_mode: int,
    hash_kind: int,
    sign: bool,
) -> torch.Tensor:
    """The op's forward; differentiable in ``array`` and ``per_sample_weights``. See ops/lookup.py."""
    check_inputs(features, indices, offsets, hash_kind)
    dtype = torch.promote_types(array.dtype, torch.float32)
    batch_size = _batch_size(features, offsets)
    scales = _scales(indices, offsets, per_sample_weights, pooling_mode, dtype)
    values = array.to(dtype)  # the whole array first, so that autograd adds gradients up in fp32
    outputs = []
    for f, ids in enumerate(_ids_per_feature(features, indices, offsets)):
        start = int(offsets[f * batch_size])
        addresses, row_signs = row_addresses(features[f], hot_keys, ids, hash_kind, sign)
        rows = values[addresses] * row_signs * scales[start : start + ids.numel(), None]
        if pooling_mode == PoolingMode.NONE:
            outputs.append(rows)
        else:
            pooled = rows.new_zeros(batch_size, rows.shape[1])
            outputs.append(pooled.index_add(0, _bag_of_index(f, batch_size, offsets), rows))
    dim = 0 if pooling_mode == PoolingMode.NONE else 1
    if not outputs:
        return array.new_zeros(0, total_width, dtype=dtype)
    return torch.cat(outputs, dim=dim)


def lookup_backward(
    grad: torch.Tensor,
    array: torch.Tensor,
    features: torch.Tensor,
    hot_keys: torch.Tensor,
    indices: torch.Tensor,
    offsets: torch.Tensor,
    per_sample_weights: torch.Tensor | None,
    pooling_mode: int,
    hash_kind: int,
    sign: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of the array (its dtype) and of the weights (empty where there are none)."""
    batch_size = _batch_size(features, offsets)
    scales = _scales(indices, offsets, per_sample_weights, pooling_mode, grad.dtype)
    lengths_only = _scales(indices, offsets, None, pooling_mode, grad.dtype)
    grad_array = torch.zeros_like(array, dtype=grad.dtype)
    grad_weights = grad.new_zeros(0 if per_sample_weights is None else indices.numel())
    column = 0
    for f, ids in enumerate(_ids_per_feature(features, indices, offsets)):
        start = int(offsets[f * batch_size])
        here = slice(start, start + ids.numel())
        addresses, row_signs = row_addresses(features[f], hot_keys, ids, hash_kind, sign)
        width = addresses.shape[1]
        if pooling_mode == PoolingMode.NONE:
            grad_rows = grad[here]
        else:
            grad_rows = grad[_bag_of_index(f, batch_size, offsets), column : column + width]
            column += width
        contribution = grad_rows * row_signs * scales[here, None]
        grad_array.index_add_(0, addresses.flatten(), contribution.flatten())
        if per_sample_weights is not None:
            rows = array[addresses].to(grad.dtype) * row_signs
            grad_weights[here] = (rows * grad_rows).sum(1) * lengths_only[here]
    return grad_array.to(array.dtype), grad_weights


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
