"""Contiguous ids for full tables: one streaming pass over the training rows."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torchrec_pss.datasets.rows import NUM_SPARSE, RowBlock
from torchrec_pss.whole_file import written_aside

logger: logging.Logger = logging.getLogger(__name__)

UNKNOWN = 0


@dataclass
class Vocabulary:
    """The distinct ids of each feature, sorted; the i-th of them becomes row i + 1, any other id row 0."""

    ids: list[np.ndarray]

    @classmethod
    def build(cls, blocks: Iterable[RowBlock]) -> "Vocabulary":
        """Collects the distinct ids; memory grows with their number, not with the number of rows."""
        known = [np.zeros(0, np.int64) for _ in range(NUM_SPARSE)]
        pending: list[list[np.ndarray]] = [[] for _ in range(NUM_SPARSE)]
        rows = 0
        for block in blocks:
            for feature in range(NUM_SPARSE):
                pending[feature].append(np.unique(block.ids[feature]))
            rows += len(block)
            if rows > 1 << 20:
                known, pending, rows = _merged(known, pending), [[] for _ in range(NUM_SPARSE)], 0
        return cls(_merged(known, pending))

    @property
    def num_distinct(self) -> list[int]:
        return [len(ids) for ids in self.ids]

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """Table rows int64 ``[26, n]`` of ids ``[26, n]``."""
        out = np.empty_like(ids)
        for feature, known in enumerate(self.ids):
            at = np.minimum(np.searchsorted(known, ids[feature]), len(known) - 1)
            out[feature] = np.where(known[at] == ids[feature], at + 1, UNKNOWN)
        return out

    def save(self, path: Path) -> None:
        """Writes aside, then renames."""
        with written_aside(path) as aside, open(aside, "wb") as stream:
            np.savez(stream, *self.ids)

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        with np.load(path) as arrays:
            return cls([arrays[f"arr_{i}"] for i in range(NUM_SPARSE)])


def _merged(known: list[np.ndarray], pending: list[list[np.ndarray]]) -> list[np.ndarray]:
    return [np.unique(np.concatenate([k, *new])) for k, new in zip(known, pending, strict=True)]
