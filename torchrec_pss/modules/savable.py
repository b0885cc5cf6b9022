"""Tensors that backward may keep, also of batches made under `torch.inference_mode`."""

from typing import TypeVar

import torch

_Tensor = TypeVar("_Tensor", torch.Tensor, torch.Tensor | None)


def is_savable(tensor: torch.Tensor) -> bool:
    """Whether backward may keep it: not what was made under `torch.inference_mode`. Within it, and while compiling, nobody asks."""
    return torch.compiler.is_compiling() or torch.is_inference_mode_enabled() or not tensor.is_inference()


def savable(tensor: _Tensor) -> _Tensor:
    """A batch's tensor as backward may keep it, also where it was made, or computed from others, under `torch.inference_mode`."""
    return tensor if tensor is None or is_savable(tensor) else tensor.clone()
