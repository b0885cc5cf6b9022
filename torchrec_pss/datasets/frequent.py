"""Counting frequent ids in bounded memory, a batch at a time."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from torchrec_pss.datasets.made_ahead import own_cores
from torchrec_pss.modules.id_counts import IdCounts

T = TypeVar("T")
_PENDING = 1 << 20  # ids a feature collected before they are merged


class FrequentIds:
    """Counts the ids of several features; exactly while a feature has at most ``capacity`` of them.

    Beyond that it is a Misra-Gries summary (mergeable summaries, Agarwal et al. 2012): merging keeps the ``capacity``
    largest counters and takes the next one's count from them. A count is then too low by at most
    ``total / (capacity + 1)``, and every id more frequent than that is kept.
    """

    def __init__(self, num_features: int, capacity: int = 1 << 20) -> None:
        self._capacity = capacity
        self._ids = [np.zeros(0, np.int64) for _ in range(num_features)]
        self._counts = [np.zeros(0, np.int64) for _ in range(num_features)]
        self._totals = [0] * num_features
        self._pending: list[Sequence[np.ndarray]] = []
        self._most_pending = 0

    def add(self, ids: Sequence[np.ndarray]) -> None:
        """Adds int64 ids, those of each feature."""
        sizes = [len(of_feature) for of_feature in ids]
        self._totals = [total + size for total, size in zip(self._totals, sizes, strict=True)]
        self._pending.append(ids)
        self._most_pending += max(sizes)
        if self._most_pending >= _PENDING:
            self._merge()

    def counts(self) -> list[IdCounts]:
        """Of each feature; ties in ascending order of the id."""
        self._merge()
        return self._of_each(self._sorted)

    def _sorted(self, feature: int) -> IdCounts:
        ids, counts = self._ids[feature], self._counts[feature]
        order = np.argsort(-counts, kind="stable")
        return IdCounts(ids[order], counts[order], self._totals[feature])

    def _of_each(self, work: Callable[[int], T]) -> list[T]:
        """Of each feature; several at once, for NumPy lets other threads run as it sorts."""
        with ThreadPoolExecutor(max(min(len(self._ids), own_cores()), 1), "counting") as pool:
            return list(pool.map(work, range(len(self._ids))))

    def _merge(self) -> None:
        self._of_each(lambda feature: self._merge_feature(feature, [part[feature] for part in self._pending]))
        self._pending, self._most_pending = [], 0

    def _merge_feature(self, feature: int, pending: list[np.ndarray]) -> None:
        new, new_counts = np.unique(np.concatenate([np.zeros(0, np.int64), *pending]), return_counts=True)
        ids, where = np.unique(np.concatenate([self._ids[feature], new]), return_inverse=True)
        counts = np.bincount(where, np.concatenate([self._counts[feature], new_counts]), minlength=len(ids)).astype(
            np.int64
        )
        if len(ids) > self._capacity:
            counts -= np.partition(counts, -self._capacity - 1)[-self._capacity - 1]
            ids, counts = ids[counts > 0], counts[counts > 0]
        self._ids[feature], self._counts[feature] = ids, counts
