"""Has TorchRec's `RowWiseAdagrad` take a shared array, every element of which stands for itself.

`apply_optimizer_in_backward` makes an optimizer of a parameter at once, and this class makes its state by rows, of which a 1-D
parameter has none: it ended in an IndexError. The names of FBGEMM's other kernels (`torchrec.optim.Adam`) make nothing.
"""

import inspect
from typing import Any

import torch
from torchrec.optim import RowWiseAdagrad

_TAKEN = tuple(inspect.signature(torch.optim.Adagrad.__init__).parameters)


def _made(cls: type[RowWiseAdagrad], params: Any = None, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
    """`torch.optim.Adagrad` with `RowWiseAdagrad`'s own arguments and defaults, where all parameters are 1-D; else what Python makes.

    Raises:
        ValueError: 1-D parameters beside others.
    """
    dims = [p.dim() for p in params if isinstance(p, torch.Tensor)] if isinstance(params, list | tuple) else []
    if 1 not in dims:
        return object.__new__(cls)
    if set(dims) != {1}:
        raise ValueError(
            "RowWiseAdagrad has no rows in a 1-D parameter, such as a shared array: give that one an optimizer of its own"
        )
    bound = inspect.signature(RowWiseAdagrad.__init__).bind(None, params, *args, **kwargs)
    bound.apply_defaults()
    return torch.optim.Adagrad(**{n: v for n, v in bound.arguments.items() if n in _TAKEN and n != "self"})


RowWiseAdagrad.__new__ = staticmethod(_made)
