"""`Passes`: how often a click model goes over the same rows, and what it keeps between two passes; docs/research/2026-11-26-second-pass.md has the measurements.

A row that is read a few times in a pass has learned its own examples' labels by the end of it, and the dense layers would learn to trust
that: embeddings of sparse logs begin anew before each pass. A row that is read hundreds of times has not, and goes on learning: those
of dense logs are kept, for as many passes as validation says.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torchrec_pss.density import DENSE_READS, reads_a_row
from torchrec_pss.optim.best_pass import has_lost
from torchrec_pss.optim.recipe import num_passes

_MOST_PASSES, _MOST_ROWS = 20, 30_000_000  # of a dense log; of all its passes together
_WORTH = 0.0005  # of validation AUROC, that another pass must promise


@dataclass(frozen=True)
class Passes:
    """Of a run.

    Attributes:
        most: passes.
        keeps: whether embeddings go on from pass to pass instead of beginning anew.
        stops_early: whether validation may end the run before ``most``.
    """

    most: int
    keeps: bool
    stops_early: bool = True

    def go_on(self, aurocs: Sequence[float]) -> bool:
        """Whether there is another pass after those that ended at these validation AUROCs: embeddings that are kept, while a pass gains
        .0005; those that begin anew, until one `has_lost`."""
        if len(aurocs) >= self.most:
            return False
        if not self.stops_early or len(aurocs) < 2:
            return True
        return last_gain(aurocs) >= _WORTH if self.keeps else not has_lost(aurocs)


def last_gain(aurocs: Sequence[float]) -> float:
    """What the last pass is above the best before it; 0 of a single one."""
    return aurocs[-1] - max(aurocs[:-1]) if len(aurocs) > 1 else 0.0


def more_would_pay(aurocs: Sequence[float]) -> bool:
    """Whether passes that ended at these validation AUROCs were still gaining."""
    return last_gain(aurocs) >= _WORTH


def automatic_passes(
    num_rows: int, num_embeddings: Sequence[int], cross_layers: bool = False, keeps: bool | None = None
) -> Passes:
    """Over so many training rows, with full tables of so many rows each. ``keeps`` None: those of dense logs."""
    if keeps is None:
        keeps = reads_a_row(num_rows, num_embeddings) >= DENSE_READS
    if not keeps:
        return Passes(num_passes(num_rows, cross_layers), keeps=False)
    return Passes(max(min(_MOST_PASSES, _MOST_ROWS // max(num_rows, 1)), 1), keeps=True)
