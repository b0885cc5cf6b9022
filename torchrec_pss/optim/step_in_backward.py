"""`StepInBackward`: an optimizer of torch.optim whose step on the shared array is part of the lookup's backward."""

import torch
from torch import nn

from torchrec_pss.ops.fused import ArrayUpdate, UpdateKind

_ALWAYS_OFF = ("momentum", "weight_decay", "nesterov", "maximize", "differentiable")


class StepInBackward:
    """Takes the steps of ``optimizer`` on ``array`` in backward, by its formula, rate and state, which stay where they are: learning-rate
    schedules and state dicts work on as before. Its own ``step`` then finds no gradient.

    Args:
        optimizer: SGD without momentum or Adagrad, without weight decay: optimizers that leave an element without a gradient as
            it is. (With momentum, decay, or Adam, every element moves at every step, and a pass over all of them is needed:
            ``torch.optim.Adam(..., fused=True)`` is that pass.)
        array: the optimizer's parameter.

    Raises:
        ValueError: an optimizer that is not such; says why.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, array: nn.Parameter) -> None:
        reason = self.obstacle(optimizer, array)
        if reason:
            raise ValueError(f"no step in backward: {reason}")
        self._optimizer = optimizer
        self._array = array
        self._kind = UpdateKind.SGD if isinstance(optimizer, torch.optim.SGD) else UpdateKind.ADAGRAD
        self._sink = torch.zeros_like(array, dtype=torch.promote_types(array.dtype, torch.float32), requires_grad=False)

    @staticmethod
    def obstacle(optimizer: torch.optim.Optimizer, array: nn.Parameter) -> str | None:
        """Why the optimizer's step cannot be part of backward; None where it can."""
        group = next((g for g in optimizer.param_groups if any(p is array for p in g["params"])), None)
        if group is None:
            return "the array is none of the optimizer's parameters"
        if type(optimizer) not in (torch.optim.SGD, torch.optim.Adagrad):
            return f"{type(optimizer).__name__} moves every element at every step; SGD and Adagrad do not"
        on = [name for name in _ALWAYS_OFF if group.get(name)]
        if on:
            return f"{type(optimizer).__name__} with {' and '.join(on)}"
        state = optimizer.state.get(array, {}).get("sum")
        if state is not None and state.dtype != torch.promote_types(array.dtype, torch.float32):
            return f"its state is {state.dtype}"
        return None

    def __call__(self) -> ArrayUpdate:
        """The update of the backward that is running; counts Adagrad's step."""
        group = next(g for g in self._optimizer.param_groups if any(p is self._array for p in g["params"]))
        rate = float(group["lr"])
        if self._kind == UpdateKind.SGD:
            return ArrayUpdate(self._kind, rate, self._sink)
        state = self._optimizer.state[self._array]
        state["step"] += 1
        rate /= 1 + (float(state["step"]) - 1) * group["lr_decay"]
        return ArrayUpdate(self._kind, rate, self._sink, state["sum"], group["eps"])
