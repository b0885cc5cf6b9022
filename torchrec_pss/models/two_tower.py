"""`TwoTower`: users and items by dot products, as `train_interactions.py` trains it and `torchrec_pss.export` serves its towers."""

import math

import torch
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


class TwoTower(nn.Module):
    """Logits of users and items: dot products of their embeddings, and a bias.

    The bias starts at the log odds of a pair among ``negatives`` sampled ones; without it the embeddings must say
    first that most pairs are none, and shrink to nothing before they learn.

    Args:
        embeddings: of two tables, the users' and the items', read by the features ``user`` and ``item``.
        negatives: sampled pairs beside each true one.
    """

    def __init__(self, embeddings: EmbeddingCollectionInterface, negatives: int) -> None:
        super().__init__()
        self.embeddings = embeddings
        # Row hashing leaves a table fewer rows than there are ids.
        self.num_users, self.num_items = (table.num_embeddings for table in embeddings.embedding_configs())
        self.bias = nn.Parameter(torch.tensor(-math.log(negatives)))

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Logits ``[B, K]`` of users ``[B]`` with items ``[B, K]``."""
        batch_size, num_items = items.shape
        lengths = torch.tensor([1, num_items], dtype=torch.int32, device=users.device).repeat_interleave(batch_size)
        kjt = KeyedJaggedTensor(
            ["user", "item"], torch.cat([users % self.num_users, items.flatten() % self.num_items]), lengths=lengths
        )
        read = self.embeddings(kjt)
        users_read = read["user"].values()[:, :, None]
        items_read = read["item"].values().view(batch_size, num_items, -1)
        return (items_read @ users_read).squeeze(2) + self.bias
