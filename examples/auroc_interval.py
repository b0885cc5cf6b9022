"""`half_interval`: how far the AUROC of other rows of the same kind may lie from this one."""

import math

import numpy as np

from torchrec_pss.ranks import midranks

_NORMAL = 1.959963984540054  # 97.5 % of a standard normal variable lie below


def half_interval(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Half of the 95 % interval of the AUROC, by DeLong's variance (DeLong, DeLong and Clarke-Pearson 1988), in O(n log n) by midranks
    (Sun and Xu 2014). It is of independent rows and one trained model; a model of another seed differs as well.

    Args:
        scores: ``[n]``, finite.
        labels: ``[n]``, 0 or 1.

    Returns:
        None with fewer than two rows of a class. 0 where all rows are in order, which says little of few rows.
    """
    positive = labels == 1
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if min(positives, negatives) < 2:
        return None
    ranks = midranks(scores)
    # Of each positive row the share of negative ones below it, and of each negative one that of positive ones below it.
    below = (ranks[positive] - midranks(scores[positive])) / negatives
    above = (ranks[~positive] - midranks(scores[~positive])) / positives
    return _NORMAL * math.sqrt(below.var(ddof=1) / positives + above.var(ddof=1) / negatives)
