"""The lookup whose backward takes the optimizer's step on the array, as FBGEMM's TBE does on tables.

No gradient as long as the array is made, filled with zeros and read again: SGD and Adagrad touch only elements that the batch
read, Adam and AdamW pass over the array once.

UpdateKind.NONE takes no step: the gradient goes to another parameter than the array, in fp32 where the array is fp16 or bf16.

Backward reads rows again for the gradients of weights, as TBE does: of two backwards after two forwards, the second's are of the
array that the first has updated. Of elements of few bits each forward keeps what it has read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from torchrec_pss.ops.arguments import check_arguments, refuse_forward_mode
from torchrec_pss.ops.eager import is_unwatched, kernels_of, read_by
from torchrec_pss.ops.packed import pack
from torchrec_pss.ops.update_kinds import UpdateKind, UpdateNumbers


@dataclass
class ArrayUpdate:
    """A step on the array.

    Attributes:
        kind, numbers: the formula and what is in it.
        sink: zeros ``[N]``, fp32 (fp64 for an fp64 array); holds gradients for the time of a backward, of NONE for good.
        state, second: the formula's, as `sink`; None where it has none.
    """

    kind: UpdateKind
    numbers: UpdateNumbers
    sink: torch.Tensor
    state: torch.Tensor | None = None
    second: torch.Tensor | None = None


def gradient_only(like: torch.Tensor) -> ArrayUpdate:
    """No step; a fresh sink of the shape, dtype and device of ``like``."""
    return ArrayUpdate(UpdateKind.NONE, UpdateNumbers(0.0), torch.zeros_like(like, requires_grad=False))


class _FusedLookup(torch.autograd.Function):
    """``leaf`` is there for autograd: what needs the array's gradient, or is given it."""

    @staticmethod
    def forward(
        ctx: Any,
        leaf: torch.Tensor,
        array: torch.Tensor,
        arguments: Any,
        update: Any,
        gives_gradient: bool,
        unwatched: bool,
        bits: int,
        weights: torch.Tensor | None,
        projections: torch.Tensor | None,
    ) -> torch.Tensor:
        features, hot_keys, indices, offsets, widths, flags = arguments
        kernels = kernels_of(array) if unwatched else torch.ops.torchrec_pss
        tensors = features, hot_keys, projections, indices, offsets, weights
        packed = pack(array, bits) if bits < 32 else ()
        out, saved = read_by(kernels, array, packed, (array.shape[0], bits), tensors, widths, flags)
        ctx.save_for_backward(*packed, *tensors, *saved)
        ctx.array, ctx.update, ctx.flags, ctx.gives_gradient, ctx.bits = array, update, flags, gives_gradient, bits
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # Only if somebody may differentiate again does it need to be refused, which takes time.
        return _refusing_backward(ctx, grad) if torch.is_grad_enabled() else _backward(ctx, grad)


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    tensors, bits, update = ctx.saved_tensors, ctx.bits, ctx.update()
    first = 2 if bits < 32 else 0
    packed, (features, hot_keys, projections, indices, offsets, weights, *saved) = tensors[:first], tensors[first:]
    kernels = kernels_of(ctx.array) if is_unwatched(grad, ctx.array, indices) else torch.ops.torchrec_pss
    arguments = (
        ctx.array, update.sink, update.state, update.second, features, hot_keys, projections, indices, offsets, weights, *ctx.flags,
        update.kind, list(update.numbers),
    )  # fmt: skip
    if packed:
        grads = kernels.lookup_packed_backward_update_(grad, saved, *packed, bits, *arguments)
    else:
        grads = kernels.lookup_backward_update_(grad, saved, *arguments)
    grad_projections, grad_weights = grads
    wants_leaf, *_, wants_weights, wants_projections = ctx.needs_input_grad
    grad_leaf = update.sink if update.kind == UpdateKind.NONE and wants_leaf and ctx.gives_gradient else None
    return (
        grad_leaf,
        *[None] * 6,
        grad_weights if wants_weights else None,
        grad_projections if wants_projections else None,
    )


_refusing_backward = once_differentiable(_backward)


def fused_lookup(
    array: torch.Tensor,
    features: torch.Tensor,
    indices: torch.Tensor,
    offsets: torch.Tensor,
    per_sample_weights: torch.Tensor | None = None,
    *,
    update: Callable[[], ArrayUpdate],
    gradient_of: torch.Tensor | None = None,
    hot_keys: torch.Tensor,
    projections: torch.Tensor,
    total_width: int,
    read_width: int,
    pooling_mode: int,
    hash_kind: int,
    sign: bool,
    bits: int = 32,
) -> torch.Tensor:
    """`lookup`, with ``array`` updated in backward instead of given a gradient.

    Args:
        update: called in backward, returns the `ArrayUpdate` to make.
        gradient_of: of UpdateKind.NONE, the parameter that is given the gradient: of the array's shape, in the sink's dtype.
        bits: of elements as they are read; of fewer than 32 the array is packed first, and its gradient is straight through (`lookup_trained`).

    Raises:
        ValueError, IndexError: as `lookup`, and as `pack`.
    """
    unwatched = is_unwatched(array, features, hot_keys, projections, indices, offsets, per_sample_weights)
    if not unwatched:  # or else the op checks them
        check_arguments(
            array, features, hot_keys, projections, indices, offsets, per_sample_weights, pooling_mode, hash_kind
        )
    refuse_forward_mode(array, projections, per_sample_weights)
    widths, flags = (total_width, read_width), (int(pooling_mode), hash_kind, sign)
    arguments = (features, hot_keys, indices, offsets, widths, flags)
    leaf = array if gradient_of is None else gradient_of
    gives = gradient_of is not None
    return _FusedLookup.apply(
        leaf, array.detach(), arguments, update, gives, unwatched, bits, per_sample_weights, projections
    )
