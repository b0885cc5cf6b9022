"""`resolved`: how much of what a table's rows mean its place in an array can hold; what ``layout="auto"`` makes as large as it can.

A row of a table means a vector, of which a share of 1 - `SPREAD` lies along one direction that the table has learned, its first
coordinate, and the rest evenly along the D - 1 others. A coordinate with a share ``s`` of the meaning of a row that is read ``n`` times
carries ``e = n s``. Reading it tells

    e^2 / (e + NOISE s + load)

of that: `NOISE` reads of a row are as much as the labels' noise, and ``load`` is what others carry in its element (`loads`). A table counts
by the odds that two of its reads are of different ids: of a table that is one id nothing is lost.

Few bits add noise of their own: a group's largest of 64 normal elements is some 2.6 deviations, and the levels are that far apart.
docs/layout.md has the runs that `SPREAD`, `NOISE` and `REACHED` were fitted to, and how well the order of layouts is foreseen.
"""

from dataclasses import dataclass

import numpy as np

from torchrec_pss.modules.id_counts import IdCounts

SPREAD = 0.05
NOISE = 30.0  # reads
REACHED = 0.5
_GROUPS = 64
_ALONE = 16  # of the most frequent ids, a group each
_LARGEST = 2.6  # of 64 elements, in deviations
_TINY = float(np.finfo(np.float64).tiny)
_BISECTIONS = 24


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


def reads_of(known: IdCounts | None, rows: int, total: int) -> Reads:
    """Of a table of so many rows. Without counts, ``total`` reads spread evenly; ids that were not counted one by one share the rest
    evenly."""
    counts = np.zeros(0) if known is None else known.counts.astype(np.float64)
    edges = np.arange(len(counts) + 1)
    if len(counts) > _GROUPS:
        spaced = np.geomspace(_ALONE + 1, len(counts), _GROUPS - _ALONE)
        edges = np.unique(np.concatenate([edges[: _ALONE + 1], np.round(spaced).astype(np.int64)]))
    ids = np.diff(edges).astype(np.float64)
    reads = np.diff(np.concatenate([[0.0], np.cumsum(counts)])[edges]) / ids
    counted = len(ids)
    others, rest = max(rows - len(counts), 0), (total if known is None else known.total) - counts.sum()
    if others and rest > 0:
        ids, reads = np.append(ids, float(others)), np.append(reads, rest / others)
    return Reads(reads, ids, counted)


def shares(dim: int) -> tuple[float, float]:
    """Of what a row means: along its first coordinate, and along each other."""
    return (1 - SPREAD, SPREAD / (dim - 1)) if dim > 1 else (1.0, 0.0)


def told(reads: np.ndarray, share: float, load: np.ndarray | float) -> np.ndarray:
    """Of a coordinate with that share: what reading it tells of an id, in reads."""
    carried = reads * share
    return carried**2 / np.maximum(carried + NOISE * share + load, _TINY)


def loads(reads: np.ndarray, ids: np.ndarray, numel: np.ndarray, width: int) -> np.ndarray:
    """What others carry in an element where these share ``numel`` elements: ``[n]``.

    Read by one coordinate it is the others' reads over the elements. Read by many, a row is told from the others as by a random
    sketch (theorem 1 in docs/theory.md with the least squares' ridge): the load with which as many ids are told as there are elements,
    of which steps of gradient descent reach `REACHED`.

    Args:
        reads: ``[g]``, of an id.
        ids: ``[g]``, how many such ids share.
        numel: ``[n]``, sizes of the region.
        width: coordinates that are read.
    """
    alone = (reads @ ids) / np.maximum(numel, 1)
    return sketched(reads, ids, numel) * (1 - 1 / width) + alone / width


def sketched(reads: np.ndarray, ids: np.ndarray, numel: np.ndarray) -> np.ndarray:
    """The load of so many coordinates that it no longer depends on how many: ``[n]``, 0 where all ids could have elements of their own."""
    if not len(reads):
        return np.zeros(len(numel))
    numel = REACHED * numel
    high = np.maximum((reads @ ids) / np.maximum(numel, REACHED), _TINY)
    low = high * 1e-9
    for _ in range(_BISECTIONS):
        middle = np.sqrt(low * high)
        above = (ids[:, None] * (reads[:, None] / (reads[:, None] + middle))).sum(0) > numel
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.where(ids.sum() <= numel, 0.0, high)


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


def own_ids(of: Reads, hot: float) -> np.ndarray:
    """``[g]``: of each group, how many are among the ``hot`` most frequent."""
    return np.clip(hot - np.concatenate([[0.0], np.cumsum(of.ids)[:-1]]), 0, of.ids)
