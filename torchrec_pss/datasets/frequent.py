"""Counting frequent ids in bounded memory, a batch at a time."""

import numpy as np

from torchrec_pss.modules.id_counts import IdCounts

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
        self._pending: list[list[np.ndarray]] = [[] for _ in range(num_features)]
        self._num_pending = [0] * num_features

    def add(self, feature: int, ids: np.ndarray) -> None:
        """Adds int64 ids of one feature."""
        self._pending[feature].append(ids)
        self._num_pending[feature] += len(ids)
        self._totals[feature] += len(ids)
        if self._num_pending[feature] >= _PENDING:
            self._merge(feature)

    def counts(self) -> list[IdCounts]:
        """Of each feature; ties in ascending order of the id."""
        found = []
        for feature in range(len(self._ids)):
            self._merge(feature)
            order = np.argsort(-self._counts[feature], kind="stable")
            ids, counts = self._ids[feature][order], self._counts[feature][order]
            found.append(IdCounts(ids, counts, self._totals[feature]))
        return found

    def _merge(self, feature: int) -> None:
        new, new_counts = np.unique(
            np.concatenate([np.zeros(0, np.int64), *self._pending[feature]]), return_counts=True
        )
        self._pending[feature], self._num_pending[feature] = [], 0
        ids, where = np.unique(np.concatenate([self._ids[feature], new]), return_inverse=True)
        counts = np.bincount(where, np.concatenate([self._counts[feature], new_counts]), minlength=len(ids)).astype(
            np.int64
        )
        if len(ids) > self._capacity:
            counts -= np.partition(counts, -self._capacity - 1)[-self._capacity - 1]
            ids, counts = ids[counts > 0], counts[counts > 0]
        self._ids[feature], self._counts[feature] = ids, counts
