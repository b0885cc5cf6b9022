"""A sharded model as a plain one: to serve, to script, and with TorchRec's names."""

import copy

import pytest
import torch
import torch.distributed as dist
import torchrec.optim as theirs
import two_ranks
from torch import nn
from torch.distributed.optim import _apply_optimizer_in_backward
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import Topology
from torchrec.fx import symbolic_trace
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.modules.feature_processor_ import PositionWeightedModuleCollection
from torchrec.modules.fp_embedding_modules import FeatureProcessedEmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss import (
    MixedEmbeddingBagCollection,
    MixedEmbeddingCollection,
    PSSConfig,
    PSSEmbeddingBagCollection,
    PSSEmbeddingCollection,
    PSSFeatureProcessedEmbeddingBagCollection,
    PSSParameterConstraints,
    PSSShardingPlanner,
    expanded,
    get_default_pss_sharders,
    unsharded,
)

CPU = torch.device("cpu")
ROWS = {"a": 500, "b": 40, "c": 300}
NAMES = ["x", "y", "z"]


def tables(data_type=DataType.FP32):
    """Two tables that read one feature, one table of two features, and a mean."""
    features = {"a": ["x", "y"], "b": ["x"], "c": ["z"]}
    return [
        EmbeddingBagConfig(
            name=n, num_embeddings=r, embedding_dim=8 if n != "b" else 4, feature_names=features[n], data_type=data_type,
            pooling=PoolingType.MEAN if n == "c" else PoolingType.SUM,
        )
        for n, r in ROWS.items()
    ]  # fmt: skip


def sequences():
    return [EmbeddingConfig(name="s", num_embeddings=60, embedding_dim=8, feature_names=["y"])]


class Model(nn.Module):
    def __init__(self, ebc, ec=None):
        super().__init__()
        self.ebc = ebc
        self.ec = ec
        self.over = nn.Linear(28, 1)

    def forward(self, kjt: KeyedJaggedTensor):
        read = self.over(self.ebc(kjt).values())
        return read if self.ec is None else read + self.ec(kjt)["y"].values().sum()


def plain(with_ec=True, data_type=DataType.FP32):
    torch.manual_seed(1)
    ec = EmbeddingCollection(tables=sequences(), device=CPU) if with_ec else None
    return Model(EmbeddingBagCollection(tables(data_type), device=CPU), ec)


def swapped():
    torch.manual_seed(1)
    config = PSSConfig(array_bytes=8000, init_range=0.3)
    return Model(PSSEmbeddingBagCollection(tables(), config=config), PSSEmbeddingCollection(sequences(), config=config))


def batch(step=0):
    generator = torch.Generator().manual_seed(step)
    lengths = torch.randint(0, 3, (24,), generator=generator)
    return KeyedJaggedTensor(NAMES, torch.randint(0, 40, (int(lengths.sum()),), generator=generator), lengths=lengths)


def sharded(model, world_size, constraints=None, plan=True):
    _apply_optimizer_in_backward(theirs.RowWiseAdagrad, [p for n, p in model.named_parameters() if n.startswith("e")], {"lr": 0.1})  # fmt: skip
    sharders, found = get_default_pss_sharders(), None
    if plan:
        planner = PSSShardingPlanner(
            Topology(world_size, "cpu"), pss="always", array_bytes=8000, constraints=constraints
        )
        found = planner.collective_plan(model, sharders, dist.group.WORLD)
    dmp = DistributedModelParallel(model, sharders=sharders, device=CPU, plan=found)
    for step in range(2):
        dmp(batch(step)).square().sum().backward()
    dmp.zero_grad()
    return dmp.eval()


def gathered(rank, world_size):
    """Of planned and swapped models: what the first rank can do with one that is unsharded."""
    never = {"c": PSSParameterConstraints(pss="never")}
    cases = {
        "all planned": (plain(), None, True),
        "some planned": (plain(), never, True),
        "fp16": (plain(with_ec=False, data_type=DataType.FP16), never, True),
        "swapped": (swapped(), None, False),
    }
    found = {}
    for name, (model, constraints, plan) in cases.items():
        dmp = sharded(model, world_size, constraints, plan)
        expected = dmp(batch(7)).detach()
        whole, full, state = unsharded(dmp), expanded(dmp), unsharded(dmp.state_dict())
        after = dmp(batch(7)).detach()
        assert torch.equal(after, expected), name
        if rank > 0:
            assert whole is full is state is None
            continue
        found[name] = check(name, whole, full, state, expected)
    return found


def check(name, whole, full, state, expected):
    assert not whole.training and not any(hasattr(p, "_in_backward_optimizers") for p in whole.parameters())
    torch.testing.assert_close(whole(batch(7)).detach(), expected)
    fresh = copy.deepcopy(whole)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.zero_()
    fresh.load_state_dict(state)
    assert torch.equal(fresh(batch(7)), whole(batch(7)))
    original = plain(with_ec=name != "fp16", data_type=DataType.FP16 if name == "fp16" else DataType.FP32)
    original.load_state_dict(full)  # strictly, TorchRec's names and no other
    tolerance = {"rtol": 1e-2, "atol": 1e-2} if name == "fp16" else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(original(batch(7)), expected, **tolerance)
    scripted = torch.jit.script(symbolic_trace(whole) if whole.ec is None else whole.ebc)
    read = scripted(batch(7)) if whole.ec is None else scripted(batch(7)).values()
    torch.testing.assert_close(read, whole(batch(7)) if whole.ec is None else whole.ebc(batch(7)).values())
    return type(whole.ebc).__name__, sorted(whole.state_dict())


@pytest.mark.parametrize("ranks", [1, 2])
def test_unsharded_and_expanded(tmp_path, ranks):
    found = two_ranks.run(gathered, tmp_path, world_size=ranks)[0]
    assert [kind for kind, _ in found.values()] == ["MixedEmbeddingBagCollection"] * 3 + ["PSSEmbeddingBagCollection"]
    assert {"ebc.array.array", "ebc.tables.embedding_bags.c.weight"} <= set(found["some planned"][1])


def test_without_a_process_group():
    model = swapped()
    model.ebc.array.requires_grad_(False)
    copied = unsharded(model)
    assert copied is not model and torch.equal(copied(batch()), model(batch()))
    assert not copied.ebc.array.requires_grad and copied.ec.array.requires_grad
    full = expanded(model)
    assert full["ebc.embedding_bags.a.weight"].shape == (500, 8) and full["ec.embeddings.s.weight"].shape == (60, 8)
    assert torch.equal(full["ebc.embedding_bags.b.weight"], model.ebc.materialize("b", torch.arange(40)))
    alone = expanded(model.ebc)
    assert set(alone) == {f"embedding_bags.{n}.weight" for n in ROWS}
    with pytest.raises(
        ValueError, match="full tables have .* bytes, max_bytes is 20KB; the largest is 'ebc.a', 16,000"
    ):
        expanded(model, max_bytes="20KB")


def test_a_planned_collection_from_its_plan():
    """One call makes what loads the planned model's state, from the plan and the tables."""
    ebc = EmbeddingBagCollection(tables(), device=torch.device("meta"))
    sharders = get_default_pss_sharders()
    constraints = {"c": PSSParameterConstraints(pss="never")}
    planner = PSSShardingPlanner(Topology(1, "cpu"), pss="always", array_bytes=8000, constraints=constraints)
    entry = planner.plan(nn.ModuleDict({"ebc": ebc}), sharders).plan["ebc"]
    made = MixedEmbeddingBagCollection.from_plan(tables(), entry)
    again = MixedEmbeddingBagCollection.from_plan(tables(), entry)
    again.load_state_dict(made.state_dict())
    assert torch.equal(again(batch()).values(), made(batch()).values())
    assert again.is_weighted() is False
    with pytest.raises(ValueError, match=r"the plan is of tables \['a', 'b', 'c'\], not of \['a', 'b'\]"):
        MixedEmbeddingBagCollection.from_plan(tables()[:2], entry)


@pytest.mark.parametrize("through", [symbolic_trace, torch.jit.script], ids=["fx", "script"])
@pytest.mark.parametrize("shared", [["a"], ["b", "c"], ["a", "b", "c"]])
def test_planned_collections_are_scriptable(through, shared):
    torch.manual_seed(0)
    mixed = MixedEmbeddingBagCollection(EmbeddingBagCollection(tables()), shared, PSSConfig(array_bytes=4000), "cpu")
    expected, found = mixed(batch()), through(mixed)(batch())
    assert found.keys() == expected.keys() and found.length_per_key() == expected.length_per_key()
    assert torch.equal(found.values(), expected.values())


def of_another_kind(rank, world_size):
    processed = EmbeddingBagCollection(tables()[:1], is_weighted=True, device=CPU)
    positions = PositionWeightedModuleCollection({"x": 3, "y": 3}, CPU)
    theirs_ = FeatureProcessedEmbeddingBagCollection(processed, positions)
    dmp = DistributedModelParallel(nn.ModuleDict({"fp": theirs_}), sharders=get_default_pss_sharders(), device=CPU)
    with pytest.raises(
        TypeError, match="fp is a ShardedFeatureProcessedEmbeddingBagCollection, which cannot be unsharded"
    ):
        unsharded(dmp)
    ours = PSSEmbeddingBagCollection(tables()[:1], is_weighted=True, config=PSSConfig(array_bytes=4000))
    model = nn.ModuleDict({"fp": PSSFeatureProcessedEmbeddingBagCollection(ours, copy.deepcopy(positions))})
    dmp = DistributedModelParallel(model, sharders=get_default_pss_sharders(), device=CPU)
    whole = unsharded(dmp)
    weighted = KeyedJaggedTensor(NAMES[:2], torch.arange(6), lengths=torch.tensor([1, 2, 2, 1]))
    expected = dmp.module["fp"](weighted).values()
    return rank > 0 or torch.equal(whole["fp"](weighted).values(), expected)


def test_other_kinds(tmp_path):
    assert two_ranks.run(of_another_kind, tmp_path) == [True, True]


def test_what_has_no_names_to_expand_is_refused_by_its_type():
    with pytest.raises(TypeError, match=r"unsharded takes a model or its state_dict\(\), got a NoneType"):
        unsharded(None)
    with pytest.raises(TypeError, match="expanded takes a model, for a state dict does not say .*got a OrderedDict"):
        expanded(swapped().state_dict())


def test_plans_and_collections_of_another_kind():
    ebc = EmbeddingBagCollection(tables(), device=torch.device("meta"))
    plan_ = PSSShardingPlanner(Topology(1, "cpu"), pss="always", array_bytes=8000)
    plan = plan_.plan(nn.ModuleDict({"ebc": ebc}), get_default_pss_sharders())
    never = PSSShardingPlanner(Topology(1, "cpu"), pss="never")
    without = never.plan(nn.ModuleDict({"ebc": ebc}), get_default_pss_sharders()).plan["ebc"]
    for wrong in (plan, without, None):
        with pytest.raises(TypeError, match="the plan must be a collection's entry with an array in it, such as plan"):
            MixedEmbeddingBagCollection.from_plan(tables(), wrong)
    for wrong in (sequences(), ebc):
        with pytest.raises(TypeError, match="the tables must be a list of EmbeddingBagConfig, got"):
            MixedEmbeddingBagCollection.from_plan(wrong, plan.plan["ebc"])
    with pytest.raises(TypeError, match="the tables must be a list of EmbeddingConfig, got"):
        MixedEmbeddingCollection.from_plan(tables(), plan.plan["ebc"])
    with pytest.raises(TypeError, match="takes the place of an EmbeddingBagCollection, got a PSSEmbeddingBagColl"):
        MixedEmbeddingBagCollection(swapped().ebc, ["a"], PSSConfig(array_bytes=4000), "cpu")


def nested(rank, world_size):
    """A checkpoint's state, optimizer and all: tables that TorchRec divided are whole in it too."""
    model = plain(with_ec=False)
    _apply_optimizer_in_backward(torch.optim.SGD, model.ebc.parameters(), {"lr": 0.1})
    pinned = {
        n: PSSParameterConstraints(pss="never", sharding_types=["table_wise"], compute_kernels=["fused"]) for n in "bc"
    }
    sharders = get_default_pss_sharders()
    planner = PSSShardingPlanner(Topology(world_size, "cpu"), pss="always", array_bytes=8000, constraints=pinned)
    plan = planner.collective_plan(model, sharders, dist.group.WORLD)
    dmp = DistributedModelParallel(model, sharders=sharders, device=CPU, plan=plan)
    found, flat = unsharded({"model": dmp.state_dict(), "step": 7}), unsharded(dmp.state_dict())
    if rank > 0:
        return found is flat is None
    assert found["step"] == 7 and all(type(v) is torch.Tensor for v in found["model"].values())
    return all(torch.equal(found["model"][name], value) for name, value in flat.items())


def test_nested_state(tmp_path):
    assert two_ranks.run(nested, tmp_path) == [True, True]


def test_a_collection_at_two_paths_is_expanded_at_both():
    one = swapped().ebc
    full = expanded(nn.ModuleDict({"x": one, "y": one}))
    assert set(full) == {f"{path}.embedding_bags.{n}.weight" for path in "xy" for n in ROWS}
