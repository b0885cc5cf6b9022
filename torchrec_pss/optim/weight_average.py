"""`WeightAverage`: the average of a run's latest weights, kept as training goes.

A constant learning rate leaves weights that jitter about a better point; their average is near it. Full tables cannot
afford a second copy of themselves; an array can.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from torchrec_pss.ranges import RANGES, Range

_EVERY = Range(int, 1, 10**12)


class WeightAverage:
    """Polynomial-decay averaging (Shamir & Zhang, ICML 2013): the n-th weights count in proportion to n^power.

    At any moment the average is over the last part of the run so far (mean age: ``1 / (power + 2)`` of it), so that it
    needs no end known in advance, and a resumed run equals an undisturbed one.

    Args:
        parameters: by name, the tensors to average; they stay the caller's and are read at every update. A parameter that is
            frozen (``requires_grad`` is False) is its own average, and is not moved. Averages of fp16 and bf16 are in fp32.
        power: how fast old weights are forgotten; 0 is the plain mean.
        every: of this many steps, one is taken into account.

    Raises:
        ValueError: ``power`` is negative or not finite, or ``every`` less than 1.
    """

    def __init__(self, parameters: Mapping[str, torch.Tensor], power: float = 8.0, every: int = 1) -> None:
        self._power = RANGES["average_power"].checked("power", power)
        self._every = _EVERY.checked("every", every)
        self._parameters = dict(parameters)
        # In half precision an average would soon stop to follow.
        self._average = {
            n: p.detach().to(torch.promote_types(p.dtype, torch.float32), copy=True) for n, p in parameters.items()
        }
        self._steps = 0

    def _frozen(self) -> list[str]:
        return [n for n, p in self._parameters.items() if isinstance(p, nn.Parameter) and not p.requires_grad]

    @torch.no_grad()
    def step(self) -> None:
        """Takes the current weights into account; call after the optimizer's step."""
        self._steps += 1
        if self._steps % self._every == 0:
            weight = (self._power + 1) / (self._steps // self._every + self._power)
            average = list(self._average.values())
            live = [p.detach().to(a.dtype) for p, a in zip(self._parameters.values(), average, strict=True)]
            torch._foreach_lerp_(average, live, weight)
            self._follow_frozen()

    @torch.no_grad()
    def _follow_frozen(self) -> None:
        for name in self._frozen():
            self._average[name].copy_(self._parameters[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the parameters hold the average (before the first update, their own values)."""
        if self._steps < self._every:
            yield
            return
        self._follow_frozen()
        live = {name: p.detach().clone() for name, p in self._parameters.items()}
        try:
            self._write(self._average)
            yield
        finally:
            self._write(live)

    @torch.no_grad()
    def _write(self, values: Mapping[str, torch.Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averages by name, and the number of steps under ``_steps``."""
        return {**self._average, "_steps": torch.tensor(self._steps)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """
        Raises:
            KeyError: a parameter's average is missing.
        """
        for name in self._average:
            if name not in state:
                raise KeyError(f"the state has no average of {name!r}")
        for name, average in self._average.items():
            average.copy_(state[name])
        self._steps = int(state["_steps"])
