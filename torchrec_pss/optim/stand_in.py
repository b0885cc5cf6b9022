"""`stand_in`: the fp32 parameter that an optimizer steps in the place of an fp16 or bf16 array.

Half precision holds an array's elements, and not an optimizer's arithmetic: torch's default eps of 1e-8 is 0 in fp16, so that an
element without a gradient becomes 0 / 0. The gradient, the optimizer's state and its arithmetic are in fp32 here, as in
FBGEMM's fp16 tables; the result is rounded to the array.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

_ATTRIBUTE = "_stand_in"  # of the array's parameter


def stand_in(array: nn.Parameter) -> nn.Parameter:
    """The array itself, or of an fp16 or bf16 one a parameter of its shape and device in fp32, always the same one. That one's
    values are the array's only within `widened`."""
    if array.dtype not in (torch.float16, torch.bfloat16):
        return array
    wide = getattr(array, _ATTRIBUTE, None)
    if wide is None:
        wide = nn.Parameter(torch.zeros_like(array, dtype=torch.float32, requires_grad=False))
        setattr(array, _ATTRIBUTE, wide)
    if wide.device != array.device or wide.shape != array.shape:
        wide.data = torch.zeros_like(array, dtype=torch.float32)
    return wide


@contextmanager
def widened(array: nn.Parameter) -> Iterator[None]:
    """Within it the stand-in has the array's values; afterwards, but for an error, the array has the stand-in's. Nothing is done to an
    array that stands for itself."""
    wide = stand_in(array)
    if wide is array:
        yield
        return
    with torch.no_grad():
        wide.copy_(array)
    yield
    with torch.no_grad():
        array.copy_(wide)


def state_of(optimizer: torch.optim.Optimizer, array: nn.Parameter) -> dict[str, Any]:
    """What an optimizer (or a `torchrec.optim.keyed.KeyedOptimizer`) keeps of the array, or of its stand-in."""
    state = optimizer.state
    return state.get(array) or state.get(getattr(array, _ATTRIBUTE, array)) or {}
