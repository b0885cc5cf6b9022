"""`grouped_auroc`: how well rows are ordered within each user, or another group (GAUC)."""

from dataclasses import dataclass

import numpy as np

from torchrec_pss.ranks import shared_ranks


@dataclass(frozen=True)
class GroupedAuroc:
    """
    Attributes:
        auroc: mean of the groups' AUROC, weighted by their rows; None where no group counts.
        groups: that have both classes, and count.
        rows: of those groups.
    """

    auroc: float | None
    groups: int
    rows: int


def grouped_auroc(scores: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> GroupedAuroc:
    """Of Deep Interest Network, section 5.1 (Zhou et al., arXiv 1706.06978). Groups of one class are left out; ties count half.

    The figure does not depend on the order of the rows.

    Args:
        scores: ``[n]``, finite.
        labels: ``[n]``, 0 or 1.
        groups: ``[n]``, whole numbers: the group of each row.
    """
    if not len(scores):
        return GroupedAuroc(None, 0, 0)
    order = np.lexsort((scores, groups))
    scores, positive, groups = scores[order], (labels[order] == 1).astype(np.float64), groups[order]
    begins = np.concatenate([[True], groups[1:] != groups[:-1]])  # a group
    tie = np.flatnonzero(begins | np.concatenate([[True], scores[1:] != scores[:-1]]))
    ranks = shared_ranks(tie, len(scores))  # over all rows, equal ones of a group share one
    starts = np.flatnonzero(begins)
    rows = np.diff(np.append(starts, len(scores)))
    positives = np.add.reduceat(positive, starts)
    negatives = rows - positives
    counts = (positives > 0) & (negatives > 0)
    if not counts.any():
        return GroupedAuroc(None, 0, 0)
    # Ranks within a group: less the rows before it.
    within = np.add.reduceat((ranks - np.repeat(starts, rows)) * positive, starts)
    above = (within - positives * (positives + 1) / 2)[counts]
    auroc = above / (positives * negatives)[counts]
    weights = rows[counts]
    return GroupedAuroc(float((auroc * weights).sum() / weights.sum()), int(counts.sum()), int(weights.sum()))
