"""`resolved`: how much of what a table's rows mean its place in an array can hold; what ``layout="auto"`` makes as large as it can.

A row of a table means a vector, of which a share of 1 - `SPREAD` lies along one direction that the table has learned, its first
coordinate, and the rest evenly along the D - 1 others. A coordinate with a share ``s`` of the meaning of a row that is read ``n`` times
carries ``e = n s``. Reading it tells

    e^2 / (e + NOISE s + load)

of that: `NOISE` reads of a row are as much as the labels' noise, and ``load`` is what others carry in its element, 0 for a row of its own,
for one that shares the reads of all that share over the elements of their slice (theorem 1 in docs/how/theory.md, weighed by reads). A table
counts by the odds that two of its reads are of different ids: of a table that is one id nothing is lost.

Rows read all D wide from one region of all tables meet others in every element, those of one-id tables aside. But each has a code of D
elements that no other has, and what a code stands for the dense layers can learn: of rows that are read `DECODED` times half. So ``load`` is no
more than that there.

Few bits add noise of their own: a group's largest of 64 normal elements is some 2.6 deviations, and the levels are that far apart.
docs/research/2026-11-30-layout-search.md has the runs that `SPREAD`, `NOISE` and `DECODED` were fitted to, and how well the order of layouts is foreseen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from torchrec_pss.modules.id_counts import IdCounts, reads_of_ids

SPREAD = 0.02
NOISE = 10.0  # reads
DECODED = 25.0  # reads
_GROUPS = 64
_ALONE = 16  # of the most frequent ids, a group each
_LARGEST = 2.6  # of 64 elements, in deviations
_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, eq=False)
class Reads:
    """Of a table: groups of ids that are read about as often, the most frequent first.

    Attributes:
        reads: fp64 ``[g]``, of an id.
        ids: fp64 ``[g]``, how many such ids there are.
        counted: of the groups, those whose ids are known; at most one is of all others.
    """

    reads: np.ndarray
    ids: np.ndarray
    counted: int

    @property
    def total(self) -> float:
        return float((self.reads * self.ids).sum())

    @property
    def weight(self) -> float:
        """The odds that two reads are of different ids."""
        total = self.total
        return float(1 - (self.ids * (self.reads / total) ** 2).sum()) if total else 0.0

    def times(self, factor: float) -> "Reads":
        """Each id read so many times as often."""
        return replace(self, reads=self.reads * factor)


def reads_of(known: IdCounts | None, rows: int, total: int) -> Reads:
    """Of a table of so many rows. Without counts, ``total`` reads spread evenly; ids that were not counted one by one share the rest
    evenly."""
    reads, ids = reads_of_ids(known, rows, total)
    counts = reads[:-1]
    edges = np.arange(len(counts) + 1)
    if len(counts) > _GROUPS:
        spaced = np.geomspace(_ALONE + 1, len(counts), _GROUPS - _ALONE)
        edges = np.unique(np.concatenate([edges[: _ALONE + 1], np.round(spaced).astype(np.int64)]))
    grouped = np.diff(edges).astype(np.float64)
    means = np.diff(np.concatenate([[0.0], np.cumsum(counts)])[edges]) / grouped
    others = slice(-1, None) if reads[-1] > 0 else slice(0)
    return Reads(np.append(means, reads[others]), np.append(grouped, ids[others]), len(grouped))


def shares(dim: int) -> tuple[float, float]:
    """Of what a row means: along its first coordinate, and along each other."""
    return (1 - SPREAD, SPREAD / (dim - 1)) if dim > 1 else (1.0, 0.0)


def told(reads: np.ndarray, share: float, load: np.ndarray | float) -> np.ndarray:
    """Of a coordinate with that share: what reading it tells of an id, in reads."""
    carried = reads * share
    return carried**2 / np.maximum(carried + NOISE * share + load, _TINY)


def kept_by_bits(bits: int) -> float:
    """The share that elements of so many bits keep of what fp32 ones hold."""
    return 1 - (_LARGEST / (2 ** (bits - 1) - 0.5)) ** 2 / 12 if bits < 32 else 1.0


def resolved(of: Reads, dim: int, width: int, hot: float, load: float = 0.0) -> float:
    """Of what a table means, in [0, 1], in fp32: ``width`` coordinates read, the ``hot`` most frequent ids with elements of their own
    (all, of an exact table), the others with that load."""
    if not of.total:
        return 0.0
    own = own_ids(of, hot)
    found = 0.0
    for share, number in zip(shares(dim), (1, width - 1), strict=True):
        told_of = told(of.reads, share, 0.0) * own + told(of.reads, share, load) * (of.ids - own)
        found += number * float(told_of.sum())
    return found / of.total


def resolved_in_region(reads: Sequence[Reads], dims: Sequence[int], numel: float, bits: int) -> float:
    """As a sum of tables' weighed shares: all read D wide from one region of so many elements, none of them hot."""
    met = sum(of.total * of.weight for of in reads) / max(numel, 1.0)
    load = met * DECODED / (met + DECODED)
    found = sum(of.weight * resolved(of, dim, dim, 0.0, load) for of, dim in zip(reads, dims, strict=True))
    return kept_by_bits(bits) * found


def own_ids(of: Reads, hot: float) -> np.ndarray:
    """``[g]``: of each group, how many are among the ``hot`` most frequent."""
    return np.clip(hot - np.concatenate([[0.0], np.cumsum(of.ids)[:-1]]), 0, of.ids)
