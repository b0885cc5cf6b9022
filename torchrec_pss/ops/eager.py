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
