"""`ParameterRestart`: embeddings taken back to their first values between two passes over the same rows.

A click model overfits at the first steps of its second pass, because rows that were read a few times have learned their
own examples' labels. Dense layers that go on, with embeddings that begin anew, do not (MEDA: Liu et al., arXiv
2305.19531; there with new random values: the same ones are better here, docs/research/2026-11-26-second-pass.md).
"""

from collections.abc import Iterable

import torch
from torch import nn

from torchrec_pss.optim.stand_in import state_of


class ParameterRestart:
    """Remembers parameters as they are on construction: a second copy of them in memory."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._first = {p: p.detach().clone() for p in parameters}

    @torch.no_grad()
    def restart(self, optimizer: torch.optim.Optimizer) -> None:
        """Gives the parameters their first values, and zeroes what ``optimizer`` (or a `torchrec.optim.keyed.KeyedOptimizer`)
        keeps of them: moments, Adagrad's sums, the number of steps. Those that are frozen stay as they are. Replicas that were equal
        stay equal; nothing is communicated."""
        for parameter, first in self._first.items():
            if not parameter.requires_grad:
                continue
            parameter.copy_(first)
            for value in state_of(optimizer, parameter).values():
                if isinstance(value, torch.Tensor):
                    value.zero_()
