"""`BestPass`: the averaged weights of the pass over the rows that a run ends with, which need not be the last.

How many passes a model bears depends on the rows, and is not known before. On most a later pass is the better one, so it is
taken unless it has visibly lost.
"""

from collections.abc import Mapping, Sequence

import torch

from torchrec_pss.optim.weight_average import WeightAverage

_LOST = 0.001  # less is noise


def has_lost(aurocs: Sequence[float]) -> bool:
    """Whether the last of the passes that ended at these validation AUROCs is more than .001 below the best."""
    return aurocs[-1] < max(aurocs) - _LOST


class BestPass:
    """A copy of ``average`` as it was at the end of a pass: a second one in memory.

    Args:
        average: read at the end of each pass; written by `restore` only.

    Attributes:
        number: the pass of which the copy is, from 1; 0 before the first has ended.
    """

    def __init__(self, average: WeightAverage) -> None:
        self._average = average
        self._copy = _clone(average.state_dict())
        self.number = 0

    def end_pass(self, aurocs: Sequence[float]) -> None:
        """Takes the pass that has just ended, unless it `has_lost` and there is another.

        Args:
            aurocs: validation AUROC of ``average`` at the end of every pass so far, this one's last.
        """
        if self.number == 0 or not has_lost(aurocs):
            self._copy = _clone(self._average.state_dict())
            self.number = len(aurocs)

    def restore(self) -> None:
        """Makes ``average`` what it was at the end of pass ``number``."""
        self._average.load_state_dict(self._copy)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The copy, as `WeightAverage.state_dict` has it, and ``number`` under ``_pass``."""
        return {**self._copy, "_pass": torch.tensor(self.number)}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """
        Raises:
            KeyError: an entry is missing.
        """
        self._copy = _clone({name: state[name] for name in self._copy})
        self.number = int(state["_pass"])


def _clone(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in state.items()}
