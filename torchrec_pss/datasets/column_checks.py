"""`odd_columns`: columns that say nothing, and those that say the label."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from torchrec_pss.ranks import auroc

_LEAK = 0.99  # AUROC of a column alone
_ROWS = 100  # of fewer nothing is said
_OF_A_CLASS = 10  # likewise, in either half of the rows


@dataclass(frozen=True)
class OddColumn:
    """
    Attributes:
        name: of the column.
        auroc: of it alone; None: it has one value.
    """

    name: str
    auroc: float | None

    def __str__(self) -> str:
        """What it shows, and what to do."""
        if self.auroc is None:
            return "it has one value: leave it out of the schema, unless later rows have others"
        return (
            f"alone it has AUROC {self.auroc:.4f}: it may hold what is known only after the label is; "
            "leave it out of the schema if so"
        )


def odd_columns(
    labels: np.ndarray, dense: Mapping[str, np.ndarray], sparse: Mapping[str, np.ndarray]
) -> list[OddColumn]:
    """Columns with one value, and those whose AUROC alone is above .99.

    Of a dense column that of its values, up or down. Of a sparse one that of the mean label of each id in the first half of the rows,
    on the second half: an id that occurs once tells nothing, and has the mean of all.

    Args:
        labels: ``[n]``, 0 or 1.
        dense: ``[n]`` of each column, finite.
        sparse: whole numbers ``[n]`` of each column: ids, or any codes of them.

    Returns:
        In the order of the columns; nothing of fewer than 100 rows, and no leak with fewer than 10 rows of a class in either half.
    """
    if len(labels) < _ROWS:
        return []
    labels = np.asarray(labels, np.float64)
    half, enough = len(labels) // 2, _enough(labels)
    found = []
    for columns, alone in ((dense, _of_values), (sparse, _of_ids)):
        for name, column in columns.items():
            if (column == column[0]).all():
                found.append(OddColumn(name, None))
            elif enough and (score := alone(column, labels, half)) > _LEAK:
                found.append(OddColumn(name, score))
    return found


def _enough(labels: np.ndarray) -> bool:
    halves = np.array_split(labels, [len(labels) // 2])
    return all(_OF_A_CLASS <= half.sum() <= len(half) - _OF_A_CLASS for half in halves)


def _of_values(column: np.ndarray, labels: np.ndarray, half: int) -> float:
    found = auroc(column, labels)
    return max(found, 1 - found)


def _of_ids(column: np.ndarray, labels: np.ndarray, half: int) -> float:
    """What the first half says, on the second."""
    values, codes = np.unique(column, return_inverse=True)
    first, second = codes[:half], codes[half:]
    rows = np.bincount(first, minlength=len(values))
    positives = np.bincount(first, labels[:half], len(values))
    mean = np.where(rows > 0, positives / np.maximum(rows, 1), labels[:half].mean())
    return auroc(mean[second], labels[half:])
