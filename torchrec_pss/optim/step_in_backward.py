"""`StepInBackward`: an optimizer of torch.optim whose step on the shared array is part of the lookup's backward."""

import torch
from torch import nn

from torchrec_pss.ops.fused import ArrayUpdate, gradient_only
from torchrec_pss.ops.update_kinds import UpdateKind, UpdateNumbers
from torchrec_pss.optim.stand_in import keep_stand_in, replace_in, stand_in

_KINDS = {
    torch.optim.SGD: UpdateKind.SGD,
    torch.optim.Adagrad: UpdateKind.ADAGRAD,
    torch.optim.Adam: UpdateKind.ADAM,
    torch.optim.AdamW: UpdateKind.ADAMW,
}
_SPARSE_KINDS = (UpdateKind.SGD, UpdateKind.ADAGRAD)
_ADAM_STATES = ("exp_avg", "exp_avg_sq")
_OFF = ("momentum", "nesterov", "maximize", "differentiable", "amsgrad")
_OFF_IN_SPARSE_KINDS = ("weight_decay",)  # would move every element
_ON_GPU = ("fused", "capturable")


class StepInBackward:
    """Takes the steps of ``optimizer`` on ``array`` in backward, by its formula, rate and state, which stay where they are: learning-rate
    schedules and state dicts work on as before. Its own ``step`` then finds no gradient.

    SGD and Adagrad touch only what the batch read; Adam and AdamW move every element at every step, and save the gradient's
    own memory and passes. FBGEMM's row-wise Adagrad has no meaning here, for an element belongs to many rows: exact Adagrad
    stands in, one sum an element. Of an fp16 or bf16 array, arithmetic and state are in fp32: among the optimizer's parameters
    its `stand_in` takes the array's place.

    Args:
        optimizer: SGD without momentum or weight decay, Adagrad without weight decay, Adam or AdamW without amsgrad.
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
        self._kind = _KINDS[type(optimizer)]
        self._sink = torch.zeros(0)
        self._wide = stand_in(array)
        replace_in(optimizer, array)
        state = optimizer.state.get(self._wide, {})
        if self._kind == UpdateKind.ADAGRAD and not state["step"]:
            state["sum"].fill_(
                _group(optimizer, array)["initial_accumulator_value"]
            )  # in half precision it was rounded

    @staticmethod
    def obstacle(optimizer: torch.optim.Optimizer, array: nn.Parameter) -> str | None:
        """Why the optimizer's step cannot be part of backward; None where it can."""
        group = _group(optimizer, array)
        name = type(optimizer).__name__
        if group is None:
            return "the array is none of the optimizer's parameters"
        if type(optimizer) not in _KINDS:
            return f"{name} is none of {', '.join(k.__name__ for k in _KINDS)}"
        kind = _KINDS[type(optimizer)]
        off = _OFF + (_OFF_IN_SPARSE_KINDS if kind in _SPARSE_KINDS else ()) + (_ON_GPU if array.is_cuda else ())
        on = [option for option in off if group.get(option)]
        if on:
            return f"{name} with {' and '.join(on)}"
        return None

    def __call__(self) -> ArrayUpdate:
        """The update of the backward that is running; counts the step. None is taken on an array that was frozen after forward.

        Raises:
            ValueError: the optimizer's options have become such as `obstacle` tells.
        """
        if not self._array.requires_grad:
            return gradient_only(stand_in(self._array))
        keep_stand_in(self._array, self._wide)
        replace_in(self._optimizer, self._array)  # the module may have another dtype or device by now
        reason = self.obstacle(self._optimizer, self._array)
        if reason:
            raise ValueError(f"no step in backward any more: {reason}")
        group, wide = _group(self._optimizer, self._array), stand_in(self._array)
        if (self._sink.dtype, self._sink.device, self._sink.shape) != (wide.dtype, wide.device, wide.shape):
            self._sink = torch.zeros_like(wide, requires_grad=False)
        rate = float(group["lr"])
        if self._kind == UpdateKind.SGD:
            return ArrayUpdate(self._kind, UpdateNumbers(rate), self._sink)
        state = self._optimizer.state[wide]
        if self._kind == UpdateKind.ADAGRAD:
            state["step"] += 1
            rate /= 1 + (float(state["step"]) - 1) * group["lr_decay"]
            return ArrayUpdate(self._kind, UpdateNumbers(rate, group["eps"]), self._sink, state["sum"])
        if not state:
            state["step"] = torch.tensor(0.0)
            for key in _ADAM_STATES:
                state[key] = torch.zeros_like(self._sink)
        state["step"] += 1
        step, (beta1, beta2) = float(state["step"]), map(float, group["betas"])
        corrections = 1 - beta1**step, (1 - beta2**step) ** 0.5
        numbers = UpdateNumbers(rate, group["eps"], beta1, beta2, group["weight_decay"], *corrections)
        return ArrayUpdate(self._kind, numbers, self._sink, *(state[key] for key in _ADAM_STATES))


def _group(optimizer: torch.optim.Optimizer, array: nn.Parameter) -> dict | None:
    """The parameter group of the array, or of its stand-in."""
    ours = (array, stand_in(array))
    return next((g for g in optimizer.param_groups if any(p is o for p in g["params"] for o in ours)), None)
