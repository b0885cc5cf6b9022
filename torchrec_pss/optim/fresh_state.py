"""`make_state`: an optimizer's state before its first step, which torch.optim makes within that.

TorchRec's fused optimizers have theirs from the start, and load a checkpoint only into a state that is there.
"""

import inspect

import torch


def make_state(optimizer: torch.optim.Optimizer) -> None:
    """Makes what the optimizer's first step would, without a step; nothing for a class that does not tell it from its step, nor for
    SGD's momentum with dampening, whose first buffer is the first gradient. Parameters without a gradient are given state too."""
    begin = getattr(optimizer, "_init_group", None)
    if begin is None:
        return
    for group in optimizer.param_groups:
        if isinstance(optimizer, torch.optim.SGD):
            if group["momentum"] and not group["dampening"]:
                for parameter in group["params"]:
                    optimizer.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter.detach()))
            continue
        before = [parameter.grad for parameter in group["params"]]
        try:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
            begin(group, *([] for _ in range(len(inspect.signature(begin).parameters) - 1)))
        finally:
            for parameter, gradient in zip(group["params"], before, strict=True):
                parameter.grad = gradient
