"""`Columns`: which fields of a line are the label, dense values and tokens."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from torchrec_pss.datasets.rows import NUM_DENSE, NUM_SPARSE

_IGNORED, _LABEL, _DENSE, _SPARSE = range(4)  # as csrc/text_rows.cpp has them


@dataclass(frozen=True)
class Columns:
    """
    Attributes:
        number: fields of a line.
        label: place of the label among them.
        dense: places of dense values, in the order in which a model reads them.
        sparse: likewise of tokens.
        names: of the label and the dense values, for messages.
        plain: which of the dense values stay as they are; the others become ``sign(x) log(1 + |x|)``.
    """

    number: int
    label: int
    dense: tuple[int, ...]
    sparse: tuple[int, ...]
    names: tuple[str, ...]
    plain: tuple[int, ...] = ()

    @cached_property
    def kinds(self) -> np.ndarray:
        """int32 ``[number]``, of each field, for the kernel."""
        found = np.full(self.number, _IGNORED, np.int32)
        found[self.label] = _LABEL
        found[list(self.dense)], found[list(self.sparse)] = _DENSE, _SPARSE
        return found

    @cached_property
    def dense_order(self) -> np.ndarray | None:
        """Of dense values in the order of the line, which is which; None: they are in it."""
        return _order(self.dense)

    @cached_property
    def sparse_order(self) -> np.ndarray | None:
        return _order(self.sparse)


def _order(places: tuple[int, ...]) -> np.ndarray | None:
    rank = np.argsort(np.argsort(places))
    return None if np.array_equal(rank, np.arange(len(places))) else rank


CRITEO = Columns(
    1 + NUM_DENSE + NUM_SPARSE, 0, tuple(range(1, 1 + NUM_DENSE)), tuple(range(1 + NUM_DENSE, 1 + NUM_DENSE + NUM_SPARSE)),
    ("label", *(f"I{i}" for i in range(1, 1 + NUM_DENSE))),
)  # fmt: skip
