"""What training loops do around a replicated array: each must train as a plain loop in one process does."""

import pytest
import torch
import torch.distributed as dist
import two_ranks
from mixed_model import CPU, DIM, STEPS, MixedModel, batch, planner
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import _apply_optimizer_in_backward
from torch.distributed.tensor import DTensor
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import ShardingEnv2D
from torchrec.optim.clipping import GradientClipping, GradientClippingOptimizer
from torchrec.optim.keyed import KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from torchrec_pss import get_default_pss_sharders

MAX_NORM = 0.05
MICRO = 2  # batches a step with gradient accumulation


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.2)


def without_plain(named):
    return {n: p for n, p in named if not n.startswith("plain.")}


def batches(way, step, rank):
    """Of one step."""
    if way == "accumulation":
        return [batch(MICRO * step + part, rank) for part in range(MICRO)]
    return [batch(step, rank)]


def loss_of(model, way, kjt, labels):
    with torch.autocast("cpu", torch.bfloat16, enabled=way == "amp"):
        return (model(kjt) - labels).square().mean() / (MICRO if way == "accumulation" else 1)


def trained(rank, world_size, way):
    model = MixedModel(seed=rank)
    _apply_optimizer_in_backward(torch.optim.SGD, model.plain.parameters(), {"lr": 0.2})
    apart = way in ("fsdp2", "no wrapper")
    sharders = get_default_pss_sharders("all_reduce" if apart else "ddp")
    plan = planner(world_size).collective_plan(model, sharders, dist.group.WORLD)
    dmp = DistributedModelParallel(model, plan=plan, sharders=sharders, device=CPU, init_data_parallel=not apart)
    core = dmp.module
    if way == "fsdp2":
        fully_shard(core.dense, mesh=init_device_mesh("cpu", (world_size,)))
        assert isinstance(core.dense.weight, DTensor) and not isinstance(core.pss.array, DTensor)
    elif way == "no wrapper":
        core.dense = nn.parallel.DistributedDataParallel(core.dense)
    elif way == "compiled dense":
        core.dense = torch.compile(core.dense, backend="aot_eager")
    parameters = without_plain(dmp.named_parameters())
    dense = sgd(parameters.values())
    if way == "clipping":
        dense = GradientClippingOptimizer(
            KeyedOptimizerWrapper(parameters, sgd), clipping=GradientClipping.NORM, max_gradient=MAX_NORM
        )
    losses = []
    for step in range(STEPS):
        dense.zero_grad()
        for kjt, labels in batches(way, step, rank):
            loss = loss_of(dmp, way, kjt, labels)
            loss.backward()
            losses.append(loss.item())
        dense.step()
    return losses, dmp.module.pss.array.detach().numpy().copy(), core.pss.projections.detach().numpy().copy()


def trained_alone(way, world_size):
    """The same in one process: the mean over the ranks' batches; each rank's losses, the array, a projection."""
    model = MixedModel(seed=0)
    parameters = without_plain(model.named_parameters())
    plain, rest = sgd(model.plain.parameters()), sgd(parameters.values())
    losses = [[] for _ in range(world_size)]
    for step in range(STEPS):
        plain.zero_grad()
        rest.zero_grad()
        for together in zip(*(batches(way, step, rank) for rank in range(world_size)), strict=True):
            for rank, (kjt, labels) in enumerate(together):
                loss = loss_of(model, way, kjt, labels)
                (loss / world_size).backward()
                losses[rank].append(loss.item())
            # TorchRec's tables step in every backward.
            plain.step()
            plain.zero_grad()
        if way == "clipping":
            norm = nn.utils.clip_grad_norm_(parameters.values(), MAX_NORM)
            assert norm > 2 * MAX_NORM
        rest.step()
    return losses, model.pss.array.detach().numpy(), model.pss.projections.detach().numpy()


WAYS = ["accumulation", "clipping", "amp", "compiled dense", "fsdp2", "no wrapper"]


def trained_in_every_way(rank, world_size):
    return {way: trained(rank, world_size, way) for way in WAYS}


@pytest.fixture(scope="module")
def in_two_processes(tmp_path_factory):
    return two_ranks.run(trained_in_every_way, tmp_path_factory.mktemp("ways"))


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_train_as_one(in_two_processes, way):
    losses, array, projection = trained_alone(way, 2)
    tolerance = {"rtol": 0.02, "atol": 0.01} if way == "amp" else {"rtol": 1e-4, "atol": 1e-5}
    for rank, found in enumerate(in_two_processes):
        own_losses, own_array, own_projection = found[way]
        torch.testing.assert_close(torch.tensor(own_losses), torch.tensor(losses[rank]), **tolerance)
        torch.testing.assert_close(torch.from_numpy(own_array), torch.from_numpy(array), **tolerance)
        torch.testing.assert_close(torch.from_numpy(own_projection), torch.from_numpy(projection), **tolerance)
        _, first_array, first_projection = in_two_processes[0][way]
        assert (own_array == first_array).all() and (own_projection == first_projection).all()


class ArrayModel(nn.Module):
    """`MixedModel` without the plain table."""

    def __init__(self, seed):
        super().__init__()
        self.pss = MixedModel(seed).pss
        self.dense = nn.Linear(3 * DIM, 1)

    def forward(self, kjt):
        return self.dense(self.pss(kjt).values()).squeeze(1)


def trained_in_groups(rank, world_size):
    """2D parallelism: `ShardingEnv2D`, as `DMPCollection` hands it to sharders; two groups of two."""
    return [trained_in_a_group(rank, in_backward) for in_backward in (False, True)]


def trained_in_a_group(rank, in_backward):
    model = ArrayModel(seed=rank)
    if in_backward:
        _apply_optimizer_in_backward(torch.optim.SGD, model.pss.parameters(), {"lr": 0.2})
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    env = ShardingEnv2D(mesh.get_group("shard"), mesh.get_group("replicate"), dist.group.WORLD, mesh)
    sharders = get_default_pss_sharders()
    plan = planner(2).collective_plan(model, sharders, dist.group.WORLD)
    dmp = DistributedModelParallel(model, env=env, plan=plan, sharders=sharders, device=CPU)
    rest = sgd(dict(in_backward_optimizer_filter(dmp.named_parameters())).values())
    for step in range(STEPS):
        kjt, labels = batch(step, rank)
        rest.zero_grad()
        (dmp(kjt) - labels).square().mean().backward()
        rest.step()
    return dmp.module.pss.array.detach().numpy().copy()


def test_the_array_is_reduced_over_all_groups(tmp_path):
    found = two_ranks.run(trained_in_groups, tmp_path, world_size=4)
    model = ArrayModel(seed=0)
    optimizer = sgd(model.parameters())
    for step in range(STEPS):
        optimizer.zero_grad()
        for rank in range(4):
            kjt, labels = batch(step, rank)
            ((model(kjt) - labels).square().mean() / 4).backward()
        optimizer.step()
    for replicas in zip(*found, strict=True):  # with a dense optimizer, with one in backward
        for replica in replicas:
            assert (replica == replicas[0]).all()
        torch.testing.assert_close(torch.from_numpy(replicas[0]), model.pss.array.detach(), rtol=1e-4, atol=1e-5)
