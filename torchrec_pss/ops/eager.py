"""Calls of operators past PyTorch's generic autograd of operators in Python, and past the dispatcher where a GPU is served by Python.

Those take longer on the host than a whole lookup. Where nothing else wants to see the operator, a `torch.autograd.Function` of its own
stands in for its autograd.
"""

from typing import Any

import torch
from torch import nn

_PLAIN = (torch.Tensor, nn.Parameter)

KERNELS: dict[str, Any] = {}
"""By device type, modules whose functions are the operators' implementations there, in Python."""


def kernels_of(array: torch.Tensor) -> Any:
    """Where the operators' implementations are for an array that `is_unwatched`, by the operators' names."""
    return KERNELS.get(array.device.type, torch.ops.torchrec_pss)


def is_unwatched(*tensors: torch.Tensor | None) -> bool:
    """Whether nobody traces, compiles, transforms or overrides operators, and tensors are PyTorch's own."""
    if torch.compiler.is_compiling():
        return False
    for tensor in tensors:
        if tensor is not None and type(tensor) not in _PLAIN:
            return False
    return not (
        torch._C._len_torch_dispatch_stack()
        or torch._C._is_torch_function_mode_enabled()
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state() is not None
    )


def wants_gradient(*tensors: torch.Tensor | None) -> bool:
    """Whether autograd must remember what is made of them."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


Arguments = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]
"""Features, hot keys, projections, indices, offsets and weights, as the operators take them."""


def lookup_of(
    array: torch.Tensor | None,
    packed: tuple[torch.Tensor, ...],
    sizes: tuple[int, ...],
    arguments: Arguments,
    widths: tuple[int, int],
    flags: tuple[int, int, bool],
) -> torch.Tensor:
    """``torch.ops.torchrec_pss.lookup``'s output, or ``lookup_packed``'s, of tensors that are `is_unwatched`. The op checks them.

    Args:
        array: that is read, or that takes the gradient of what is.
        packed, sizes: codes and scales, elements and bits; empty for the op that reads the array.
    """
    _, _, projections, _, _, weights = arguments
    if wants_gradient(array, projections, weights):
        found: torch.Tensor = _Lookup.apply(array, projections, weights, packed, sizes, arguments, widths, flags)
        return found
    return read_by(_kernels(array, packed), array, packed, sizes, arguments, widths, flags)[0]


def _kernels(array: Any, packed: Any) -> Any:
    return kernels_of(packed[0] if packed else array)


def read_by(kernels: Any, array: Any, packed: Any, sizes: Any, arguments: Any, widths: Any, flags: Any) -> Any:
    """Output and what backward needs, by the operator of some ``kernels`` and past its own autograd."""
    with torch._C._AutoDispatchBelowAutograd():
        if packed:
            return kernels.lookup_packed(*packed, array, *sizes, *arguments, *widths, *flags)
        return kernels.lookup(array, *arguments, *widths, *flags)


class _Lookup(torch.autograd.Function):
    """The operators' autograd, as ops/lookup.py and ops/packed.py register it, where nobody watches operators."""

    @staticmethod
    def forward(
        ctx: Any,
        array: torch.Tensor | None,
        projections: torch.Tensor,
        weights: torch.Tensor | None,
        packed: tuple[torch.Tensor, ...],
        sizes: tuple[int, ...],
        arguments: Arguments,
        widths: tuple[int, int],
        flags: tuple[int, int, bool],
    ) -> torch.Tensor:
        features, hot_keys, _, indices, offsets, _ = arguments
        arguments = features, hot_keys, projections, indices, offsets, weights  # as autograd handed them over
        out, saved = read_by(_kernels(array, packed), array, packed, sizes, arguments, widths, flags)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*(packed or (array,)), *arguments, *saved)
        ctx.sizes, ctx.flags = sizes, flags
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        if grad is None:
            return (None,) * 8
        tensors = ctx.saved_tensors  # once: an activation checkpoint makes them anew each time
        first = 2 if ctx.sizes else 1
        elements, arguments, saved = tensors[:first], tensors[first : first + 6], tensors[first + 6 :]
        # By way of the op's autograd, which refuses a second derivative, if somebody may want one.
        is_last = not torch.is_grad_enabled() and is_unwatched(grad, *elements, *arguments)
        ops = kernels_of(elements[0]) if is_last else torch.ops.torchrec_pss
        backward = ops.lookup_packed_backward if ctx.sizes else ops.lookup_backward
        grads = backward(grad, saved, *elements, *ctx.sizes, *arguments, *ctx.flags)
        wanted = (given if needs else None for given, needs in zip(grads, ctx.needs_input_grad[:3], strict=True))
        return *wanted, None, None, None, None, None
