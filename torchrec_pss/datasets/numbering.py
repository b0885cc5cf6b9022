"""`Numbering`: rows of the ids of a dense log, of which those that are read least may share rows.

Rows lie in an order that says nothing about reads: 64 elements have one scale, and where ids of few reads had scales of their own, what few
bits leave of them would be learned by heart (docs/research/2026-11-30-dense-logs.md).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from torchrec_pss.datasets.mixing import mix64
from torchrec_pss.datasets.npz_file import read_npz
from torchrec_pss.datasets.rows import NUM_SPARSE
from torchrec_pss.datasets.vocabulary import UNKNOWN, Vocabulary
from torchrec_pss.modules.layout_search import fold
from torchrec_pss.whole_file import written_aside

_NUM_ROWS = "num_rows"


def scattered(num_rows: int) -> np.ndarray:
    """int64 ``[num_rows]``: the row of each place, 0 apart in any order."""
    return np.concatenate([[UNKNOWN], 1 + np.argsort(mix64(np.arange(num_rows - 1, dtype=np.uint64)), kind="stable")])


@dataclass(eq=False)
class Numbering:
    """The ids of a feature have places from 1 on, any other id 0; where a table has fewer rows, those that are read least share the last
    places (`fold`). A place's row is that of a permutation, which keeps 0.

    Attributes:
        ids: int64 ``[n]`` of each feature, distinct, those that are read most first.
        num_rows: of each table; n + 1, or fewer.
    """

    ids: list[np.ndarray]
    num_rows: list[int]

    def __post_init__(self) -> None:
        orders = [np.argsort(ids, kind="stable") for ids in self.ids]
        self._vocabulary = Vocabulary([ids[order] for ids, order in zip(self.ids, orders, strict=True)])
        # By the vocabulary's rows: of the ids in ascending order.
        self._rows = [
            np.concatenate([[UNKNOWN], self.first_rows(feature, len(order))[order]])
            for feature, order in enumerate(orders)
        ]

    @classmethod
    def of(cls, vocabulary: Vocabulary, first: Sequence[np.ndarray]) -> "Numbering":
        """The ids of a vocabulary, a row each: ``first`` of each feature, in their order, and then the others."""
        ids = [
            np.concatenate([most[np.isin(most, known)], known[~np.isin(known, most)]]).astype(np.int64)
            for known, most in zip(vocabulary.ids, first, strict=True)
        ]
        return cls(ids, [len(i) + 1 for i in ids])

    def rows_of(self, ids: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Of each feature's ids the table rows, int64."""
        return [rows[known] for rows, known in zip(self._rows, self._vocabulary.rows_of(ids), strict=True)]

    def sorted_rows(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The ids of each feature in ascending order, and the row of each."""
        return self._vocabulary.ids, [rows[1:] for rows in self._rows]

    def first_rows(self, feature: int, number: int) -> np.ndarray:
        """Of so many ids of a feature, the first ones: int64 ``[number]``."""
        num_rows = self.num_rows[feature]
        return scattered(num_rows)[fold(np.arange(1, number + 1), num_rows)]

    def unresolved(self, feature: int, reads: np.ndarray) -> float:
        """Of a table whose ids share rows, theorem 1's bound (docs/how/theory.md): what of the reads meets another id's. ``reads`` of the ids, in
        their order, as far as they are known."""
        rows = fold(np.arange(1, len(reads) + 1), self.num_rows[feature])
        of_row = np.bincount(rows, reads)[rows]
        return float((reads * (1 - reads / of_row)).sum() / max(reads.sum(), 1))

    @property
    def digest(self) -> str:
        """Of ids and their order."""
        found = hashlib.sha256()
        for ids in self.ids:
            found.update(len(ids).to_bytes(8, "little") + ids.astype("<i8").tobytes())
        return found.hexdigest()

    def save(self, path: Path) -> None:
        """Writes aside, then renames."""
        with written_aside(path) as aside, open(aside, "wb") as stream:
            self.write(stream)

    def write(self, stream: BinaryIO) -> None:
        """What `load` reads."""
        arrays = {f"arr_{i}": ids for i, ids in enumerate(self.ids)} | {_NUM_ROWS: np.array(self.num_rows)}
        np.savez(stream, **arrays)  # type: ignore[arg-type]  # NumPy's stubs: they may be allow_pickle

    @classmethod
    def load(cls, path: Path, features: int = NUM_SPARSE) -> "Numbering":
        """Of so many features.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged; says how.
        """
        names = [f"arr_{i}" for i in range(features)]
        arrays = read_npz(path, [*names, _NUM_ROWS], what="numbering of ids")
        for name in [*names, _NUM_ROWS]:
            found = arrays.get(name)
            if found is None or found.dtype != np.int64 or found.ndim != 1:
                raise ValueError(f"numbering of ids {path}: {name} is no vector of int64")
        ids, rows = [arrays[name] for name in names], arrays[_NUM_ROWS].tolist()
        for name, of, number in zip(names, ids, rows, strict=True):
            if len(np.unique(of)) != len(of) or not 1 <= number <= len(of) + 1:
                raise ValueError(f"numbering of ids {path}: {name} has {len(of)} ids, one twice, or {number} rows")
        return cls(ids, rows)
