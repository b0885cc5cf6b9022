"""`StepInBackward`: an optimizer of torch.optim whose step on the shared array is part of the lookup's backward."""

from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import torch
from torch import nn
from torch.autograd import Variable

from torchrec_pss.ops.fused import ArrayUpdate, gradient_only
from torchrec_pss.ops.update_kinds import UpdateKind, UpdateNumbers, apply_update
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
_NO_BACKWARD = -1  # as autograd says it


class StepInBackward:
    """Takes the steps of ``optimizer`` on ``array`` in backward, by its formula, rate and state, which stay where they are: learning-rate
    schedules and state dicts work on as before. Its own ``step`` then finds no gradient.

    SGD and Adagrad touch only what the batch read; Adam and AdamW move every element at every step, and save the gradient's
    own memory and passes. FBGEMM's row-wise Adagrad has no meaning here, for an element belongs to many rows: exact Adagrad
    stands in, one sum an element. A backward takes one step, as a gradient would: where it may be of several lookups (others have been
    made, or an activation checkpoint makes them anew), their gradients are added up first, and the step is at its end. Of an fp16 or
    bf16 array, arithmetic and state are in fp32 (`WideState`). A CUDA graph repeats a step's numbers as they were at capture: SGD and Adagrad
    are captured with their rate of then, and a step whose numbers change by themselves (Adam) raises RuntimeError.

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
        self._sink = torch.zeros(0)
        self._open: WeakSet[_Lookup] = WeakSet()  # lookups whose backward may come
        # Of the backward that is running: which one, and what it has met.
        self._backward = _NO_BACKWARD
        self._gradients: list[torch.Tensor] = []
        self._state = WideState(optimizer, array)
        state = self._started()
        if self._kind == UpdateKind.ADAGRAD and not state["step"]:  # in half precision it was rounded
            state["sum"].fill_(self._group()["initial_accumulator_value"])

    def release(self) -> None:
        """Leaves the steps to the optimizer again."""
        self._state.release()

    def _group(self) -> dict[str, Any]:
        group = _group(self.optimizer, self._array)
        assert group is not None  # see `obstacle`
        return group

    def _started(self) -> dict[str, Any]:
        """The optimizer's state of the array; Adam's begins as in torch.optim, which makes it at the first step."""
        state = self._state.get()
        if self._kind in (UpdateKind.ADAM, UpdateKind.ADAMW) and not (state or self._array.is_meta):
            state = {"step": torch.tensor(0.0)} | {key: torch.zeros_like(self._zeros()) for key in _ADAM_STATES}
            self.optimizer.state[self._array] = state
        return state

    @property
    def _kind(self) -> UpdateKind:
        """The formula; a group's option tells Adam from AdamW."""
        kind = _KINDS[type(self.optimizer)]
        if kind in (UpdateKind.ADAM, UpdateKind.ADAMW):
            decoupled = self._group().get("decoupled_weight_decay", kind == UpdateKind.ADAMW)
            return UpdateKind.ADAMW if decoupled else UpdateKind.ADAM
        return kind

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
        if group is None:
            return "the array is none of the optimizer's parameters"
        kind = _KINDS.get(type(optimizer))
        name = type(optimizer).__name__
        if kind is None:
            return f"{name} is none of {', '.join(k.__name__ for k in _KINDS)}"
        off = _OFF + (_OFF_IN_SPARSE_KINDS if kind in _SPARSE_KINDS else ()) + (_ON_GPU if array.is_cuda else ())
        on = [option for option in off if group.get(option)]
        return f"{name} with {' and '.join(on)}" if on else None

    def of_lookup(self) -> Callable[[], ArrayUpdate]:
        """For a lookup that is made now: what its backward calls. None is taken on an array that was frozen after forward.

        Raises:
            ValueError: when it is called, the optimizer's options have become such as `obstacle` tells.
        """
        made = _Lookup(self)
        self._open.add(made)
        return made

    def update_of(self, lookup: "_Lookup") -> ArrayUpdate:
        """What `of_lookup` promises."""
        self._open.discard(lookup)
        others = len(self._open) > 0
        sink = self._zeros()  # the module may have another dtype or device by now
        if not self._array.requires_grad:
            return gradient_only(sink)
        reason = self.obstacle(self.optimizer, self._array)
        if reason:
            raise ValueError(f"no step in backward any more: {reason}")
        backward = torch._C._current_graph_task_id()
        if not (others or lookup.made_in_backward or self._backward == backward):
            return self._step(sink)
        if self._backward != backward:
            self._backward, self._gradients = backward, []
            Variable._execution_engine.queue_callback(self._at_end)
        update = gradient_only(sink)
        self._gradients.append(update.sink)
        return update

    @torch.no_grad()
    def _at_end(self) -> None:
        """One step of all that a backward has met."""
        gradient = torch.stack(self._gradients).sum(0) if len(self._gradients) > 1 else self._gradients[0]
        self._backward, self._gradients = _NO_BACKWARD, []
        if self._array.requires_grad:
            update = self._step(self._sink)
            apply_update(self._array, gradient, update.state, update.second, update.kind, update.numbers)

    def _step(self, sink: torch.Tensor) -> ArrayUpdate:
        """The optimizer's next step; counts it."""
        group, kind = self._group(), self._kind
        if self._array.is_cuda and torch.cuda.is_current_stream_capturing():
            _require_constant(kind, group)
        rate = float(group["lr"])
        if kind == UpdateKind.SGD:
            return ArrayUpdate(kind, UpdateNumbers(rate), sink)
        state = self._started()
        if kind == UpdateKind.ADAGRAD:
            state["step"] += 1
            rate /= 1 + (float(state["step"]) - 1) * group["lr_decay"]
            return ArrayUpdate(kind, UpdateNumbers(rate, group["eps"]), sink, state["sum"])
        state["step"] += 1
        step, (beta1, beta2) = float(state["step"]), map(float, group["betas"])
        corrections = 1 - beta1**step, (1 - beta2**step) ** 0.5
        numbers = UpdateNumbers(rate, group["eps"], beta1, beta2, group["weight_decay"], *corrections)
        return ArrayUpdate(kind, numbers, sink, *(state[key] for key in _ADAM_STATES))


def _require_constant(kind: UpdateKind, group: dict[str, Any]) -> None:
    """That the numbers of a step, which a CUDA graph repeats as they were at capture, are the same at every step."""
    why = None
    if kind in (UpdateKind.ADAM, UpdateKind.ADAMW):
        why = "Adam's bias corrections change from step to step: leave the array to an optimizer with capturable=True"
    elif isinstance(group["lr"], torch.Tensor):
        why = "lr is a tensor, and the graph would keep the number that is in it now: give a number, and capture again when it changes"
    elif group.get("lr_decay"):
        why = "lr_decay changes the rate from step to step"
    if why is not None:
        raise RuntimeError(f"a step in backward cannot be captured in a CUDA graph: {why}")


class _Lookup:
    """Of one lookup, and alive as long as its graph."""

    def __init__(self, step: StepInBackward) -> None:
        self._step = step
        self.made_in_backward = torch._C._current_graph_task_id() != _NO_BACKWARD

    def __call__(self) -> ArrayUpdate:
        return self._step.update_of(self)


def _group(optimizer: torch.optim.Optimizer, array: nn.Parameter) -> dict[str, Any] | None:
    """The parameter group of the array."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter is array:
                found: dict[str, Any] = group
                return found
    return None
