"""`RowScores`: figures that need all test rows in one place."""

import numpy as np
import torch.distributed as dist
from auroc_interval import half_interval
from grouped_auroc import grouped_auroc
from process_group import cpu_group

from torchrec_pss.distributed.together import on_first_rank


class RowScores:
    """Keeps a score, a label and perhaps a group of each row: 5 or 13 bytes, gathered on rank 0 by `figures`."""

    def __init__(self) -> None:
        self._scores: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []
        self._groups: list[np.ndarray] = []

    def add(self, scores: np.ndarray, labels: np.ndarray, groups: np.ndarray | None) -> None:
        """Scores fp32 ``[n]``, labels ``[n]`` of 0 and 1, groups int64 ``[n]``, or None at each call."""
        self._scores.append(scores)
        self._labels.append(labels == 1)
        if groups is not None:
            self._groups.append(groups)

    def figures(self) -> dict[str, float | int | None]:
        """``auroc_half_interval``, and with groups ``grouped_auroc`` (see `grouped_auroc`), ``grouped_groups``, the number of groups
        that count, and ``grouped_rows_share``, the share of rows that are theirs. The same at any number of ranks. Collective."""
        parts = self._gathered()
        return on_first_rank(lambda: _figures(*(np.concatenate(part) if part else None for part in parts)))

    def _gathered(self) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
        """Of all ranks, on rank 0; nothing elsewhere."""
        own = self._scores, self._labels, self._groups
        if not dist.is_initialized():
            return own
        first = dist.get_rank() == 0
        gathered: list | None = [None] * dist.get_world_size() if first else None
        joined = tuple([np.concatenate(part)] if part else [] for part in own)
        dist.gather_object(joined, gathered, dst=0, group=cpu_group())
        if not first:
            return [], [], []
        return tuple([array for of_rank in gathered for array in of_rank[kind]] for kind in range(len(own)))


def _figures(scores: np.ndarray, labels: np.ndarray, groups: np.ndarray | None) -> dict[str, float | int | None]:
    found: dict[str, float | int | None] = {"auroc_half_interval": half_interval(scores, labels)}
    if groups is not None:
        grouped = grouped_auroc(scores, labels, groups)
        found |= {
            "grouped_auroc": grouped.auroc,
            "grouped_groups": grouped.groups,
            "grouped_rows_share": grouped.rows / len(scores),
        }
    return found
