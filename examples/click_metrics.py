"""AUROC, normalised entropy and log loss over all ranks."""

import math

import torch
import torch.distributed as dist
from process_group import cpu_group
from torchmetrics.classification import BinaryAUROC
from torchrec.metrics.ne import compute_cross_entropy, compute_ne

from torchrec_pss.distributed import NotFiniteError

_ETA = 1e-12


class OneClassError(ValueError):
    """No rows, or rows of one class only."""


class ClickMetrics:
    """Collects logits and labels; rows with a negative label are left out."""

    def __init__(self) -> None:
        self._group = cpu_group() if dist.is_initialized() else None
        self._auroc = BinaryAUROC(thresholds=None, process_group=self._group)
        self._sums = torch.zeros(4, dtype=torch.float64)  # cross entropy in bits, rows, positives, rows without a logit

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        logits, labels = logits.float().cpu(), labels.cpu()
        logits, labels = logits[labels >= 0], labels[labels >= 0]
        # On logits: probabilities saturate, and ties cost AUROC.
        self._auroc.update(torch.sigmoid(logits.double()), labels.long())
        bits = compute_cross_entropy(labels, torch.sigmoid(logits.double()), torch.ones_like(logits), _ETA)
        bad = (~torch.isfinite(logits)).double().sum()
        self._sums += torch.stack([bits.sum(), torch.tensor(float(len(labels))), labels.double().sum(), bad])

    def compute(self) -> dict[str, float]:
        """``auroc`` and ``ne`` over all ranks (collective).

        Raises:
            NotFiniteError: a logit is NaN or infinite, on any rank.
            OneClassError: no rows, or all of one class.
        """
        if dist.is_initialized():
            dist.all_reduce(self._sums, group=self._group)
        cross_entropy, rows, positives, bad = self._sums
        if bad:
            raise NotFiniteError(f"the model's logits are not finite: of {int(bad):,} of {int(rows):,} rows")
        if not 0 < positives < rows:
            raise OneClassError(f"AUROC needs both classes: {int(positives)} of {int(rows)} rows are positive")
        ne = compute_ne(cross_entropy, rows, positives, rows - positives, _ETA)
        found = {"auroc": float(self._auroc.compute()), "ne": float(ne)}
        if not all(map(math.isfinite, found.values())):
            raise NotFiniteError(f"a metric is not finite: {found}")
        return found
