"""`IdCounts`: how often the ids of one table occur."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from torchrec_pss.ranges import Range, shown

_INT64 = np.iinfo(np.int64)
_TOTAL = Range(int, 0, int(_INT64.max))


def whole_numbers(what: str, values: object) -> np.ndarray:
    """int64 ``[n]`` of an array, a tensor or a sequence of whole numbers.

    Raises:
        ValueError: other numbers, or more than one dimension; says ``what`` they are, and the first that is none.
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    try:
        found = np.asarray(values)
    except (TypeError, ValueError) as error:  # rows of several lengths
        raise ValueError(f"{what} must be a vector of whole numbers, got {shown(values)}") from error
    if found.ndim != 1:
        raise ValueError(f"{what} must be a vector of whole numbers, got {shown(values)}")
    if not found.size:
        return np.zeros(0, np.int64)
    if found.dtype.kind not in "iu":
        bad = next((v for v in found.tolist() if not (type(v) in (int, float) and v % 1 == 0)), found.tolist()[0])
        raise ValueError(f"{what} must be whole numbers of 64 bits, got {shown(bad)}")
    if found.dtype.kind == "u" and found.max() > _INT64.max:
        raise ValueError(f"{what} must be whole numbers of 64 bits, got {found.max()}")
    return found.astype(np.int64)  # a copy: the caller may go on with his


@dataclass(frozen=True, eq=False)
class IdCounts:
    """The most frequent ids of a table, and what is known of the others.

    Attributes:
        ids: int64 ``[n]``, distinct, the most frequent first. Sequences and tensors are taken too.
        counts: int64 ``[n]``, how often each occurred; descending, positive. Likewise.
        total: occurrences of all ids, these and others.

    Raises:
        ValueError: what is no whole number, lengths that differ, ids that repeat, counts that ascend, are not positive or exceed
            the total.
    """

    ids: np.ndarray
    counts: np.ndarray
    total: int

    def __post_init__(self) -> None:
        for name in ("ids", "counts"):
            object.__setattr__(self, name, whole_numbers(name, getattr(self, name)))
        object.__setattr__(self, "total", _TOTAL.checked("total", self.total))
        if self.ids.shape != self.counts.shape:
            raise ValueError(f"ids and counts must be vectors of one length, got {self.ids.shape}, {self.counts.shape}")
        if len(np.unique(self.ids)) != len(self.ids):
            raise ValueError("an id is counted twice")
        if len(self.counts) and (self.counts[-1] < 1 or (np.diff(self.counts) > 0).any()):
            raise ValueError("counts must be positive and descend")
        # In two parts, for the sum may be more than 64 bits hold.
        counted = (int((self.counts >> 32).sum()) << 32) + int((self.counts & 0xFFFFFFFF).sum())
        if counted > self.total:
            raise ValueError(f"the counts add up to {counted}, more than their total {self.total}")

    @classmethod
    def of(cls, occurrences: np.ndarray) -> "IdCounts":
        """Exact counts of the ids in a vector, an array or a tensor.

        Raises:
            ValueError: ids that are no whole numbers.
        """
        occurrences = whole_numbers("ids", occurrences)
        ids, counts = np.unique(occurrences, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return cls(ids[order], counts[order], len(occurrences))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, IdCounts):
            return NotImplemented
        same = self.total == other.total
        return same and np.array_equal(self.ids, other.ids) and np.array_equal(self.counts, other.counts)

    def __hash__(self) -> int:
        return hash((len(self.ids), self.total))

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_bytes, (self.ids.astype("<i8").tobytes(), self.counts.astype("<i8").tobytes(), self.total)


def _from_bytes(ids: bytes, counts: bytes, total: int) -> IdCounts:
    """What a pickle calls, also of ``torch.load(weights_only=True)``, which takes no NumPy arrays."""
    return IdCounts(np.frombuffer(ids, "<i8").astype(np.int64), np.frombuffer(counts, "<i8").astype(np.int64), total)


torch.serialization.add_safe_globals([_from_bytes])


def examples_of(counts: Mapping[str, IdCounts]) -> int:
    """That the counts are of: reads of the table that is read most."""
    return max(known.total for known in counts.values())


def reads_of_ids(known: IdCounts | None, rows: int, total: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads of an id, and how many ids of a table of so many rows are read so often, both fp64: those counted one by one, then the
    others (perhaps none), which share the rest evenly. Without counts there are ``total`` reads of the others."""
    counts, total = (np.zeros(0), total) if known is None else (known.counts.astype(np.float64), known.total)
    others, rest = max(rows - len(counts), 0), max(total - int(counts.sum()), 0)
    return np.append(counts, rest / others if others else 0.0), np.append(np.ones(len(counts)), float(others))


def checked_counts(counts: object) -> dict[str, IdCounts]:
    """Counts by table name.

    Raises:
        TypeError: something else; names the table.
    """
    advice = "make one with torchrec_pss.modules.id_counts.IdCounts.of(ids)"
    if not isinstance(counts, Mapping):
        raise TypeError(f"counts must be an IdCounts by table name ({advice}), got {shown(counts)}")
    for table, known in counts.items():
        if not isinstance(known, IdCounts):
            raise TypeError(f"counts of table {table!r} must be an IdCounts, got {shown(known)}: {advice}")
    return dict(counts)
