"""The shape of TorchRec's examples/bert4rec: a transformer over sequences of items, under DistributedModelParallel or under DDP."""

import pytest
import torch
import torch.distributed as dist
import two_ranks
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel as DMP
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

import torchrec_pss as pss  # swap, planner
from public_programs.ways import CPU, Program, check, compared

VOCABULARY, LENGTH, DIM, BATCH, RATE = 50, 6, 8, 8, 0.01


def tables():
    return [
        EmbeddingConfig(
            name="item_embedding", embedding_dim=DIM, num_embeddings=VOCABULARY, feature_names=["item"], weight_init_max=1.0,
            weight_init_min=-1.0,
        )
    ]  # fmt: skip


class Bert4Rec(nn.Module):
    def __init__(self, ec):
        super().__init__()
        self.ec = ec
        self.positional = nn.Parameter(torch.randn(LENGTH, DIM))
        self.norm = nn.LayerNorm([LENGTH, DIM])
        self.block = nn.TransformerEncoderLayer(DIM, 2, 4 * DIM, dropout=0.0, batch_first=True)
        self.out = nn.Linear(DIM, VOCABULARY)

    def forward(self, kjt):
        padding = kjt["item"].to_padded_dense(desired_length=LENGTH) == 0
        read = self.ec(kjt)["item"]
        items = torch.ops.fbgemm.jagged_2d_to_dense(
            values=read.values(), offsets=read.offsets(), max_sequence_length=LENGTH
        )
        return self.out(self.block(self.norm(items + self.positional), src_key_padding_mask=padding))


def batch(step):
    """Items counted up from a random one, some of them masked, and what was masked."""
    generator = torch.Generator().manual_seed(2 * (step % 2) + dist.get_rank())
    whole = torch.randint(1, VOCABULARY - LENGTH - 1, (BATCH, 1), generator=generator) + torch.arange(LENGTH)
    masked = torch.rand(whole.shape, generator=generator) < 0.3
    lengths = torch.full((BATCH,), LENGTH)
    kjt = KeyedJaggedTensor(["item"], whole.where(~masked, VOCABULARY - 1).flatten(), lengths=lengths)
    return kjt, whole.where(masked, 0)


def made(way, size):
    ec = EmbeddingCollection(tables=tables(), device=CPU)
    if way == "swap":
        ec = pss.PSSEmbeddingCollection(tables(), config=pss.PSSConfig(array_bytes=size, head="dot"))  # swap
    return Bert4Rec(ec)


def loop(model, optimizer):
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=6, gamma=0.5)
    steps, loss_fn = iter(range(100)), nn.CrossEntropyLoss(ignore_index=0)

    def step():
        kjt, labels = batch(next(steps))
        optimizer.zero_grad()
        loss = loss_fn(model(kjt).view(-1, VOCABULARY), labels.view(-1))
        loss.backward()
        optimizer.step()
        scheduler.step()
        return loss.item()

    return Program(model, step, lambda m: m(batch(0)[0]))


def dmp(way, size):
    if way == "plain":  # the same training: FBGEMM has no Adam on a CPU
        return ddp(way, size)
    module = made(way, size)
    fused_params = {"optimizer": EmbOptimType.ADAM, "learning_rate": RATE, "weight_decay": 0.0}
    sharders, plan = [EmbeddingCollectionSharder(fused_params)], None
    if way != "plain":
        sharders = pss.get_default_pss_sharders(fused_params=fused_params)  # swap, planner
    if way == "planner":
        plan = pss.PSSShardingPlanner(pss="always", array_bytes=size).collective_plan(module, sharders)  # planner
    model = DMP(module=module, device=CPU, sharders=sharders, plan=plan)  # planner
    dense = KeyedOptimizerWrapper(
        dict(in_backward_optimizer_filter(model.named_parameters())),
        lambda params: torch.optim.Adam(params, lr=RATE, weight_decay=0.0),
    )
    return loop(model, CombinedOptimizer([model.fused_optimizer, dense]))


def ddp(way, size):
    model = DDP(made(way, size))
    return loop(model, torch.optim.Adam(model.parameters(), lr=RATE, weight_decay=0.0))


def whole():
    return Bert4Rec(EmbeddingCollection(tables=tables(), device=CPU))


def run(rank, world_size, folder, make):
    return compared(
        rank, world_size, make, whole, tables(), folder, ways=["swap"] if make is ddp else ["swap", "planner"]
    )


@pytest.mark.parametrize("make", [dmp, ddp])
@pytest.mark.parametrize("ranks", [1, 2])
def test_bert4rec(tmp_path, ranks, make):
    check(two_ranks.run(run, tmp_path, str(tmp_path), make, world_size=ranks), same_optimizer=True)
