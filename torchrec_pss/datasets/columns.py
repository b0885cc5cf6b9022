"""`Columns`: which fields of a line are the label, dense values and tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from torchrec_pss.datasets.bags import Bags
from torchrec_pss.datasets.rows import NUM_DENSE, NUM_SPARSE, RowBlock, empty_block

_IGNORED, _LABEL, _DENSE, _SPARSE, _BAG, _TIME = range(6)  # as csrc/text_rows.cpp has them


@dataclass(frozen=True)
class BagPlace:
    """
    Attributes:
        ids: place of the field that has a bag's ids.
        weights: of the one that has their weights, if there is one.
        separator: what divides them, one byte.
        names: of these columns, for messages.
    """

    ids: int
    weights: int | None
    separator: bytes
    names: tuple[str, ...]


@dataclass(frozen=True)
class Columns:
    """
    Attributes:
        number: fields of a line.
        label: place of the label among them.
        dense: places of dense values, in the order in which a model reads them.
        sparse: likewise of tokens.
        names: of the label and the numbers, for messages.
        plain: which of the dense values stay as they are; the others become ``sign(x) log(1 + |x|)``.
        bags: fields of several tokens; as features they come behind ``sparse``.
        time: place of a number that is kept as it is, for each row.
    """

    number: int
    label: int
    dense: tuple[int, ...]
    sparse: tuple[int, ...]
    names: tuple[str, ...]
    plain: tuple[int, ...] = ()
    bags: tuple[BagPlace, ...] = ()
    time: int | None = None

    @property
    def numbers(self) -> tuple[int, ...]:
        """Places of all numbers but the label: dense values, and the time behind them."""
        return self.dense if self.time is None else (*self.dense, self.time)

    def missing(self, place: int) -> bytes:
        """What an empty field of a number stands for: 0, but of a time no number."""
        return b"nan" if place == self.time else b"0"

    def block(self, numbers: np.ndarray, ids: np.ndarray, bags: Sequence[Bags], labels: np.ndarray) -> RowBlock:
        """Rows of those numbers as they stand in the file, float64 ``[n, numbers]``, and ids ``[sparse, n]``."""
        times = None if self.time is None else numbers[:, -1].copy()
        return RowBlock.joined(dense_values(numbers[:, : len(self.dense)], self.plain), ids, bags, labels, times)

    @property
    def weighted(self) -> bool:
        return any(bag.weights is not None for bag in self.bags)

    @property
    def nothing(self) -> RowBlock:
        """No rows."""
        number = len(self.sparse) + len(self.bags)
        return empty_block(len(self.dense), number, bool(self.bags), self.weighted, self.time is not None)

    @cached_property
    def spans(self) -> tuple[int, ...]:
        """Places of the fields of bags and of their weights, in the order of the line."""
        return tuple(sorted(place for bag in self.bags for place in (bag.ids, bag.weights) if place is not None))

    @cached_property
    def kinds(self) -> np.ndarray:
        """int32 ``[number]``, of each field, for the kernel."""
        found = np.full(self.number, _IGNORED, np.int32)
        found[self.label] = _LABEL
        time = [] if self.time is None else [self.time]
        found[list(self.dense)], found[list(self.sparse)], found[list(self.spans)] = _DENSE, _SPARSE, _BAG
        found[time] = _TIME
        return found

    @cached_property
    def dense_order(self) -> np.ndarray | None:
        """Of numbers in the order of the line, which is which; None: they are in it."""
        return _order(self.numbers)

    @cached_property
    def sparse_order(self) -> np.ndarray | None:
        return _order(self.sparse)


def dense_values(raw: np.ndarray, plain: Sequence[int] = ()) -> np.ndarray:
    """fp32 ``[n, dense]`` of numbers as they stand in the file, float64. ``plain``: which of them stay as they are."""
    found = (np.sign(raw) * np.log1p(np.abs(raw))).astype(np.float32)
    with np.errstate(over="ignore"):  # a number that is too large for fp32 is found to be so
        for place in plain:
            found[:, place] = raw[:, place]
    return found


def _order(places: tuple[int, ...]) -> np.ndarray | None:
    rank = np.argsort(np.argsort(places))
    return None if np.array_equal(rank, np.arange(len(places))) else rank


CRITEO = Columns(
    1 + NUM_DENSE + NUM_SPARSE, 0, tuple(range(1, 1 + NUM_DENSE)), tuple(range(1 + NUM_DENSE, 1 + NUM_DENSE + NUM_SPARSE)),
    ("label", *(f"I{i}" for i in range(1, 1 + NUM_DENSE))),
)  # fmt: skip
