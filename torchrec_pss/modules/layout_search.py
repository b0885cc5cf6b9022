"""`search`: widths, hot rows, exact tables and slices of all tables that together resolve most in so many bytes.

Given a price of a byte, the best choice of a table does not depend on the others: the search is for the price at which all fit, and then
for what the bytes that are left over buy. Choices are made alike for alike counts, whatever the tables' order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from torchrec_pss.modules.allocation import ALIGNMENT, aligned, cell_bytes
from torchrec_pss.modules.layout_objective import Reads, kept_by_bits, shares, told
from torchrec_pss.ops.quantize import key_bytes, projection_bytes

_WIDTHS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128)  # and D
_SLICES_PER_DOUBLING = 4
_KEYS = 1024  # that are counted together, for no part of a byte
_FOLDS = 16  # numbers of rows that are looked at, from all down to half


@dataclass(frozen=True)
class Table:
    """What a choice is made of.

    Attributes:
        reads: of its ids.
        rows, dim: of the full table.
        may_be_exact: its ids are its rows.
        may_fold: of such a table, ids that are read least may have a row for two (`fold`).
    """

    reads: Reads
    rows: int
    dim: int
    may_be_exact: bool
    may_fold: bool = False


@dataclass(frozen=True)
class Choice:
    """Of a table. ``hot`` ids have elements of their own, and the others a slice; an exact table has neither, and ``exact_rows``, all or, folded,
    fewer."""

    width: int
    hot: int
    slice_numel: int
    exact_rows: int

    @property
    def is_exact(self) -> bool:
        return self.exact_rows > 0


class _Choices:
    """All choices of one table that no other beats at fewer bytes, from the cheapest to the dearest."""

    def __init__(self, table: Table, bits: int, cell: float, whole: bool) -> None:
        widths = [w for w in _WIDTHS if w < table.dim and not whole] + [table.dim]
        of, key = table.reads, key_bytes(_KEYS, True) / _KEYS
        hot = np.concatenate([[0.0], np.cumsum(of.ids)]).astype(np.int64)[: of.counted + 1]
        slices = _slice_sizes(int(of.ids.sum()), widths[-1])
        of_own, of_shared = _told(of, table.dim, slices)
        gains, costs, whats = [], [], []
        exact_rows = _exact_rows(table)
        of_exact = _told_folded(of, table.dim, exact_rows) if table.may_fold else of_own[:, -1:]
        for width in widths:
            projection = projection_bytes((width + 1) * table.dim, bits) if width < table.dim else 0  # with a bias
            own, shared = (first + (width - 1) * other for first, other in (of_own, of_shared))
            elements = aligned(hot * width)[:, None] + slices
            gains.append((own[: of.counted + 1, None] + shared[: of.counted + 1]).ravel())
            costs.append((elements * cell + key * hot[:, None] + projection).ravel())
            grid = np.meshgrid(width, hot, slices, 0, indexing="ij")
            whats.append(np.stack([g.ravel() for g in grid], 1))
            if table.may_be_exact:
                first, other = of_exact
                gains.append(first + (width - 1) * other)
                costs.append(aligned(exact_rows * width) * cell + projection)
                whats.append(np.stack([g.ravel() for g in np.meshgrid(width, 0, 0, exact_rows, indexing="ij")], 1))
        gain, cost, what = np.concatenate(gains), np.concatenate(costs), np.concatenate(whats)
        order = np.lexsort((-gain, cost))
        gain, cost, what = gain[order], cost[order], what[order]
        better = np.concatenate([[True], gain[1:] > np.maximum.accumulate(gain)[:-1]])
        self.gains = gain[better] * (kept_by_bits(bits) * of.weight / of.total if of.total else 0.0)
        self.costs, self._whats = cost[better], what[better]

    def __getitem__(self, number: int) -> Choice:
        return Choice(*self._whats[number].tolist())


def _exact_rows(table: Table) -> np.ndarray:
    fewest = -(-table.rows // 2) if table.may_fold else table.rows
    return np.unique(np.geomspace(fewest, table.rows, _FOLDS).round().astype(np.int64))


def fold(ids: np.ndarray, rows: int) -> np.ndarray:
    """Rows of ids that are in the order of their reads, the most read first, 0 apart: those from ``rows`` on share the last rows, the
    least read with the one that is read most of these."""
    return np.where(ids < rows, ids, rows - 1 - (ids - rows) % max(rows - 1, 1))


def _told_folded(of: Reads, dim: int, rows: np.ndarray) -> np.ndarray:
    """``[2, n]``, as `_told`: of a table with so many rows, where ids beyond them share the last ones (`fold`)."""
    reads = np.repeat(of.reads, of.ids.astype(np.int64))
    found = np.zeros((2, len(rows)))
    for c, share in enumerate(shares(dim)):
        alone = np.concatenate([[0.0], np.cumsum(told(reads, share, 0.0))])
        for i, number in enumerate(rows):
            more = reads[number:]
            met = reads[number - len(more) : number][::-1]
            shared = told(more, share, met).sum() + told(met, share, more).sum()
            found[c, i] = alone[min(number - len(more), len(reads))] + shared
    return found


def _slice_sizes(ids: int, widest: int) -> np.ndarray:
    """From the least to one in which every id would have its own elements."""
    most = max(aligned(ids * widest), ALIGNMENT)
    number = max(int(np.log2(most / ALIGNMENT) * _SLICES_PER_DOUBLING), 0) + 1
    return np.unique(aligned(np.geomspace(ALIGNMENT, most, number).astype(np.int64)))


def _told(of: Reads, dim: int, slices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By a first and by another coordinate: ``[2, groups + 1]`` of hot rows, if so many groups are hot; ``[2, groups + 1, slices]`` of the
    others, which share a slice."""
    number = len(of.ids)
    own, shared = np.zeros((2, number + 1)), np.zeros((2, number + 1, len(slices)))
    left = np.cumsum((of.reads * of.ids)[::-1])[::-1]
    for c, share in enumerate(shares(dim)):
        own[c, 1:] = np.cumsum(told(of.reads, share, 0.0) * of.ids)
        for g in range(number):
            shared[c, g] = of.ids[g:] @ told(of.reads[g:, None], share, left[g] / slices)
    return own, shared


def search(
    tables: Sequence[Table], array_bytes: int, bits: int, itemsize: int, whole: bool = False
) -> tuple[list[Choice], float] | None:
    """A choice for each table, ``whole`` of rows read D wide alone, and what all resolve, as a sum of tables' weighed shares; None where
    nothing fits. ``itemsize``: bytes of an element while it is trained."""
    cell = float(cell_bytes(bits, itemsize))
    all_choices = [_Choices(table, bits, cell, whole) for table in tables]
    if sum(c.costs[0] for c in all_choices) > array_bytes:
        return None

    def at(price: float) -> list[int]:
        return [int(np.argmax(c.gains - price * c.costs)) for c in all_choices]

    def cost(numbers: list[int]) -> float:
        return sum(float(c.costs[i]) for c, i in zip(all_choices, numbers, strict=True))

    low, high = 1e-18, 1e3  # of a byte; at the higher one the cheapest choices are taken
    for _ in range(100):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if cost(at(middle)) <= array_bytes else (middle, high)
    numbers = at(high)
    while True:
        left = array_bytes - cost(numbers)
        best = max(((c.gains[j] - c.gains[i], -t, j) for t, (c, i) in enumerate(zip(all_choices, numbers, strict=True))
                    if (j := int(np.searchsorted(c.costs, c.costs[i] + left, "right")) - 1) > i), default=None)  # fmt: skip
        if best is None or best[0] <= 0:
            break
        numbers[-best[1]] = best[2]
    choices = [c[i] for c, i in zip(all_choices, numbers, strict=True)]
    left = (array_bytes - cost(numbers)) / cell
    return _filled(tables, choices, left), sum(float(c.gains[i]) for c, i in zip(all_choices, numbers, strict=True))


def _filled(tables: Sequence[Table], choices: list[Choice], left: float) -> list[Choice]:
    """With the elements that are left over, which nothing that was counted needs, in the slices of tables that have more ids."""
    wanted = [
        0 if c.is_exact else max(aligned((t.rows - c.hot) * c.width) - c.slice_numel, 0)
        for t, c in zip(tables, choices, strict=True)
    ]
    share = min(left / max(sum(wanted), 1), 1.0)
    return [
        replace(c, slice_numel=c.slice_numel + int(share * w) // ALIGNMENT * ALIGNMENT)
        for c, w in zip(choices, wanted, strict=True)
    ]
