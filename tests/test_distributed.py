"""The shared array under `DistributedModelParallel`, in two processes: equal to one process, replicas bit-identical."""

import copy

import pytest
import torch
import torch.distributed as dist
import two_ranks
from mixed_model import BATCH, CPU, DIM, STEPS, MixedModel, batch, planner
from torch import nn
from torch.distributed.optim import _apply_optimizer_in_backward
from torchrec.datasets.utils import Batch
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineBase, TrainPipelineSparseDist
from torchrec.distributed.types import EmbeddingModuleShardingPlan, ParameterSharding, ShardingEnv, ShardingType
from torchrec.models.dlrm import DLRM, DLRMTrain
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim.optimizers import in_backward_optimizer_filter

from torchrec_pss import (
    PSSConfig,
    PSSEmbeddingBagCollection,
    PSSEmbeddingBagCollectionSharder,
    get_default_pss_sharders,
)
from torchrec_pss.distributed import ShardedPSSEmbeddingBagCollection, ShardedPSSEmbeddingCollection

OPTIMIZERS = {"sgd": (torch.optim.SGD, {"lr": 0.2}), "adam": (torch.optim.Adam, {"lr": 0.02})}


def trained_in_processes(rank, world_size, optimizer, in_backward, reduction="ddp"):
    """Parameters after STEPS; ranks start from different seeds, so that only a broadcast can make replicas equal."""
    optimizer_class, kwargs = OPTIMIZERS[optimizer]
    model = MixedModel(seed=rank)
    _apply_optimizer_in_backward(torch.optim.SGD, model.plain.parameters(), {"lr": 0.2})
    if in_backward:
        arrays = [*model.pss.parameters(), *model.sequence.parameters()]
        _apply_optimizer_in_backward(optimizer_class, arrays, kwargs)
    sharders = get_default_pss_sharders(reduction)
    plan = planner(world_size).collective_plan(model, sharders, dist.group.WORLD)
    dmp = DistributedModelParallel(model, plan=plan, sharders=sharders, device=CPU)
    assert isinstance(dmp.module.pss, ShardedPSSEmbeddingBagCollection)
    assert isinstance(dmp.module.sequence, ShardedPSSEmbeddingCollection)
    assert isinstance(dmp.module.plain, ShardedEmbeddingBagCollection)
    rest = dict(in_backward_optimizer_filter(dmp.named_parameters()))
    assert ("pss.array" in rest) != in_backward and "plain.embedding_bags.plain.weight" not in rest
    if in_backward:
        assert "pss.array" in dmp.fused_optimizer.params
    dense = optimizer_class(rest.values(), **kwargs)
    for step in range(STEPS):
        kjt, labels = batch(step, rank)
        dense.zero_grad()
        (dmp(kjt) - labels).square().mean().backward()
        dense.step()
    if in_backward and optimizer == "adam":
        state = dmp.fused_optimizer.state_dict()["state"]["pss.array"]
        assert float(state["step"]) == STEPS and state["exp_avg"].abs().sum() > 0
    state = dmp.state_dict()
    return {k: v.clone().numpy() for k, v in state.items() if k.startswith(("pss.", "sequence.", "dense."))}


def trained_alone(optimizer):
    """The same in one process: the mean over both ranks' batches."""
    optimizer_class, kwargs = OPTIMIZERS[optimizer]
    model = MixedModel(seed=0)
    plain = torch.optim.SGD(model.plain.parameters(), lr=0.2)
    rest = optimizer_class([p for n, p in model.named_parameters() if not n.startswith("plain")], **kwargs)
    for step in range(STEPS):
        plain.zero_grad()
        rest.zero_grad()
        losses = [(model(kjt) - labels).square().mean() for kjt, labels in (batch(step, rank) for rank in range(2))]
        (sum(losses) / 2).backward()
        plain.step()
        rest.step()
    return model.state_dict()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("in_backward", [False, True], ids=["dense_optimizer", "optimizer_in_backward"])
def test_two_processes_equal_one(tmp_path, optimizer, in_backward):
    first, second = two_ranks.run(trained_in_processes, tmp_path, optimizer, in_backward)
    assert {"pss.array", "pss.projections", "pss._extra_state", "sequence.array"} <= set(first)
    for name in first:
        assert (first[name] == second[name]).all(), f"replicas of {name} differ"
    alone = trained_alone(optimizer)
    for name, value in first.items():
        torch.testing.assert_close(
            torch.from_numpy(value), alone[name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("reduction, in_backward", [("sparse", False), ("sparse", True), ("bf16", True)])
def test_other_reductions_train_alike(tmp_path, reduction, in_backward):
    first, second = two_ranks.run(trained_in_processes, tmp_path, "sgd", in_backward, reduction)
    alone = trained_alone("sgd")
    rtol, atol = (1e-4, 1e-5) if reduction == "sparse" else (0.0, 0.002)
    for name in first:
        assert (first[name] == second[name]).all(), f"replicas of {name} differ"
        torch.testing.assert_close(torch.from_numpy(first[name]), alone[name], rtol=rtol, atol=atol)
    start = MixedModel(0).pss.array.detach()
    assert (torch.from_numpy(first["pss.array"]) - start).abs().max() > 10 * atol


def collectives_of_a_step(rank, world_size, kind):
    """Names of the collectives that forward calls."""
    tables = [EmbeddingBagConfig(name="t", num_embeddings=100, embedding_dim=DIM, feature_names=["p"])]
    config = PSSConfig(array_bytes=1024)
    model = nn.ModuleList(
        [EmbeddingBagCollection(tables=tables) if kind == "plain" else PSSEmbeddingBagCollection(tables, config=config)]
    )
    sharders = get_default_pss_sharders()
    plan = planner(world_size).collective_plan(model, sharders, dist.group.WORLD)
    module = DistributedModelParallel(model, plan=plan, sharders=sharders, device=CPU).module[0]
    kjt, _ = batch(0, rank)
    with torch.profiler.profile() as profile:
        module(kjt).values()
    return sorted({e.key for e in profile.key_averages() if e.key.startswith(("c10d::", "gloo:"))})


def test_forward_of_the_array_exchanges_nothing(tmp_path):
    assert two_ranks.run(collectives_of_a_step, tmp_path, "pss") == [[], []]
    # The check sees the exchange where there is one.
    assert all(two_ranks.run(collectives_of_a_step, tmp_path, "plain"))


def planned(rank, world_size, optimizer_class):
    model = nn.ModuleDict({"pss": MixedModel(0).pss, "plain": MixedModel(0).plain})
    if optimizer_class is not None:
        _apply_optimizer_in_backward(optimizer_class, [model["pss"].array], {})
    plans = planner(world_size)
    plan = plans.collective_plan(model, get_default_pss_sharders(), dist.group.WORLD)
    options = {o.name: o for o in plans._enumerator.last_stored_search_space} if rank == 0 else {}
    array = plan.get_plan_for_module("pss")["array"]
    storage = options["array"].shards[0].storage.ddr if rank == 0 else None
    return array.sharding_type, array.compute_kernel, array.ranks, str(plan), storage


@pytest.mark.parametrize(
    "optimizer_class, copies", [(None, 1), (torch.optim.Adam, 3)], ids=["weights", "with_adam_state"]
)
def test_the_plan_replicates_the_array_with_its_true_bytes(tmp_path, optimizer_class, copies):
    sharding_type, kernel, ranks, text, storage = two_ranks.run(planned, tmp_path, optimizer_class)[0]
    assert (sharding_type, kernel, ranks) == ("data_parallel", "dense", [0, 1])
    assert "array | data_parallel | dense" in text
    array_bytes = MixedModel(0).pss.array.numel() * 4
    # On top of it the planner counts a batch's input and output.
    assert copies * array_bytes <= storage <= copies * array_bytes + 64 * BATCH


def pipelined(rank, world_size, kind):
    torch.manual_seed(0)
    tables = [
        EmbeddingBagConfig(name=f"t{f}", num_embeddings=10**9, embedding_dim=DIM, feature_names=[f]) for f in "shnp"
    ]
    ebc = PSSEmbeddingBagCollection(tables, config=PSSConfig(array_bytes=4096))
    model = DLRMTrain(DLRM(ebc, 3, [16, DIM], [16, 1]))
    sharders = get_default_pss_sharders()
    plan = planner(world_size).collective_plan(model, sharders, dist.group.WORLD)
    dmp = DistributedModelParallel(model, plan=plan, sharders=sharders, device=CPU)
    optimizer = torch.optim.Adam(dmp.parameters(), lr=0.01)
    batches = []
    for step in range(STEPS):
        kjt, labels = batch(step, rank)
        batches.append(Batch(torch.rand(BATCH, 3, generator=torch.Generator().manual_seed(step)), kjt, labels.round()))
    losses = []
    if kind != "plain":
        if kind == "base":
            pipeline = TrainPipelineBase(dmp, optimizer, CPU)
        else:
            pipeline = TrainPipelineSparseDist(dmp, optimizer, CPU, execute_all_batches=True)
        iterator = iter(batches)
        losses = [float(pipeline.progress(iterator)[0]) for _ in range(STEPS)]
        if kind == "sparse":
            assert [m for m in pipeline._pipelined_modules if isinstance(m, ShardedPSSEmbeddingBagCollection)]
    else:
        for b in batches:
            optimizer.zero_grad()
            loss, _ = dmp(b)
            loss.backward()
            optimizer.step()
            losses.append(float(loss))
    return losses


def test_pipelines_equal_the_plain_loop(tmp_path):
    base, sparse, plain = (two_ranks.run(pipelined, tmp_path, kind) for kind in ("base", "sparse", "plain"))
    assert base == sparse == plain and plain[0] != plain[1] and len(set(plain[0])) == STEPS


def test_one_process_without_a_group_and_from_meta():
    """Sharding alone keeps values, names and layout; a meta module is allocated and initialised."""
    env = ShardingEnv(world_size=1, rank=0)
    plan = EmbeddingModuleShardingPlan({"array": ParameterSharding("data_parallel", "dense", [0])})
    module = MixedModel(0).pss
    expected = copy.deepcopy(module)
    sharded = PSSEmbeddingBagCollectionSharder().shard(module, plan, env, CPU)
    assert list(sharded.state_dict()) == list(expected.state_dict())
    kjt, _ = batch(0, 0)
    assert torch.equal(sharded(kjt).values(), expected(kjt).values())
    expected.load_state_dict(sharded.state_dict())

    meta = PSSEmbeddingBagCollection(module.embedding_bag_configs(), device="meta", config=module.config)
    allocated = PSSEmbeddingBagCollectionSharder().shard(meta, plan, env, CPU)
    assert not allocated.array.is_meta and allocated.array.std() > 0.02


def test_a_plan_that_is_not_data_parallel_is_refused():
    plan = EmbeddingModuleShardingPlan({"array": ParameterSharding(ShardingType.ROW_WISE.value, "fused", [0])})
    with pytest.raises(ValueError, match="'array' is planned as row_wise.*only be data_parallel"):
        PSSEmbeddingBagCollectionSharder().shard(MixedModel(0).pss, plan, ShardingEnv(1, 0), CPU, "model.pss")
