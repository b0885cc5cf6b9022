"""A model with a shared array, a sequence array and a plain EBC side by side, its batches and TorchRec's planner for it."""

from functools import partial

import torch
from torch import nn
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection, PSSEmbeddingCollection

STEPS, BATCH, DIM = 6, 8, 8
CPU = torch.device("cpu")


class MixedModel(nn.Module):
    """A shared array (with exact, shared and projected tables), a sequence array and a plain EBC side by side."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        shared = [
            EmbeddingBagConfig(name="small", num_embeddings=10, embedding_dim=DIM, feature_names=["s"]),
            EmbeddingBagConfig(name="huge", num_embeddings=10**11, embedding_dim=DIM, feature_names=["h"]),
            EmbeddingBagConfig(name="narrow", num_embeddings=10**6, embedding_dim=DIM, feature_names=["n"]),
        ]
        config = PSSConfig(array_bytes=4096, exact=["small"], width={"narrow": 4})
        self.pss = PSSEmbeddingBagCollection(shared, config=config)
        sequence = [EmbeddingConfig(name="seq", num_embeddings=10**6, embedding_dim=DIM, feature_names=["h"])]
        self.sequence = PSSEmbeddingCollection(sequence, config=PSSConfig(array_bytes=1024))
        # Sharding draws a plain table anew, so it starts from a constant.
        start = partial(nn.init.constant_, val=0.1)
        plain = [
            EmbeddingBagConfig(name="plain", num_embeddings=100, embedding_dim=DIM, feature_names=["p"], init_fn=start)
        ]
        self.plain = EmbeddingBagCollection(tables=plain)
        self.dense = nn.Linear(5 * DIM, 1)

    def forward(self, kjt):
        pooled = self.sequence(kjt)["h"].to_padded_dense(3).sum(1)
        return self.dense(torch.cat([self.pss(kjt).values(), self.plain(kjt).values(), pooled], dim=1)).squeeze(1)


def batch(step, rank):
    """(features, labels) of one rank's step; bags of 0 to 3 ids."""
    generator = torch.Generator().manual_seed(1000 * step + rank)
    parts, lengths = [], torch.randint(0, 4, (4 * BATCH,), generator=generator)
    for f, high in enumerate((10, 10**11, 10**6, 100)):
        count = int(lengths[f * BATCH : (f + 1) * BATCH].sum())
        parts.append(torch.randint(0, high, (count,), generator=generator))
    kjt = KeyedJaggedTensor.from_lengths_sync(["s", "h", "n", "p"], torch.cat(parts), lengths)
    return kjt, torch.rand(BATCH, generator=generator)


def planner(world_size):
    return EmbeddingShardingPlanner(
        topology=Topology(world_size=world_size, compute_device="cpu"),
        batch_size=BATCH,
        storage_reservation=FixedPercentageStorageReservation(percentage=0.1),
    )
