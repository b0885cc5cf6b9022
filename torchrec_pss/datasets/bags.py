"""`Bags`: what one feature has in consecutive rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass
class Bags:
    """
    Attributes:
        ids: int64 ``[V]``, row after row.
        lengths: int32 ``[n]``, ids of each row, perhaps 0; None: one each.
        weights: float32 ``[V]``; None: 1.
    """

    ids: np.ndarray
    lengths: np.ndarray | None = None
    weights: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids if self.lengths is None else self.lengths)

    def take(self, rows: np.ndarray) -> "Bags":
        """Rows by their places, or those where a mask is true."""
        if self.lengths is None:
            return Bags(self.ids[rows], None, None if self.weights is None else self.weights[rows])
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        lengths = self.lengths[rows]
        places = spread(self.lengths.cumsum()[rows] - lengths, lengths)
        return Bags(self.ids[places], lengths, None if self.weights is None else self.weights[places])


def spread(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """int64 ``[sum(lengths)]``: of each start so many places from it on."""
    before = np.cumsum(lengths, dtype=np.int64) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


def join_bags(parts: Sequence[Bags]) -> Bags:
    """One feature's rows of all parts, one or more, in order. All have lengths or none has, and so with weights."""
    first = parts[0]
    return Bags(
        np.concatenate([p.ids for p in parts]),
        None if first.lengths is None else np.concatenate([p.lengths for p in parts]),
        None if first.weights is None else np.concatenate([p.weights for p in parts]),
    )
