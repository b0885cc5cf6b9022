"""`ClickModel`: a TorchRec DLRM and its loss, as `train_criteo.py` trains it and `torchrec_pss.export` serves it."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchrec.datasets.utils import Batch
from torchrec.models.dlrm import DLRM, DLRM_DCN, DLRM_Projection
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface

INTERACTIONS = ("original", "dcn", "projection")


@dataclass(frozen=True)
class ClickModelConfig:
    """What there is beside the embeddings, by the names of torchrec_dlrm's flags.

    Attributes:
        dense_in_features: dense values of a row.
        dense_arch_layer_sizes: of the bottom MLP; the last is the embedding_dim.
        over_arch_layer_sizes: of the top MLP; the last is 1.
        interaction_type: one of `INTERACTIONS`.
        dcn_num_layers, dcn_low_rank_dim: of "dcn" alone.
        interaction_branch1_layer_sizes, interaction_branch2_layer_sizes: of "projection" alone, which needs both.
    """

    dense_in_features: int
    dense_arch_layer_sizes: list[int]
    over_arch_layer_sizes: list[int]
    interaction_type: str = "original"
    dcn_num_layers: int = 3
    dcn_low_rank_dim: int = 64
    interaction_branch1_layer_sizes: list[int] | None = None
    interaction_branch2_layer_sizes: list[int] | None = None

    def dlrm(self, ebc: EmbeddingBagCollectionInterface, device: torch.device | None = None) -> DLRM:
        """
        Args:
            ebc: of the tables.
            device: of the layers.

        Raises:
            ValueError: an interaction_type that is none of `INTERACTIONS`; else as TorchRec's.
        """
        found = self._made(ebc, device)
        if device is not None and torch.device(device).type != "meta":
            # TorchRec leaves its indices, or the cross net, on the CPU, and what wraps the model need not move them: a step could not
            # be captured in a CUDA graph, or not be taken at all.
            found.inter_arch.to(device)
        return found

    def _made(self, ebc: EmbeddingBagCollectionInterface, device: torch.device | None) -> DLRM:
        common = (ebc, self.dense_in_features, self.dense_arch_layer_sizes, self.over_arch_layer_sizes)
        if self.interaction_type == "dcn":
            return DLRM_DCN(*common, self.dcn_num_layers, self.dcn_low_rank_dim, dense_device=device)
        if self.interaction_type == "projection":
            branches = (self.interaction_branch1_layer_sizes, self.interaction_branch2_layer_sizes)
            return DLRM_Projection(*common, *branches, dense_device=device)
        if self.interaction_type != "original":
            raise ValueError(f"interaction_type must be one of {INTERACTIONS}, got {self.interaction_type!r}")
        return DLRM(*common, dense_device=device)


class ClickModel(nn.Module):
    """A DLRM and its loss; rows with a negative label are padding and count for nothing.

    Args:
        dlrm: TorchRec's, such as `ClickModelConfig.dlrm` makes.
    """

    def __init__(self, dlrm: DLRM) -> None:
        super().__init__()
        self.dlrm = dlrm

    def forward(self, batch: Batch) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """The mean loss of the rows; and, detached, loss, logits and labels (``[B]``), in `DLRMTrain`'s form."""
        logits = self.dlrm(batch.dense_features, batch.sparse_features).squeeze(-1)
        weights = (batch.labels >= 0).to(logits.dtype)
        losses = binary_cross_entropy_with_logits(logits, batch.labels.clamp(min=0), weights, reduction="sum")
        loss = losses / weights.sum().clamp(min=1)
        return loss, (loss.detach(), logits.detach(), batch.labels.detach())
