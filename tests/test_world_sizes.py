"""Saved on four processes, loaded on one, two, three and four: the same bits, with the optimizer's state."""

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import two_ranks
from test_distributed import CPU, MixedModel, batch
from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import EmbeddingModuleShardingPlan, ParameterSharding, ShardingEnv, ShardingPlan
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


def sharded(group, ranks, seed):
    """On the first ``ranks`` processes, those of ``group``; with Adam over everything."""
    parameter = ParameterSharding("data_parallel", "dense", list(range(ranks)))
    plan = ShardingPlan({name: EmbeddingModuleShardingPlan({"array": parameter}) for name in ("pss", "sequence")})
    env = ShardingEnv.from_process_group(group)
    dmp = DistributedModelParallel(Arrays(seed), env=env, plan=plan, sharders=get_default_pss_sharders(), device=CPU)
    parameters = dict(dmp.named_parameters())
    return dmp, KeyedOptimizerWrapper(parameters, lambda p: torch.optim.Adam(p, lr=0.02))


def state_of(dmp, optimizer):
    optimizer.init_state()
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


def saved_and_loaded(rank, world_size, folder):
    """What rank 0 reads after training, and after loading on 1 to ``world_size`` processes, saved in both ways."""
    groups = {n: dist.new_group(list(range(n))) for n in range(1, world_size + 1)}
    dmp, optimizer = sharded(groups[world_size], world_size, seed=rank)
    train(dmp, optimizer, rank)
    dcp.save(state_of(dmp, optimizer), checkpoint_id=f"{folder}/sync")
    dcp.async_save(state_of(dmp, optimizer), checkpoint_id=f"{folder}/async").result()
    found = {"trained": read(dmp, optimizer)}
    for n, group in groups.items():
        if rank < n:
            for way in ("sync", "async"):
                other, its_optimizer = sharded(group, n, seed=100 + rank)
                state = state_of(other, its_optimizer)
                dcp.load(state, checkpoint_id=f"{folder}/{way}", process_group=group)
                other.load_state_dict(state["model"])
                its_optimizer.load_state_dict(state["optimizer"])
                found[f"{way} on {n}"] = read(other, its_optimizer)
    return found


def test_a_checkpoint_of_four_processes_loads_on_any_number(tmp_path):
    first, *others = two_ranks.run(saved_and_loaded, tmp_path, str(tmp_path), world_size=4)
    trained = first["trained"]
    assert {"predicted", "pss.array", "pss._extra_state", "sequence.array", "pss.array/exp_avg"} <= set(trained)
    assert set(first) == {"trained"} | {f"{way} on {n}" for way in ("sync", "async") for n in (1, 2, 3, 4)}
    for found in (first, *others):
        for how, bits in found.items():
            assert bits == trained, f"{how}: {[name for name in trained if bits.get(name) != trained[name]]}"
    untrained = Arrays(0).pss.array.detach()
    assert bytes(untrained.view(torch.uint8).numpy()) != trained["pss.array"]
