"""`StepInBackward`: an optimizer of torch.optim whose step on the shared array is part of the lookup's backward."""

import torch
from torch import nn

from torchrec_pss.ops.fused import ArrayUpdate, gradient_only
from torchrec_pss.ops.update_kinds import UpdateKind, UpdateNumbers
from torchrec_pss.optim.wide_state import WideState

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
    stands in, one sum an element. Of an fp16 or bf16 array, arithmetic and state are in fp32 (`WideState`).

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
        self.optimizer = optimizer
        self._array = array
        self._kind = _KINDS[type(optimizer)]
        self._sink = torch.zeros(0)
        self._state = WideState(optimizer, array)
        state = self._started()
        if self._kind == UpdateKind.ADAGRAD and not state["step"]:  # in half precision it was rounded
            state["sum"].fill_(_group(optimizer, array)["initial_accumulator_value"])

    def release(self) -> None:
        """Leaves the steps to the optimizer again."""
        self._state.release()

    def _started(self) -> dict:
        """The optimizer's state of the array; Adam's begins as in torch.optim, which makes it at the first step."""
        state = self._state.get()
        if self._kind in (UpdateKind.ADAM, UpdateKind.ADAMW) and not (state or self._array.is_meta):
            state = {"step": torch.tensor(0.0)} | {key: torch.zeros_like(self._zeros()) for key in _ADAM_STATES}
            self.optimizer.state[self._array] = state
        return state

    def _zeros(self) -> torch.Tensor:
        """The sink, which is zero between backwards: of the array's device, in fp32 or fp64."""
        dtype = torch.promote_types(self._array.dtype, torch.float32)
        if (self._sink.dtype, self._sink.device) != (dtype, self._array.device) or len(self._sink) != len(self._array):
            self._sink = torch.zeros_like(self._array, dtype=dtype, requires_grad=False)
        return self._sink

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
        sink = self._zeros()  # the module may have another dtype or device by now
        if not self._array.requires_grad:
            return gradient_only(sink)
        reason = self.obstacle(self.optimizer, self._array)
        if reason:
            raise ValueError(f"no step in backward any more: {reason}")
        group, state = _group(self.optimizer, self._array), self._started()
        rate = float(group["lr"])
        if self._kind == UpdateKind.SGD:
            return ArrayUpdate(self._kind, UpdateNumbers(rate), sink)
        if self._kind == UpdateKind.ADAGRAD:
            state["step"] += 1
            rate /= 1 + (float(state["step"]) - 1) * group["lr_decay"]
            return ArrayUpdate(self._kind, UpdateNumbers(rate, group["eps"]), sink, state["sum"])
        state["step"] += 1
        step, (beta1, beta2) = float(state["step"]), map(float, group["betas"])
        corrections = 1 - beta1**step, (1 - beta2**step) ** 0.5
        numbers = UpdateNumbers(rate, group["eps"], beta1, beta2, group["weight_decay"], *corrections)
        return ArrayUpdate(self._kind, numbers, sink, *(state[key] for key in _ADAM_STATES))


def _group(optimizer: torch.optim.Optimizer, array: nn.Parameter) -> dict | None:
    """The parameter group of the array."""
    return next((g for g in optimizer.param_groups if any(p is array for p in g["params"])), None)
