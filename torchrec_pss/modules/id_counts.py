"""`IdCounts`: how often the ids of one table occur."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class IdCounts:
    """The most frequent ids of a table, and what is known of the others.

    Attributes:
        ids: int64 ``[n]``, distinct, the most frequent first.
        counts: int64 ``[n]``, how often each occurred; descending, positive.
        total: occurrences of all ids, these and others.

    Raises:
        ValueError: lengths that differ, ids that repeat, counts that ascend, are not positive or exceed the total.
    """

    ids: np.ndarray
    counts: np.ndarray
    total: int

    def __post_init__(self) -> None:
        if self.ids.shape != self.counts.shape or self.ids.ndim != 1:
            raise ValueError(f"ids and counts must be vectors of one length, got {self.ids.shape}, {self.counts.shape}")
        if len(np.unique(self.ids)) != len(self.ids):
            raise ValueError("an id is counted twice")
        if len(self.counts) and (self.counts[-1] < 1 or (np.diff(self.counts) > 0).any()):
            raise ValueError("counts must be positive and descend")
        if self.counts.sum() > self.total:
            raise ValueError(f"the counts add up to {self.counts.sum()}, more than their total {self.total}")

    @classmethod
    def of(cls, occurrences: np.ndarray) -> "IdCounts":
        """Exact counts of the ids in a vector."""
        ids, counts = np.unique(occurrences, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return cls(ids[order], counts[order], len(occurrences))
