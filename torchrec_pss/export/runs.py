"""What of a run is exported: a click model's probabilities, a two-tower model's towers or pairs."""

from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torchmetrics.functional.classification import binary_auroc
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss.datasets.numbering import Numbering
from torchrec_pss.export.archive import Served
from torchrec_pss.export.numbered_ids import NumberedIds
from torchrec_pss.export.program import flattened
from torchrec_pss.export.saved_model import SavedModel
from torchrec_pss.models import ClickModel, TwoTower
from torchrec_pss.quant import PSSEmbeddingCollection

PARTS = {"click": ("probability",), "two_tower": ("pairs", "user", "item")}
_BATCH = 4096


class Probability(nn.Module):
    """Of dense values ``[B, d]`` and features, whose ids may have been numbered."""

    def __init__(self, dlrm: nn.Module, numbering: Numbering | None = None) -> None:
        super().__init__()
        self.dlrm = dlrm
        self.numbered = None if numbering is None else NumberedIds(numbering)

    def forward(self, dense: torch.Tensor, features: KeyedJaggedTensor) -> torch.Tensor:
        """fp32 ``[B]``."""
        if self.numbered is not None:
            features = self.numbered(features)
        return torch.sigmoid(self.dlrm(dense, features).squeeze(1).float())


class Pairs(nn.Module):
    """Probabilities of users and items, ``[B]`` each."""

    def __init__(self, two_tower: TwoTower) -> None:
        super().__init__()
        self.two_tower = two_tower

    def forward(self, features: KeyedJaggedTensor) -> torch.Tensor:
        read = self.two_tower.embeddings(features)
        return torch.sigmoid((read["user"].values() * read["item"].values()).sum(1) + self.two_tower.bias)


class Tower(nn.Module):
    """Embeddings ``[B, D]`` of ids ``[B]`` of one feature."""

    def __init__(self, two_tower: TwoTower, feature: str) -> None:
        super().__init__()
        self.embeddings = two_tower.embeddings
        self._feature = feature

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        offsets = torch.arange(ids.numel() + 1)
        if isinstance(self.embeddings, PSSEmbeddingCollection):
            position = self.embeddings._feature_names.index(self._feature)
            return self.embeddings.lookups[position](self.embeddings.array, ids, offsets, None)
        return self.embeddings.materialize(f"t_{self._feature}", ids)


def part_of(saved: SavedModel, part: str) -> tuple[nn.Module, list[str]]:
    """The module that is exported, and its arguments' names.

    Raises:
        ValueError: no such part of that kind of model.
    """
    if part not in PARTS[saved.kind]:
        raise ValueError(f"--part {part} is none of a {saved.kind} model, which has {', '.join(PARTS[saved.kind])}")
    if saved.kind == "click":
        return Probability(cast(ClickModel, saved.model).dlrm, saved.numbering), ["dense", "sparse"]
    two_tower = cast(TwoTower, saved.model)
    return (Pairs(two_tower), ["sparse"]) if part == "pairs" else (Tower(two_tower, part), ["ids"])


def arguments(saved: SavedModel, part: str, rows: slice) -> list[torch.Tensor | KeyedJaggedTensor]:
    """Held-out rows as arguments of that."""
    names = saved.collection._feature_names
    batch = saved.rows.take(np.arange(len(saved.rows))[rows]).batch(names)
    if saved.kind == "click":
        return [batch.dense_features, batch.sparse_features]
    return [batch.sparse_features if part == "pairs" else batch.sparse_features[part].values()]


def compare(model: nn.Module, file: Served, saved: SavedModel, part: str) -> dict[str, Any]:
    """Of the held-out rows: how far the file's answers are from the model's at most, and, of probabilities, the AUROC of both."""
    number, ours, theirs = len(saved.rows), [], []
    with torch.no_grad():
        for first in range(0, number, _BATCH):
            given = arguments(saved, part, slice(first, first + _BATCH))
            ours.append(model(*given))
            theirs.append(file(*flattened(given)))
    expected, found = torch.cat(ours), torch.cat(theirs)
    check: dict[str, Any] = {"rows": number, "largest_difference": float((expected - found).abs().max())}
    if expected.dim() == 1:
        labels = torch.from_numpy(saved.rows.labels).long()
        check |= {"auroc_of_model": _auroc(expected, labels), "auroc_of_file": _auroc(found, labels)}
    return check


def _auroc(probabilities: torch.Tensor, labels: torch.Tensor) -> float:
    return float(binary_auroc(probabilities.double(), labels))
