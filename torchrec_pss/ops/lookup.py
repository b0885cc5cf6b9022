"""``torch.ops.torchrec_pss.lookup``: embedding bags read from one shared array.

The schema stands in csrc/schemas.h. The C++ kernel implements it for the CPU, Triton kernels for CUDA; the plain PyTorch
reference serves where those cannot be had.
"""

import importlib
import importlib.util
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NoReturn

import torch

from torchrec_pss.ops import reference
from torchrec_pss.ops.arguments import check_arguments, check_devices, refuse_forward_mode
from torchrec_pss.ops.eager import KERNELS, is_unwatched, lookup_of
from torchrec_pss.ops.features import PoolingMode
from torchrec_pss.ops.library import HAS_CPU_KERNEL
from torchrec_pss.ops.schemas import schemas

_library = torch.library.Library("torchrec_pss", "FRAGMENT")
if not HAS_CPU_KERNEL:
    for _schema in schemas():
        in_place = _schema.partition("(")[0].endswith("_")
        _library.define(_schema, tags=() if in_place else (torch.Tag.pt2_compliant_tag,))

_on_gpu: ModuleType
if torch.version.cuda is None or importlib.util.find_spec("triton") is None:
    _on_gpu = reference
else:
    _on_gpu = importlib.import_module("torchrec_pss.ops.triton.lookup")
    KERNELS["cuda"] = _on_gpu
for _key, _implementation in {"CUDA": _on_gpu, **({} if HAS_CPU_KERNEL else {"CPU": reference})}.items():
    for _name in ("lookup", "lookup_backward", "lookup_backward_update_"):
        _library.impl(_name, getattr(_implementation, _name), _key)


def lookup(
    array: torch.Tensor,
    features: torch.Tensor,
    indices: torch.Tensor,
    offsets: torch.Tensor,
    per_sample_weights: torch.Tensor | None = None,
    *,
    hot_keys: torch.Tensor | None = None,
    projections: torch.Tensor | None = None,
    total_width: int,
    read_width: int = 0,
    pooling_mode: int = PoolingMode.SUM,
    hash_kind: int = 0,
    sign: bool = True,
) -> torch.Tensor:
    """Reads and pools embedding bags from one shared array (ROBE: arXiv 2108.02191; ours: docs/how/hashing.md).

    Inputs follow FBGEMM's table-batched convention: the bags of feature 0 for the whole batch,
    then those of feature 1, and so on.

    Args:
        array: ``[N]``, fp32, bf16, fp16 or fp64.
        features: int64 ``[F, len(FeatureColumn)]`` from `feature_matrix`.
        indices: int32 or int64 ``[L]``, the ids; any value where the table has no exact coordinates.
        offsets: int32 or int64 ``[F * B + 1]``, first 0, non-decreasing, last ``L``.
        per_sample_weights: ``[L]``, fp32 (fp64 for an fp64 array), or None.
        hot_keys: int32 ``[K]``, the keys of the tables' hot rows
            (`hot_keys_of`), ascending within a table; None where no table has any.
        projections: fp32 (fp64 for an fp64 array) ``[P]``, the matrices by which pooled reads are multiplied, each where its feature
            says: ``[width, dim]`` or, with a bias as last row, ``[width + 1, dim]`` (each row read has one more coordinate then,
            1). None where no feature is projected.
        total_width: sum of the features' widths, after projection; for NONE, the one width of all features.
        read_width: `read_width`, 0 where no feature is projected.
        pooling_mode: SUM, MEAN (a weighted bag is divided by its length, as FBGEMM does) or NONE.
        hash_kind: HASH_MIX64 or HASH_ROBE.
        sign: whether shared coordinates carry a sign.

    Returns:
        fp32 (fp64 for an fp64 array), ``[B, total_width]`` in the features' order, or
        ``[L, total_width]`` for NONE. An empty bag gives zeros.

    Raises:
        ValueError: wrong shape, dtype, device or pooling mode; metadata that are no layout of the array.
        NotImplementedError: in a second derivative, and in forward mode.
        IndexError: offsets that do not describe bags, or an id out of an exact table's range.
    """
    if hot_keys is None:
        hot_keys = features.new_zeros(0, dtype=torch.int32)
    if projections is None:
        projections = array.new_zeros(0, dtype=torch.promote_types(array.dtype, torch.float32))
    refuse_forward_mode(array, projections, per_sample_weights)
    arguments = features, hot_keys, projections, indices, offsets, per_sample_weights
    widths, flags = (total_width, read_width), (int(pooling_mode), hash_kind, sign)
    if is_unwatched(array, *arguments):
        return lookup_of(array, (), (), arguments, widths, flags)
    check_arguments(array, *arguments, pooling_mode, hash_kind)
    return torch.ops.torchrec_pss.lookup(array, *arguments, *widths, *flags)[0]


@torch.library.register_fake("torchrec_pss::lookup")
def _fake_lookup(
    array: torch.Tensor,
    features: torch.Tensor,
    hot_keys: torch.Tensor,
    projections: torch.Tensor,
    indices: torch.Tensor,
    offsets: torch.Tensor,
    weights: torch.Tensor | None,
    total_width: int,
    read_width: int,
    pooling_mode: int,
    hash: int,
    sign: bool,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    check_devices(array, features, hot_keys, projections, indices, offsets, weights)
    rows = indices.shape[0] if pooling_mode == PoolingMode.NONE else (offsets.shape[0] - 1) // max(features.shape[0], 1)
    dtype = torch.promote_types(array.dtype, torch.float32)
    saved = [array.new_empty(rows, read_width, dtype=dtype)]
    if array.device.type == "cpu":
        numbers = indices.shape[0] if HAS_CPU_KERNEL else None
    else:
        by_triton = _on_gpu is not reference and array.dtype != torch.float64
        numbers = (indices.shape[0] if hot_keys.shape[0] else 0) if by_triton else None
    if numbers is not None:
        saved.append(indices.new_empty(numbers, dtype=torch.int32))
    return array.new_empty(rows, total_width, dtype=dtype), saved


@torch.library.register_fake("torchrec_pss::lookup_backward")
def _fake_backward(
    grad: torch.Tensor,
    saved: Sequence[torch.Tensor],
    array: torch.Tensor,
    features: torch.Tensor,
    hot_keys: torch.Tensor,
    projections: torch.Tensor,
    indices: torch.Tensor,
    offsets: torch.Tensor,
    weights: torch.Tensor | None,
    pooling_mode: int,
    hash: int,
    sign: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    check_devices(array, features, hot_keys, projections, indices, offsets, weights, grad, *saved)
    num_weights = 0 if weights is None else indices.shape[0]
    return torch.empty_like(array), torch.empty_like(projections), grad.new_empty(num_weights)


@torch.library.register_fake("torchrec_pss::lookup_backward_update_")
def _fake_update(
    grad: torch.Tensor,
    saved: Sequence[torch.Tensor],
    array: torch.Tensor,
    sink: torch.Tensor,
    state: torch.Tensor | None,
    second: torch.Tensor | None,
    features: torch.Tensor,
    hot_keys: torch.Tensor,
    projections: torch.Tensor,
    indices: torch.Tensor,
    offsets: torch.Tensor,
    weights: torch.Tensor | None,
    *_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    states = (grad, *saved, sink, state, second)
    check_devices(array, features, hot_keys, projections, indices, offsets, weights, *states)
    num_weights = 0 if weights is None else indices.shape[0]
    return torch.empty_like(projections), grad.new_empty(num_weights)


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    array, features, hot_keys, projections, indices, offsets, weights, _, _, pooling_mode, hash_kind, sign = inputs
    ctx.mark_non_differentiable(*output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(array, features, hot_keys, projections, indices, offsets, weights, *output[1])
    ctx.flags = (pooling_mode, hash_kind, sign)


def _backward(ctx: Any, grad: torch.Tensor | None, _: Any) -> tuple[torch.Tensor | None, ...]:
    array, features, hot_keys, projections, indices, offsets, weights, *saved = ctx.saved_tensors
    if grad is None:
        return (None,) * 12
    grad_array, grad_projections, grad_weights = torch.ops.torchrec_pss.lookup_backward(
        grad, saved, array, features, hot_keys, projections, indices, offsets, weights, *ctx.flags
    )
    wants_weights = weights is not None and ctx.needs_input_grad[6]
    grad_weights = grad_weights if wants_weights else None
    return grad_array, None, None, grad_projections, None, None, grad_weights, *[None] * 5


def _no_second_derivative(ctx: Any, *_: Any) -> NoReturn:
    raise NotImplementedError(
        "the lookup in a shared array has no second derivative: do not differentiate through its gradient (create_graph=True), "
        "or take gradient penalties of what follows the embeddings only"
    )


torch.library.register_autograd("torchrec_pss::lookup", _backward, setup_context=_setup_context)
torch.library.register_autograd("torchrec_pss::lookup_backward", _no_second_derivative)
