"""What the op's arguments must be. csrc/inputs.cpp has the same rules: a traced model calls the op itself."""

import torch
from torch.autograd import forward_ad

from torchrec_pss.ops.features import FeatureColumn, PoolingMode
from torchrec_pss.ops.hashing import HASH_MIX64, HASH_ROBE

_NUM_COLUMNS = len(FeatureColumn)
_POOLING_MODES = tuple(mode.value for mode in PoolingMode)  # plain numbers, for torch.compile


def check_arguments(
    array: torch.Tensor,
    features: torch.Tensor,
    hot_keys: torch.Tensor,
    projections: torch.Tensor,
    indices: torch.Tensor,
    offsets: torch.Tensor,
    weights: torch.Tensor | None,
    pooling_mode: int,
    hash_kind: int,
) -> None:
    """What can be told from shapes and dtypes alone; holds under torch.compile too.

    Raises:
        ValueError: naming the argument.
    """
    if array.dim() != 1 or not array.is_floating_point():
        raise ValueError(f"array must be a floating-point vector, got {array.dtype} {tuple(array.shape)}")
    if features.dim() != 2 or features.shape[1] != _NUM_COLUMNS or features.dtype != torch.int64:
        raise ValueError(f"features must be int64 [F, {_NUM_COLUMNS}], got {features.dtype} {features.shape}")
    if hot_keys.dim() != 1 or hot_keys.dtype != torch.int32:
        raise ValueError(f"hot_keys must be an int32 vector, got {hot_keys.dtype} {tuple(hot_keys.shape)}")
    for name, tensor in (("indices", indices), ("offsets", offsets)):
        if tensor.dim() != 1 or tensor.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"{name} must be an int32 or int64 vector, got {tensor.dtype} {tuple(tensor.shape)}")
    if offsets.numel() < 1 or (offsets.numel() - 1) % max(features.shape[0], 1):
        raise ValueError(f"offsets must hold F * B + 1 values, got {offsets.numel()} for {features.shape[0]} features")
    if pooling_mode not in _POOLING_MODES:
        raise ValueError(f"pooling_mode must be SUM, MEAN or NONE, got {pooling_mode}")
    if hash_kind not in (HASH_MIX64, HASH_ROBE):
        raise ValueError(f"hash must be {HASH_MIX64} (mix64) or {HASH_ROBE} (robe), got {hash_kind}")
    wanted = torch.float64 if array.dtype == torch.float64 else torch.float32
    if projections.dim() != 1 or projections.dtype != wanted:
        raise ValueError(f"projections must be a {wanted} vector, got {projections.dtype} {tuple(projections.shape)}")
    if weights is not None and (weights.shape != indices.shape or weights.dtype != wanted):
        raise ValueError(
            f"per_sample_weights must be {wanted} of shape {tuple(indices.shape)}, "
            f"got {weights.dtype} {tuple(weights.shape)}"
        )
    check_devices(array, features, hot_keys, projections, indices, offsets, weights)


def check_devices(
    array: torch.Tensor,
    features: torch.Tensor,
    hot_keys: torch.Tensor,
    projections: torch.Tensor,
    indices: torch.Tensor,
    offsets: torch.Tensor,
    weights: torch.Tensor | None,
    *states: torch.Tensor | None,
) -> None:
    """One tensor on "meta" among others would have the op return memory that nobody has written.

    Raises:
        ValueError: a tensor is on another device than the array; names it.
    """
    names = ("features", "hot_keys", "projections", "indices", "offsets", "per_sample_weights")
    tensors = (features, hot_keys, projections, indices, offsets, weights)
    for name, tensor in [*zip(names, tensors, strict=True), *(("a gradient or a state", state) for state in states)]:
        if tensor is not None and tensor.device != array.device:
            raise ValueError(f"{name} is on {tensor.device}, but the array is on {array.device}")


def refuse_forward_mode(*tensors: torch.Tensor | None) -> None:
    """
    Raises:
        NotImplementedError: a tensor has a forward-mode derivative (`torch.func.jvp`), which the op would drop.
    """
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:
        return
    if any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors):
        raise NotImplementedError("the lookup in a shared array has no forward-mode derivative")
