"""Has TorchRec's `RowWiseAdagrad` take a shared array, every element of which stands for itself.

`apply_optimizer_in_backward` makes an optimizer of a parameter at once, and this class makes its state by rows, of which a 1-D
parameter has none: it ended in an IndexError. The names of FBGEMM's other kernels (`torchrec.optim.Adam`) make nothing.
"""

import functools
import inspect
from typing import Any

import torch
from torchrec.optim import RowWiseAdagrad

_TAKEN = tuple(inspect.signature(torch.optim.Adagrad.__init__).parameters)
_NO_ROWS = (
    "RowWiseAdagrad has no rows in a 1-D parameter, such as a shared array: give that one an optimizer of its own, "
    "RowWiseAdagrad([array]) or any of torch.optim"
)


def _made(cls: type[RowWiseAdagrad], params: Any = None, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
    """`torch.optim.Adagrad` with `RowWiseAdagrad`'s own arguments and defaults, where all parameters are 1-D; else what Python makes."""
    own_step = inspect.unwrap(cls.step) is not inspect.unwrap(RowWiseAdagrad.step)  # torch wraps it
    if own_step or set(_dims(params)) != {1}:
        return object.__new__(cls)
    bound = inspect.signature(RowWiseAdagrad.__init__).bind(None, params, *args, **kwargs)
    bound.apply_defaults()
    return torch.optim.Adagrad(**{n: v for n, v in bound.arguments.items() if n in _TAKEN and n != "self"})


def _dims(params: Any) -> list[int]:
    """Of parameters, as an optimizer takes them, that can be looked at without using them up."""
    if isinstance(params, torch.Tensor):
        return [params.dim()]
    if isinstance(params, dict):
        return _dims(params.get("params"))
    if not isinstance(params, list | tuple):
        return []
    return [dim for one in params for dim in _dims(one)]


_rowwise = RowWiseAdagrad.__init__


@functools.wraps(_rowwise)
def _initialised(self: RowWiseAdagrad, params: Any, *args: Any, **kwargs: Any) -> None:
    """
    Raises:
        ValueError: 1-D parameters, beside others or from a generator.
    """
    given = params if isinstance(params, torch.Tensor | dict) else list(params)
    if any(dim < 2 for dim in _dims(given)):
        raise ValueError(_NO_ROWS)
    _rowwise(self, given, *args, **kwargs)


RowWiseAdagrad.__new__ = staticmethod(_made)
RowWiseAdagrad.__init__ = _initialised
