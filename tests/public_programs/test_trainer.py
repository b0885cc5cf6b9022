"""The shape of a loop under a Hugging Face `Trainer`.

Transformers is not installed: `Trainer` makes the calls that its own makes, in their order.
"""

import pytest
import torch
import torch.distributed as dist
import two_ranks
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

import torchrec_pss as pss  # swap
from public_programs.test_golden_training import CATEGORIES, DIM, batches, tables
from public_programs.ways import CPU, Program, check, compared
from torchrec_pss.checked_safetensors import load_safetensors, save_safetensors

RATE = 0.01


class ClickModel(nn.Module):
    """Takes a batch's tensors by name and returns loss and logits, as a `Trainer` asks."""

    def __init__(self, ebc):
        super().__init__()
        self.ebc = ebc
        self.norm = nn.LayerNorm(DIM * len(CATEGORIES))
        self.over = nn.Linear(DIM * len(CATEGORIES), 1)

    def forward(self, ids, labels=None):
        kjt = KeyedJaggedTensor(CATEGORIES, ids.T.flatten(), lengths=torch.ones(ids.numel(), dtype=torch.int64))
        logits = self.over(self.norm(self.ebc(kjt).values())).squeeze(1)
        loss = None if labels is None else nn.functional.binary_cross_entropy_with_logits(logits, labels.float())
        return {"loss": loss, "logits": logits}


class Trainer:
    """`transformers.Trainer`: DDP by accelerate, AdamW in two groups, clipping, a schedule, a checkpoint of tensors alone."""

    def __init__(self, model, data, folder):
        self.model, self.data, self.folder = DDP(model), iter(data), folder
        plain = {n for n, m in model.named_modules() if isinstance(m, nn.LayerNorm)}
        named = dict(model.named_parameters())
        decay = [p for n, p in named.items() if "bias" not in n and n.rpartition(".")[0] not in plain]
        others = [p for p in named.values() if all(p is not q for q in decay)]
        groups = [{"params": decay, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=RATE)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: max(0.0, 1 - step / 20))

    def step(self):
        self.model.train()
        loss = self.model(**next(self.data))["loss"]
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def save_model(self):
        """In safetensors, which has no objects, and shares no storage."""
        state = self.model.module.state_dict()
        path = f"{self.folder}/model-{dist.get_rank()}.safetensors"
        save_safetensors(state, path)
        missing, unexpected = self.model.module.load_state_dict(load_safetensors(path))
        assert not missing and not unexpected


def trainer(way, size, folder):
    ebc = EmbeddingBagCollection(tables=tables(), device=CPU)
    if way == "swap":
        ebc = pss.PSSEmbeddingBagCollection(tables(), device=CPU, config=pss.PSSConfig(array_bytes=size))  # swap
    data = ({"ids": b.sparse_features.values().view(len(CATEGORIES), -1).T, "labels": b.labels} for b in batches())
    own, probe = Trainer(ClickModel(ebc), data, folder), next(iter(batches()))
    ids = probe.sparse_features.values().view(len(CATEGORIES), -1).T
    return Program(own.model, own.step, lambda m: m(ids=ids)["logits"], own.save_model)


def whole():
    return ClickModel(EmbeddingBagCollection(tables=tables(), device=CPU))


def run(rank, world_size, folder):
    def make(way, size):
        return trainer(way, size, folder)

    return compared(rank, world_size, make, whole, tables(), folder, ways=["swap"])


@pytest.mark.parametrize("ranks", [1, 2])
def test_trainer(tmp_path, ranks):
    check(two_ranks.run(run, tmp_path, str(tmp_path), world_size=ranks), same_optimizer=True)
