"""AUROC, normalised entropy, log loss and calibration over all ranks."""

import math

import numpy as np
import torch
import torch.distributed as dist
from process_group import cpu_group
from row_scores import RowScores
from torchmetrics.classification import BinaryAUROC
from torchrec.metrics.ne import compute_cross_entropy, compute_ne

from torchrec_pss.distributed import NotFiniteError

_ETA = 1e-12


class OneClassError(ValueError):
    """No rows, or rows of one class only."""


class ClickMetrics:
    """Collects logits and labels; rows with a negative label are left out.

    Args:
        by_row: whether rows are kept for the figures of `RowScores` too.
    """

    def __init__(self, by_row: bool = False) -> None:
        self._group = cpu_group() if dist.is_initialized() else None
        self._auroc = BinaryAUROC(thresholds=None, process_group=self._group)
        self._sums = torch.zeros(4, dtype=torch.float64)  # cross entropy in bits, rows, positives, rows without a logit
        self._predicted = torch.zeros((), dtype=torch.float64)  # sum of predictions
        self._by_row = RowScores() if by_row else None

    def update(self, logits: torch.Tensor, labels: torch.Tensor, groups: np.ndarray | None = None) -> None:
        """Logits and labels ``[n]``; ``groups`` int64 ``[n]``, of each row, where rows are kept."""
        logits, labels = logits.float().cpu(), labels.cpu()
        true = labels >= 0
        logits, labels = logits[true], labels[true]
        if self._by_row is not None:
            self._by_row.add(logits.numpy(), labels.numpy(), None if groups is None else groups[true.numpy()])
        # On logits: probabilities saturate, and ties cost AUROC.
        self._auroc.update(torch.sigmoid(logits.double()), labels.long())
        bits = compute_cross_entropy(labels, torch.sigmoid(logits.double()), torch.ones_like(logits), _ETA)
        bad = (~torch.isfinite(logits)).double().sum()
        self._sums += torch.stack([bits.sum(), torch.tensor(float(len(labels))), labels.double().sum(), bad])
        self._predicted += torch.sigmoid(logits.double()).sum()

    def compute(self) -> dict[str, float | int | None]:
        """Over all ranks (collective): ``auroc``, ``ne``, ``logloss`` in nats, ``calibration``, the sum of the predictions by that of the
        labels (as `torchrec.metrics.calibration`), and `RowScores.figures` where rows are kept.

        Raises:
            NotFiniteError: a logit is NaN or infinite, on any rank.
            OneClassError: no rows, or all of one class.
        """
        if dist.is_initialized():
            dist.all_reduce(self._sums, group=self._group)
            dist.all_reduce(self._predicted, group=self._group)
        cross_entropy, rows, positives, bad = self._sums
        if bad:
            raise NotFiniteError(f"the model's logits are not finite: of {int(bad):,} of {int(rows):,} rows")
        if not 0 < positives < rows:
            raise OneClassError(f"AUROC needs both classes: {int(positives)} of {int(rows)} rows are positive")
        ne = compute_ne(cross_entropy, rows, positives, rows - positives, _ETA)
        found = {"auroc": float(self._auroc.compute()), "ne": float(ne)}
        found["logloss"] = float(cross_entropy / rows) * math.log(2)
        found["calibration"] = float(self._predicted / positives)
        if not all(map(math.isfinite, found.values())):
            raise NotFiniteError(f"a metric is not finite: {found}")
        return found if self._by_row is None else found | self._by_row.figures()
