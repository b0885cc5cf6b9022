"""Contiguous ids for full tables: one streaming pass over the training rows."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torchrec_pss.datasets.npz_file import read_keyed, write_keyed
from torchrec_pss.datasets.rows import NUM_SPARSE, RowBlock

logger: logging.Logger = logging.getLogger(__name__)

UNKNOWN = 0


@dataclass
class Vocabulary:
    """The distinct ids of each feature, sorted; the i-th of them becomes row i + 1, any other id row 0."""

    ids: list[np.ndarray]

    @classmethod
    def build(cls, blocks: Iterable[RowBlock], features: int = NUM_SPARSE) -> "Vocabulary":
        """Collects the distinct ids; memory grows with their number, not with the number of rows."""
        known = [np.zeros(0, np.int64) for _ in range(features)]
        pending: list[list[np.ndarray]] = [[] for _ in range(features)]
        rows = 0
        for block in blocks:
            for new, ids in zip(pending, block.ids_by_feature(), strict=True):
                new.append(np.unique(ids))
            rows += len(block)
            if rows > 1 << 20:
                known, pending, rows = _merged(known, pending), [[] for _ in range(features)], 0
        return cls(_merged(known, pending))

    @property
    def num_distinct(self) -> list[int]:
        return [len(ids) for ids in self.ids]

    def rows_of(self, ids: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Of each feature's ids the table rows, int64."""
        return [_rows(known, of_feature) for known, of_feature in zip(self.ids, ids, strict=True)]

    def save(self, path: Path, key: str = "") -> None:
        """Writes aside, then renames. ``key`` says of which rows it is."""
        write_keyed(path, key, {f"arr_{i}": ids for i, ids in enumerate(self.ids)})

    @classmethod
    def load(cls, path: Path, key: str = "", features: int = NUM_SPARSE) -> "Vocabulary":
        """Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or of other rows than ``key`` says."""
        names = [f"arr_{i}" for i in range(features)]
        arrays = read_keyed(path, key, names, "vocabulary")
        for name in names:
            ids = arrays[name]
            if ids.dtype != np.int64 or ids.ndim != 1 or (ids[1:] <= ids[:-1]).any():
                raise ValueError(f"vocabulary {path}: {name} is no ascending vector of int64")
        return cls([arrays[name] for name in names])


def _rows(known: np.ndarray, ids: np.ndarray) -> np.ndarray:
    if not len(known):
        return np.full_like(ids, UNKNOWN)  # no training row could be used
    at = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    return np.where(known[at] == ids, at + 1, UNKNOWN)


def _merged(known: list[np.ndarray], pending: list[list[np.ndarray]]) -> list[np.ndarray]:
    return [np.unique(np.concatenate([k, *new])) for k, new in zip(known, pending, strict=True)]
