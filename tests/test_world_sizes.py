"""Saved on four processes, loaded on one, two, three and four: the same bits, with the optimizer's state."""

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import two_ranks
from mixed_model import CPU, MixedModel, batch
from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import EmbeddingModuleShardingPlan, ParameterSharding, ShardingPlan
from torchrec.optim.keyed import KeyedOptimizerWrapper

from torchrec_pss import get_default_pss_sharders

STEPS = 3


class Arrays(nn.Module):
    """A bag array with exact, shared and projected tables, and a sequence array, before a dense layer."""

    def __init__(self, seed):
        super().__init__()
        mixed = MixedModel(seed)
        self.pss, self.sequence = mixed.pss, mixed.sequence
        self.dense = nn.Linear(4 * 8, 1)

    def forward(self, kjt):
        pooled = self.sequence(kjt)["h"].to_padded_dense(3).sum(1)
        return self.dense(torch.cat([self.pss(kjt).values(), pooled], dim=1)).squeeze(1)


def sharded(world_size, seed):
    """With Adam over everything."""
    parameter = ParameterSharding("data_parallel", "dense", list(range(world_size)))
    plan = ShardingPlan({name: EmbeddingModuleShardingPlan({"array": parameter}) for name in ("pss", "sequence")})
    dmp = DistributedModelParallel(Arrays(seed), plan=plan, sharders=get_default_pss_sharders(), device=CPU)
    parameters = dict(dmp.named_parameters())
    return dmp, KeyedOptimizerWrapper(parameters, lambda p: torch.optim.Adam(p, lr=0.02))


def state_of(dmp, optimizer):
    return {"model": dmp.state_dict(), "optimizer": optimizer.state_dict()}


def train(dmp, optimizer, rank):
    for step in range(STEPS):
        kjt, labels = batch(step, rank)
        optimizer.zero_grad()
        (dmp(kjt) - labels).square().mean().backward()
        optimizer.step()


def read(dmp, optimizer):
    """What a model predicts, and its parameters' and optimizer's bits."""
    with torch.no_grad():
        predicted = dmp(batch(99, 0)[0])
    states = optimizer.state_dict()["state"]
    flat = {f"{name}/{k}": v for name, s in states.items() for k, v in s.items() if isinstance(v, torch.Tensor)}
    tensors = {"predicted": predicted} | dict(dmp.state_dict()) | flat
    return {name: bytes(t.detach().contiguous().view(-1).view(torch.uint8).numpy()) for name, t in tensors.items()}


def loaded(rank, world_size, folder):
    """What is read after loading what either way of saving wrote."""
    found = {}
    for way in ("sync", "async"):
        dmp, optimizer = sharded(world_size, seed=100 + rank)
        optimizer.init_state()  # a step, so not where there is something to save
        state = state_of(dmp, optimizer)
        dcp.load(state, checkpoint_id=f"{folder}/{way}")
        dmp.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        found[f"{way} on {world_size}"] = read(dmp, optimizer)
    return found


def saved(rank, world_size, folder):
    """What is read after training, and after loading it again."""
    dmp, optimizer = sharded(world_size, seed=rank)
    train(dmp, optimizer, rank)
    dcp.save(state_of(dmp, optimizer), checkpoint_id=f"{folder}/sync")
    dcp.async_save(state_of(dmp, optimizer), checkpoint_id=f"{folder}/async").result()
    dist.barrier()
    return {"trained": read(dmp, optimizer)} | loaded(rank, world_size, folder)


def test_a_checkpoint_of_four_processes_loads_on_any_number(tmp_path):
    answers = two_ranks.run(saved, tmp_path, str(tmp_path), world_size=4)
    trained = answers[0]["trained"]
    assert {"predicted", "pss.array", "pss._extra_state", "sequence.array", "pss.array/exp_avg"} <= set(trained)
    for world_size in (1, 2, 3):
        answers += two_ranks.run(loaded, tmp_path, str(tmp_path), world_size=world_size)
    assert {how for found in answers for how in found} == {"trained"} | {
        f"{way} on {n}" for way in ("sync", "async") for n in (1, 2, 3, 4)
    }
    for found in answers:
        for how, bits in found.items():
            assert bits == trained, f"{how}: {[name for name in trained if bits.get(name) != trained[name]]}"
    untrained = Arrays(0).pss.array.detach()
    assert bytes(untrained.view(torch.uint8).numpy()) != trained["pss.array"]
