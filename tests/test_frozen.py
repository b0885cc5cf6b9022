"""Frozen means frozen: what has no gradient is moved by no optimizer, average or restart, on one process or two, and learns once thawed."""

import pytest
import torch
import two_ranks
from torch import nn
from torch.distributed.optim import _apply_optimizer_in_backward
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import Topology
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim.optimizers import in_backward_optimizer_filter
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection, get_default_pss_sharders
from torchrec_pss.distributed.mixed_collection import SHARED_ARRAY
from torchrec_pss.distributed.mixed_embeddingbag import MixedEmbeddingBagCollection
from torchrec_pss.distributed.planner import PSSParameterConstraints, PSSShardingPlanner
from torchrec_pss.modules.array_restart import ArrayRestart
from torchrec_pss.optim import BestPass, WeightAverage

CPU = torch.device("cpu")
PARTS = ("array", "projections")
OPTIMIZERS = {
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


def tables():
    return [
        EmbeddingBagConfig(name=f"t{i}", num_embeddings=10**9, embedding_dim=8, feature_names=[f"f{i}"])
        for i in range(2)
    ]


class Model(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.ebc = PSSEmbeddingBagCollection(
            tables(), config=PSSConfig(layout="plain", array_bytes=2048, exact=(), width=4, init_range=0.5)
        )
        self.over = nn.Linear(16, 1)

    def forward(self, kjt):
        return self.over(self.ebc(kjt).values()).square().mean()


def batch(step, rank=0):
    generator = torch.Generator().manual_seed(10 * step + rank)
    lengths = torch.randint(0, 4, (16,), generator=generator)
    return KeyedJaggedTensor(["f0", "f1"], torch.randint(0, 99, (int(lengths.sum()),), generator=generator), lengths=lengths)  # fmt: skip


def values(ebc):
    return {name: getattr(ebc, name).detach().clone() for name in PARTS}


def moved(ebc, before):
    return {name for name in PARTS if not torch.equal(getattr(ebc, name), before[name])}


@pytest.mark.parametrize("frozen", [{"array"}, {"projections"}, set(PARTS)], ids=lambda f: "+".join(sorted(f)))
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_step_in_backward(name, frozen):
    model = Model()
    ebc = model.ebc
    optimizers = {part: OPTIMIZERS[name]([getattr(ebc, part)], lr=0.1) for part in PARTS}
    ebc.step_in_backward(optimizers["array"])
    for part in frozen:
        getattr(ebc, part).requires_grad_(False)
    before = values(ebc)

    def step(number):
        model(batch(number)).backward()
        optimizers["projections"].step()
        ebc.zero_grad()

    step(0)
    assert moved(ebc, before) == set(PARTS) - frozen
    ebc.requires_grad_(True)
    step(1)
    assert moved(ebc, before) == set(PARTS)


@pytest.mark.parametrize("data_type", [DataType.FP32, DataType.FP16])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_after_forward(name, data_type):
    configs = tables()
    for config in configs:
        config.data_type = data_type
    ebc = PSSEmbeddingBagCollection(configs, config=PSSConfig(layout="plain", array_bytes=2048, exact=(), width=4))
    ebc.step_in_backward(OPTIMIZERS[name]([ebc.array], lr=0.1))
    out = ebc(batch(0)).values().sum()
    ebc.array.requires_grad_(False)
    before = ebc.array.detach().clone()
    out.backward()
    assert torch.equal(ebc.array, before) and ebc.array.grad is None and ebc.projections.grad.abs().sum() > 0
    ebc.array.requires_grad_(True)
    ebc(batch(0)).values().sum().backward()
    assert not torch.equal(ebc.array, before)


def test_options_that_an_optimizer_gets_later_are_refused():
    ebc = Model().ebc
    optimizer = torch.optim.SGD([ebc.array], lr=0.1)
    ebc.step_in_backward(optimizer)
    optimizer.param_groups[0]["momentum"] = 0.9
    before = ebc.array.detach().clone()
    with pytest.raises(ValueError, match="no step in backward any more: SGD with momentum"):
        ebc(batch(0)).values().sum().backward()
    assert torch.equal(ebc.array, before)


def under_dmp(rank, world_size, frozen, in_backward, reduction, when):
    """What has moved after steps frozen, and after steps thawed; and the parameters at the end."""
    model = Model(seed=rank)
    if in_backward:
        _apply_optimizer_in_backward(OPTIMIZERS[in_backward], model.ebc.parameters(), {"lr": 0.1})
    if when == "before":
        for part in frozen:
            getattr(model.ebc, part).requires_grad_(False)
    sharders = get_default_pss_sharders(reduction)
    sharded = DistributedModelParallel(model, sharders=sharders, device=CPU, init_data_parallel=when != "before DDP")
    ebc = next(m for m in sharded.modules() if isinstance(m, PSSEmbeddingBagCollection))
    if when != "before":
        for part in frozen:
            getattr(ebc, part).requires_grad_(False)
    sharded.init_data_parallel()
    rest = dict(in_backward_optimizer_filter(sharded.named_parameters()))
    optimizer = torch.optim.Adam(rest.values(), lr=0.1)
    before, found = values(ebc), []
    with pytest.raises(ValueError, match="assign=True"):
        ebc.load_state_dict(ebc.state_dict(), assign=True)
    assert not moved(ebc, before)
    for step in range(4):
        if step == 1 and in_backward:  # frozen after forward
            loss = sharded(batch(step, rank))
            ebc.requires_grad_(False)
            kept = values(ebc)
            loss.backward()
            assert not moved(ebc, kept)
            ebc.requires_grad_(True)
            for part in frozen:
                getattr(ebc, part).requires_grad_(False)
        if step == 2:
            found.append(moved(ebc, before))
            ebc.requires_grad_(True)
        optimizer.zero_grad()
        sharded(batch(step, rank)).backward()
        optimizer.step()
    return [*found, moved(ebc, before)], {n: p.detach().numpy() for n, p in sharded.named_parameters()}


CASES = [
    ({"array"}, "sgd", "ddp", "before"),
    ({"array"}, "adam", "ddp", "after"),
    (set(PARTS), "adagrad", "sparse", "before"),
    ({"array"}, None, "ddp", "before"),
    ({"projections"}, None, "ddp", "before"),
    (set(PARTS), None, "all_reduce", "before"),
    ({"array"}, None, "sparse", "before"),
    ({"array"}, None, "ddp", "before DDP"),
    (set(PARTS), None, "ddp", "before DDP"),
]


def all_cases(rank, world_size):
    return [under_dmp(rank, world_size, *case) for case in CASES]


@pytest.mark.parametrize("ranks", [1, 2])
def test_under_distributed_model_parallel(tmp_path, ranks):
    """Replicas are equal at the end, thawed ones too: DDP knows nothing of them."""
    of_ranks = two_ranks.run(all_cases, tmp_path, world_size=ranks)
    for case, *found in zip(CASES, *of_ranks, strict=True):
        for steps, parameters in found:
            assert steps == [set(PARTS) - case[0], set(PARTS)], case
            for name, value in parameters.items():
                assert (value == found[0][1][name]).all(), (case, name)


def test_averages_and_restarts():
    model = Model()
    restart = ArrayRestart(model)
    average = WeightAverage(dict(model.named_parameters()), power=1)
    best = BestPass(average)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)

    def steps(first, last):
        for step in range(first, last):
            optimizer.zero_grad()
            model(batch(step)).backward()
            optimizer.step()
            average.step()

    steps(0, 3)
    best.end_pass([0.7])
    model.ebc.array.requires_grad_(False)
    frozen = model.ebc.array.detach().clone()
    steps(3, 5)
    last = model.over.weight.detach().clone()
    with average.applied():
        assert torch.equal(model.ebc.array, frozen) and not torch.equal(model.over.weight, last)
    assert torch.equal(average.state_dict()["ebc.array"], frozen)
    best.restore()
    with average.applied():
        assert torch.equal(model.ebc.array, frozen)
    moments = {k: v.clone() for k, v in optimizer.state[model.ebc.array].items()}
    projections = model.ebc.projections.detach().clone()
    restart.restart(optimizer)
    assert torch.equal(model.ebc.array, frozen) and not torch.equal(model.ebc.projections, projections)
    assert all(torch.equal(v, moments[k]) for k, v in optimizer.state[model.ebc.array].items())
    model.ebc.array.requires_grad_(True)
    restart.restart(optimizer)
    assert torch.equal(model.ebc.array, Model().ebc.array)


def test_a_frozen_table_is_not_put_into_an_array():
    """Its rows are what somebody wants to keep."""
    ebc = EmbeddingBagCollection(tables(), device=torch.device("meta"))
    ebc.embedding_bags["t1"].weight.requires_grad_(False)
    with pytest.raises(ValueError, match="table 't1' is frozen"):
        MixedEmbeddingBagCollection(ebc, ["t0", "t1"], PSSConfig(array_bytes=2048), "cpu")
    MixedEmbeddingBagCollection(ebc, ["t0"], PSSConfig(array_bytes=2048), "cpu")
    topology = Topology(world_size=1, compute_device="cpu", ddr_cap=10**12)
    model = nn.ModuleDict({"ebc": ebc})
    for mode in ("always", "auto"):
        plan = PSSShardingPlanner(topology, pss=mode, array_bytes=2048, min_speedup=1).plan(
            model, get_default_pss_sharders()
        )
        assert plan.plan["ebc"]["t1"].sharding_type != SHARED_ARRAY
    pinned = {"t1": PSSParameterConstraints(pss="exact")}
    with pytest.raises(
        ValueError, match="table 't1' is pinned into the array .pss='exact'., which cannot have it: frozen"
    ):
        PSSShardingPlanner(topology, array_bytes=2048, constraints=pinned).plan(model, get_default_pss_sharders())
