"""What a fused optimizer makes of an element and the sum of its gradients: torch.optim's formulas."""

from enum import IntEnum
from typing import NamedTuple

import torch


class UpdateKind(IntEnum):
    """The formulas; csrc/problem.h holds the same list. SGD and Adagrad move only elements with a gradient, Adam and AdamW all.

    NONE moves nothing: the gradient stays in the op's `sink`, in fp32 whatever the array is.
    """

    NONE = 0
    SGD = 1  # w -= rate * g
    ADAGRAD = 2  # state += g^2; w -= rate * g / (sqrt(state) + eps)
    ADAM = 3  # g += decay * w, then the same as
    ADAMW = 4  # w -= rate * decay * w; state, second: means of g and g^2; w -= rate / c1 * state / (sqrt(second) / c2 + eps)


class UpdateNumbers(NamedTuple):
    """The numbers in the formulas, in the order in which the op takes them."""

    rate: float
    eps: float = 0.0
    beta1: float = 0.0
    beta2: float = 0.0
    decay: float = 0.0
    correction1: float = 1.0  # 1 - beta1^step
    correction2: float = 1.0  # sqrt(1 - beta2^step)


def apply_update(
    array: torch.Tensor,
    gradient: torch.Tensor,
    state: torch.Tensor | None,
    second: torch.Tensor | None,
    kind: int,
    numbers: UpdateNumbers,
) -> None:
    """The formulas in plain PyTorch, in place on ``array`` ``[N]`` and its states ``[N]``, in the gradient's dtype."""
    rate, eps, beta1, beta2, decay, correction1, correction2 = numbers
    values = array.to(gradient.dtype)
    if kind == UpdateKind.SGD:
        values = values - rate * gradient
    elif kind == UpdateKind.ADAGRAD:
        assert state is not None
        state += gradient**2
        values = values - torch.where(gradient == 0, 0, rate * gradient / (state.sqrt() + eps))
    else:
        if kind == UpdateKind.ADAMW:
            values = values - rate * decay * values
        else:
            gradient = gradient + decay * values
        assert state is not None and second is not None
        state.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        values = values - rate / correction1 * state / (second.sqrt() / correction2 + eps)
    array.copy_(values)
