"""The planner on models of every kind: what an array cannot have is left to TorchRec, and the plan says why."""

import itertools

import pytest
import torch
import torch.distributed as dist
import torchrec.optim as theirs
import two_ranks
from torch import nn
from torch.distributed.optim import _apply_optimizer_in_backward
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.modules.embedding_tower import EmbeddingTower
from torchrec.modules.feature_processor_ import PositionWeightedModuleCollection
from torchrec.modules.fp_embedding_modules import FeatureProcessedEmbeddingBagCollection
from torchrec.modules.mc_embedding_modules import ManagedCollisionEmbeddingBagCollection
from torchrec.modules.mc_modules import (
    DistanceLFU_EvictionPolicy,
    ManagedCollisionCollection,
    MCHManagedCollisionModule,
)
from torchrec.optim.optimizers import in_backward_optimizer_filter
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection, expanded, get_default_pss_sharders, unsharded
from torchrec_pss.distributed.mixed_embedding import MixedEmbeddingCollectionSharder
from torchrec_pss.distributed.mixed_embeddingbag import MixedEmbeddingBagCollectionSharder
from torchrec_pss.distributed.planner import PSSParameterConstraints, PSSShardingPlanner
from torchrec_pss.distributed.planner.candidates import budgets, tables_of
from torchrec_pss.distributed.planner.report import report_of

CPU, META = torch.device("cpu"), torch.device("meta")
DIM, ROWS = 8, 200


def bag(name, rows=ROWS, **others):
    return EmbeddingBagConfig(name=name, num_embeddings=rows, embedding_dim=DIM, feature_names=[f"f_{name}"], **others)


def ebc(*names, device=CPU, **others):
    return EmbeddingBagCollection([bag(name) for name in names], device=device, **others)


def features(names, step=0):
    generator = torch.Generator().manual_seed(step)
    lengths = torch.randint(1, 3, (len(names) * 4,), generator=generator)
    ids = torch.randint(0, ROWS, (int(lengths.sum()),), generator=generator)
    return KeyedJaggedTensor(list(names), ids, torch.rand(len(ids), generator=generator), lengths=lengths)


class Everything(nn.Module):
    """Collections of every kind side by side."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.plain = ebc("a", "b")
        self.weighted = ebc("w", is_weighted=True)
        self.processed = FeatureProcessedEmbeddingBagCollection(
            ebc("p", is_weighted=True), PositionWeightedModuleCollection({"f_p": 4}, CPU)
        )
        self.sequences = EmbeddingCollection(
            tables=[EmbeddingConfig(name="s", num_embeddings=ROWS, embedding_dim=DIM, feature_names=["f_s"])],
            device=CPU,
        )
        self.tower = EmbeddingTower(ebc("t"), _Interaction())

    def forward(self, kjt):
        flat = [m(kjt).values() for m in (self.plain, self.weighted, self.processed)]
        flat.append(self.tower(kjt))
        sequence = self.sequences(kjt)["f_s"].values()
        return sum(x.square().sum() for x in flat) + sequence.square().sum()


class _Interaction(nn.Module):
    def __init__(self):
        super().__init__()
        self.over = nn.Linear(DIM, 3)

    def forward(self, pooled):
        return self.over(pooled.values())


def planner(world_size, pss="always", array_bytes=40_000, **others):
    return PSSShardingPlanner(Topology(world_size, "cpu"), pss=pss, array_bytes=array_bytes, **others)


def step_of_everything(rank, world_size, pss):
    model = Everything()
    _apply_optimizer_in_backward(theirs.RowWiseAdagrad, (p for n, p in model.named_parameters() if n.endswith("weight") and "embedding" in n), {"lr": 0.1})  # fmt: skip
    planner_ = planner(world_size, pss)
    plan = planner_.collective_plan(model, get_default_pss_sharders(), dist.group.WORLD)
    dmp = DistributedModelParallel(model, sharders=get_default_pss_sharders(), device=CPU, plan=plan)
    dense = torch.optim.SGD([p for _, p in in_backward_optimizer_filter(dmp.named_parameters())], lr=0.01)
    losses = []
    names = [f"f_{n}" for n in "abwpst"]
    for _ in range(3):
        dense.zero_grad()
        loss = dmp(features(names))
        loss.backward()
        dense.step()
        losses.append(float(loss))
    found = [(t.name, t.reason) for t in planner_.tables] if rank == 0 else []
    report = str(report_of(planner_, plan, world_size)) if rank == 0 else ""
    return losses, found, report, sorted(n for n, _ in dmp.named_parameters() if n.endswith(".array"))


@pytest.mark.parametrize("pss", ["always", "auto"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_model_with_everything(tmp_path, ranks, pss):
    of_ranks = two_ranks.run(step_of_everything, tmp_path, pss, world_size=ranks)
    losses, tables, report, arrays = of_ranks[0]
    assert losses[2] < losses[0]
    reasons = dict(tables)
    assert {n for n, reason in reasons.items() if not reason} == {"a", "b", "w", "t", "s"}
    assert reasons["p"] == "part of a FeatureProcessedEmbeddingBagCollection, which is sharded as one"
    assert "left to TorchRec: p: part of a FeatureProcessedEmbeddingBagCollection" in report
    all_four = ["plain.array.array", "sequences.array.array", "tower.embedding.array.array", "weighted.array.array"]
    assert arrays == all_four if pss == "always" else set(arrays) <= set(all_four)


def test_a_remapped_collection():
    """TorchRec shards one on a GPU only."""
    remapped = ebc("m")
    whole = ManagedCollisionEmbeddingBagCollection(
        remapped,
        ManagedCollisionCollection(
            {
                "m": MCHManagedCollisionModule(
                    zch_size=ROWS,
                    device=CPU,
                    eviction_interval=2,
                    eviction_policy=DistanceLFU_EvictionPolicy(),
                    input_hash_size=10**6,
                )
            },
            remapped.embedding_bag_configs(),
        ),
    )
    planner_ = PSSShardingPlanner(Topology(1, "cuda"), pss="always", array_bytes=40_000)
    plan = planner_.plan(nn.ModuleDict({"remapped": whole, "plain": ebc("a")}), get_default_pss_sharders())
    assert plan.plan["plain"].shared_tables == ["a"] and "m" in plan.plan["remapped"]
    reasons = {t.name: t.reason for t in planner_.tables}
    assert reasons == {"a": "", "m": "part of a ManagedCollisionEmbeddingBagCollection, which is sharded as one"}


def mixed_model():
    torch.manual_seed(0)
    configs = [bag("a"), bag("b", 400), bag("c"), bag("fp16", 2000, data_type=DataType.FP16), bag("d", 1000)]
    model = nn.ModuleDict({"ebc": EmbeddingBagCollection([*configs, bag("lamb")])})
    weights = {n: model["ebc"].embedding_bags[n].weight for n in ("a", "b", "c", "fp16", "d", "lamb")}
    for names, optimizer_class, rate in (("ab", theirs.SGD, 0.1), ("c", theirs.SGD, 0.2)):
        _apply_optimizer_in_backward(optimizer_class, [weights[n] for n in names], {"lr": rate})
    _apply_optimizer_in_backward(theirs.SGD, [weights["fp16"]], {"lr": 0.1})
    _apply_optimizer_in_backward(theirs.LAMB, [weights["lamb"]], {"lr": 0.1})
    weights["d"].requires_grad_(False)
    return model


def test_tables_of_other_optimizers_and_dtypes_are_left_to_torchrec():
    planner_ = planner(1)
    plan = planner_.plan(mixed_model(), get_default_pss_sharders())
    assert plan.plan["ebc"].shared_tables == ["fp16"]  # of each kind the one with most bytes
    reasons = {t.name: t.reason for t in planner_.tables}
    assert reasons["a"] == reasons["b"] == "FP32, SGD(lr=0.1), where the array's tables have FP16, SGD(lr=0.1)"
    assert reasons["c"] == "FP32, SGD(lr=0.2), where the array's tables have FP16, SGD(lr=0.1)"
    assert reasons["d"] == "frozen: an array would not keep its rows"
    assert reasons["lamb"].startswith("table 'lamb': torchrec.optim.LAMB has no counterpart on a shared array")
    pinned = {n: PSSParameterConstraints(pss="always") for n in "ab"}
    plan = planner(1, constraints=pinned).plan(mixed_model(), get_default_pss_sharders())
    assert plan.plan["ebc"].shared_tables == ["a", "b"]
    assert "left to TorchRec: lamb: table 'lamb'" in str(report_of(planner_, plan, 1))


def test_tables_that_are_kept_in_a_way_of_torchrecs_stay_there():
    model_ = nn.ModuleDict(
        {
            "ebc": EmbeddingBagCollection(
                [bag("a"), bag("b"), bag("c"), bag("v", 1 << 40, use_virtual_table=True)], device=META
            )
        }
    )
    constraints = {
        "b": ParameterConstraints(compute_kernels=["fused_triton"]),
        "c": ParameterConstraints(compute_kernels=["fused", "customized_kernel"]),
    }
    reasons = {t.name: (t.pin, t.reason) for t in tables_of(model_, constraints)}
    assert reasons["a"] == reasons["c"] == ("auto", "")
    assert reasons["b"] == ("never", "its constraints ask for the compute kernel fused_triton")
    virtual = ("never", "a virtual table: its rows are made when they are read, and evicted")
    assert reasons["v"] == virtual
    reasons = {
        t.name: (t.pin, t.reason) for t in tables_of(model_, {"a": ParameterConstraints(use_virtual_table=True)})
    }
    assert reasons["a"] == virtual
    constraints["b"] = PSSParameterConstraints(pss="always", compute_kernels=["dram_virtual_table"])
    with pytest.raises(ValueError, match="'b' is pinned into the array .*the compute kernel dram_virtual_table"):
        tables_of(model_, constraints)


def test_a_sharder_that_offers_another_kernel():
    class Offers(MixedEmbeddingBagCollectionSharder):
        def compute_kernels(self, sharding_type, compute_device_type):
            return ["fused_triton"]

    model_ = nn.ModuleDict({"ebc": ebc("a", "b", device=META)})
    constraints = {"b": ParameterConstraints(compute_kernels=["fused_triton"])}
    planner_ = PSSShardingPlanner(Topology(2, "cuda"), pss="always", array_bytes=4096, constraints=constraints)
    sharders = [
        Offers(),
        *(s for s in get_default_pss_sharders() if not isinstance(s, MixedEmbeddingBagCollectionSharder)),
    ]
    plan = planner_.plan(model_, sharders).plan["ebc"]
    assert plan.shared_tables == ["a"] and plan["b"].compute_kernel == "fused_triton"


def test_torchrecs_own_dry_run_plans_with_ours():
    """TorchRec 1.9's; its variants of planners are a closed list, and a provider makes any."""
    api = pytest.importorskip("torchrec.distributed.planner.dry_run.api")
    from torchrec.distributed.planner.dry_run.types import DryRunRequest
    from torchrec.distributed.planner.executor import DefaultPlannerExecutor
    from torchrec.distributed.planner.provider import DefaultPlannerProvider
    from torchrec.distributed.planner.types import PlannerSessionContext, TrainingFramework

    class Provider(DefaultPlannerProvider):
        def build_planner(self, sku, *, topology, storage_reservation, ctx):
            self.planner = PSSShardingPlanner(topology, pss="always", array_bytes=4096)
            return self.planner

    provider = Provider()
    request = DryRunRequest(
        model=nn.ModuleDict({"ebc": ebc("a", "b", device=META)}), sharders=get_default_pss_sharders(),
        world_size=2, local_world_size=2, batch_size=64, hbm_gb=1.0, sku_list=["any"], training_framework=TrainingFramework.APF,
    )  # fmt: skip
    context = PlannerSessionContext(request=request, results={})
    result = api.DryRunOrchestrator(DefaultPlannerExecutor(provider)).plan(request, context)["any"]
    assert result.success and result.sharding_plan.plan["ebc"].shared_tables == ["a", "b"]
    assert [option.fqn for option in result.sharding_options] == ["ebc.array.array"]
    assert result.estimated_max_hbm_bytes > 4096
    assert [option.name for option in provider.planner.get_selected_options()] == ["array"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("c", r"tables 'a' and 'c' are pinned into one array, and differ.*SGD\(lr=0.1\) and FP32, SGD\(lr=0.2\)"),
        ("d", "table 'd' is pinned into the array .pss='always'., which cannot have it: frozen"),
        ("lamb", "table 'lamb' is pinned into the array .*torchrec.optim.LAMB has no counterpart"),
    ],
)
def test_pins_that_cannot_be(table, message):
    constraints = {n: PSSParameterConstraints(pss="always") for n in ("a", table)}
    with pytest.raises(ValueError, match=message):
        planner(1, constraints=constraints).plan(mixed_model(), get_default_pss_sharders())


@pytest.mark.parametrize(
    "sharders",
    [
        lambda: [EmbeddingBagCollectionSharder(fused_params={"learning_rate": 0.05}), *get_default_pss_sharders()],
        lambda: [*get_default_pss_sharders(), EmbeddingBagCollectionSharder()],
        lambda: [EmbeddingCollectionSharder(fused_params={"learning_rate": 0.05}), *get_default_pss_sharders()],
        lambda: [EmbeddingBagCollectionSharder(qcomm_codecs_registry={"a": 1}), *get_default_pss_sharders()],
        lambda: [EmbeddingBagCollectionSharder()],
    ],
)
def test_sharders_of_which_one_would_be_lost(sharders):
    with pytest.raises(ValueError, match=r"give get_default_pss_sharders\((fused_params|qcomm_codecs_registry)?"):
        planner(1).plan(nn.ModuleDict({"ebc": ebc("a")}), sharders())


def test_torchrecs_sharders_beside_ours_that_lose_nothing():
    fused = {"learning_rate": 0.05}
    for sharders in (
        [EmbeddingBagCollectionSharder(), *get_default_pss_sharders()],
        [EmbeddingBagCollectionSharder(fused_params=fused), *get_default_pss_sharders(fused_params=fused)],
    ):
        assert planner(1).plan(nn.ModuleDict({"ebc": ebc("a")}), sharders).plan["ebc"].shared_tables == ["a"]


def table_list(**collections):
    model = nn.ModuleDict(
        {
            path: EmbeddingBagCollection([bag(f"{path}{i}", r) for i, r in enumerate(rows)], device=META)
            for path, rows in collections.items()
        }
    )
    return model, tables_of(model, {}, get_default_pss_sharders())


@pytest.mark.parametrize("array_bytes", [40_000, 1 << 20, 10**7])
def test_several_collections_share_a_budget_by_need(array_bytes):
    model, tables = table_list(huge=[10**8], small=[20_000, 8_000, 40, 10])
    found = budgets(tables, array_bytes)
    assert sum(found.values()) <= array_bytes and min(found.values()) > 0
    alone = [min(rows, 10**8) for rows in (20_000, 8_000, 40, 10)]
    assert found["small"] >= min(0.4 * array_bytes, sum(alone) * DIM * 4)
    plan = planner(1, array_bytes=array_bytes).plan(model, get_default_pss_sharders())
    assert {p: e.config.array_bytes for p, e in plan.plan.items()} == found


def test_one_collection_has_the_whole_budget_and_small_ones_all_of_their_rows():
    _, tables = table_list(one=[10**8, 10])
    assert budgets(tables, 12_345) == {"one": 12_345}
    model, tables = table_list(one=[10**8], tiny=[10, 3])
    assert budgets(tables, 50_000)["tiny"] >= (10 + 3) * DIM * 4
    plan = planner(1, array_bytes=50_000).plan(model, get_default_pss_sharders())
    assert {s.compute_kernel for s in plan.plan["tiny"].values()} == {"exact_in_array"}


def test_a_budget_too_small_says_whose_and_of_what():
    model, _ = table_list(one=[10**8], other=[10**8])
    with pytest.raises(
        ValueError, match="of the array_bytes 80 its tables have 40 by their rows: array_bytes = 40 is too small"
    ):
        planner(1, array_bytes=80).plan(model, get_default_pss_sharders())


def without_our_sharders(rank, world_size):
    """The array's, or those of the plan's planner; from the meta device DMP makes other parameters of an array that it does not shard."""
    for device, ours in itertools.product(["cpu", "meta"], [None, get_default_pss_sharders()]):
        ebc = PSSEmbeddingBagCollection([bag("a")], device=device, config=PSSConfig(array_bytes=2000))
        model = _Called(nn.ModuleDict({"ebc": ebc, "over": nn.Linear(DIM, 1)}))
        _apply_optimizer_in_backward(torch.optim.SGD, ebc.parameters(), {"lr": 0.1})
        plan = EmbeddingShardingPlanner(Topology(world_size=world_size, compute_device="cpu")).collective_plan(model)
        dmp = DistributedModelParallel(model, device=CPU, plan=plan if ours else None, sharders=ours)
        with pytest.raises(
            RuntimeError,
            match=r"'array' has an optimizer in backward \(SGD\), and DistributedDataParallel has.*get_default_pss",
        ):
            dmp(features(["f_a"]))
    return True


class _Called(nn.Module):
    def __init__(self, parts):
        super().__init__()
        self.parts = parts

    def forward(self, kjt):
        return self.parts["over"](self.parts["ebc"](kjt).values()).sum()


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_swapped_module_without_our_sharders_loses_no_optimizer(tmp_path, ranks):
    assert all(two_ranks.run(without_our_sharders, tmp_path, world_size=ranks))


def sequence_model():
    torch.manual_seed(0)
    configs = [
        EmbeddingConfig(name=n, num_embeddings=r, embedding_dim=DIM, feature_names=f)
        for n, r, f in (("s", 300, ["f_s", "f_t"]), ("t", 250, ["f_t"]), ("u", 200, ["f_u"]))
    ]
    return nn.ModuleDict({"ec": EmbeddingCollection(tables=configs, device=CPU, need_indices=True)})


def planned_sequences(rank, world_size, kept):
    """What a planned EC returns, beside the whole's names, and the losses."""
    model = sequence_model()
    _apply_optimizer_in_backward(torch.optim.SGD, model.parameters(), {"lr": 0.5})
    constraints = {n: PSSParameterConstraints(pss="never") for n in kept}
    planner_ = planner(world_size, array_bytes=100_000, constraints=constraints)
    sharders = get_default_pss_sharders()
    plan = planner_.collective_plan(model, sharders, dist.group.WORLD)
    dmp = DistributedModelParallel(model, sharders=sharders, device=CPU, plan=plan)
    losses, ec = [], dmp.module["ec"]
    for _ in range(3):
        out = ec(features(["f_s", "f_t", "f_u"]))
        out = out.wait() if hasattr(out, "wait") else out
        loss = sum((j.values() - 0.3).square().mean() for j in out.values())
        loss.backward()
        losses.append(float(loss))
    whole, full = unsharded(dmp), expanded(dmp)
    again = None
    if rank == 0:
        again = sequence_model()
        again.load_state_dict(full)
        kjt = features(["f_s", "f_t", "f_u"], step=1)
        for read in (whole["ec"], torch.jit.script(whole["ec"])):
            for name, jagged in again["ec"](kjt).items():
                torch.testing.assert_close(read(kjt)[name].values(), jagged.values())
                assert torch.equal(read(kjt)[name].weights(), jagged.weights())
                assert torch.equal(read(kjt)[name].lengths(), jagged.lengths())
    return losses, list(out), sorted(plan.plan["ec"].shared_tables)


@pytest.mark.parametrize("kept", [(), ("t",)], ids=["all", "some"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_sequences_are_planned(tmp_path, ranks, kept):
    losses, names, shared = two_ranks.run(planned_sequences, tmp_path, kept, world_size=ranks)[0]
    assert losses[0] > losses[1] > losses[2]
    assert names == ["f_s", "f_t@s", "f_t@t", "f_u"]
    assert shared == sorted({"s", "t", "u"} - set(kept))


def test_a_collection_whose_sharder_knows_no_arrays():
    sharders = [s for s in get_default_pss_sharders() if s.module_type is not EmbeddingCollection]
    planner_ = planner(1)
    plan = planner_.plan(
        nn.ModuleDict({"ebc": ebc("a"), **sequence_model()}), [*sharders, EmbeddingCollectionSharder()]
    )
    assert plan.plan["ebc"].shared_tables == ["a"]
    reasons = {t.name: t.reason for t in planner_.tables}
    assert (
        reasons["s"]
        == "its sharder is EmbeddingCollectionSharder, which knows no arrays; give get_default_pss_sharders()"
    )


class Dense(MixedEmbeddingBagCollectionSharder):
    def compute_kernels(self, sharding_type, compute_device_type):
        return ["dense"]


@pytest.mark.parametrize(
    ("sharders", "lost"),
    [
        (lambda: [Dense(), *get_default_pss_sharders()], "what Dense does; give one sharder of that type"),
        (lambda: [*get_default_pss_sharders("sparse"), *get_default_pss_sharders()], "reduction of MixedEmbeddingBag"),
        (
            lambda: [EmbeddingCollectionSharder(use_index_dedup=True), *get_default_pss_sharders()],
            r"use_index_dedup of .*give MixedEmbeddingCollectionSharder\(use_index_dedup",
        ),
        (lambda: [EmbeddingBagCollectionSharder({"eps": 1e-3}), *get_default_pss_sharders()], "fused_params of"),
    ],
)
@pytest.mark.parametrize("pss", ["always", "never"])
def test_whatever_a_sharder_loses_is_said(sharders, lost, pss):
    with pytest.raises(ValueError, match=f"DistributedModelParallel takes the last, .* and loses {lost}"):
        planner(1, pss).plan(nn.ModuleDict({"ebc": ebc("a")}), sharders())


def test_sharders_that_carry_plans_out_need_no_others():
    """TorchRec's planner asks sharders of arrays too."""
    whole = nn.ModuleDict({"ebc": ebc("a", "b"), **sequence_model()})
    plan = planner(1).plan(whole, [MixedEmbeddingBagCollectionSharder(), MixedEmbeddingCollectionSharder()])
    assert plan.plan["ebc"].shared_tables == ["a", "b"] and plan.plan["ec"].shared_tables == ["s", "t", "u"]
    planner_ = planner(1)
    plan = planner_.plan(whole, [MixedEmbeddingBagCollectionSharder()])
    assert plan.plan["ebc"].shared_tables == ["a", "b"]
    reasons = {t.name: t.reason for t in planner_.tables}
    assert reasons["s"] == "its sharder is missing; give get_default_pss_sharders()"


@pytest.mark.parametrize("sharders", [None, [None], [MixedEmbeddingBagCollectionSharder], iter(())])
def test_what_are_no_sharders(sharders):
    with pytest.raises(TypeError, match=r"sharders must be a list such as get_default_pss_sharders\(\), got"):
        planner(1).plan(nn.ModuleDict({"ebc": ebc("a")}), sharders)
    with pytest.raises(TypeError, match="the model to plan must be a torch.nn.Module, got 'ebc'"):
        planner(1).plan("ebc", get_default_pss_sharders())


@pytest.mark.parametrize("pss", ["auto", "always", "never"])
def test_a_model_without_collections(pss):
    planner_ = planner(1, pss)
    assert planner_.plan(nn.Linear(2, 2), get_default_pss_sharders()).plan == {} and not planner_.tables


@pytest.mark.parametrize("pss", ["auto", "always"])
def test_a_collection_at_two_paths_stays_with_torchrec(pss):
    """Sharding makes a copy of its own for each: one would be an array, the other a table."""
    one = ebc("a")
    planner_ = planner(1, pss)
    plan = planner_.plan(nn.ModuleDict({"x": one, "y": one, "z": ebc("b")}), get_default_pss_sharders())
    assert plan.plan["z"].shared_tables == ["b"]
    assert all(not hasattr(plan.plan.get(path, {}), "array") for path in "xy")
    reasons = {(t.path, t.name): t.reason for t in planner_.tables}
    why = "its collection is at x and y, where sharding makes a copy of its own for each"
    assert reasons == {("x", "a"): why, ("y", "a"): why, ("z", "b"): ""}


def test_tables_that_must_be_exact_have_their_part_of_a_shared_budget():
    model, _ = table_list(one=[10**8], other=[1000])
    whole = 1000 * DIM * 4
    for others in (
        {"constraints": {"other0": PSSParameterConstraints(pss="exact")}, "array_bytes": whole + 8000},
        {"config": PSSConfig(array_bytes=whole + 8000, exact=["other0"]), "array_bytes": None},
    ):
        plan = planner(1, **others).plan(model, get_default_pss_sharders())
        assert {path: entry.config.array_bytes for path, entry in plan.plan.items()} == {"one": 8000, "other": whole}
    config = PSSConfig(array_bytes=1000, exact=["other0"])
    with pytest.raises(
        ValueError, match=r"array_bytes = 1,000 is too small: the tables that must be exact \(other0\) have 32,000"
    ):
        planner(1, array_bytes=None, config=config).plan(model, get_default_pss_sharders())
    model, _ = table_list(**{f"c{i}": [10**8] for i in range(9)})
    with pytest.raises(ValueError, match="c0: of the array_bytes 8 its tables have 0 by their rows: array_bytes must"):
        planner(1, array_bytes=8).plan(model, get_default_pss_sharders())


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        ({"a": "never"}, r"the constraint of table 'a' must be a PSSParameterConstraints, such as .*got 'never'"),
        (["a"], r"constraints must map tables to PSSParameterConstraints, got \['a'\]"),
        ({"a": ParameterConstraints(pooling_factors=None)}, "pooling_factors of table 'a' must be a list .* got None"),
        ({"a": ParameterConstraints(pooling_factors=[])}, r"pooling_factors of table 'a' must be a list .* got \[\]"),
        ({"a": ParameterConstraints(batch_sizes=[1, 2])}, r"batch_sizes of table 'a' must be a list .* got \[1, 2\]"),
    ],
)
def test_what_are_no_constraints(constraints, message):
    with pytest.raises(ValueError, match=message):
        planner(1, constraints=constraints)


def test_configs_that_name_no_table_of_the_model():
    with pytest.raises(ValueError, match="config must be a PSSConfig, got {'array_bytes': 1000}"):
        planner(1, array_bytes=None, config={"array_bytes": 1000})
    for field in ({"exact": ["aa"]}, {"width": {"aa": 4}}):
        planner_ = planner(1, array_bytes=None, config=PSSConfig(array_bytes=4000, **field))
        expected = rf"config: {next(iter(field))} names the tables \['aa'\]; the model's collections have \['a'\]"
        with pytest.raises(ValueError, match=expected):
            planner_.plan(nn.ModuleDict({"ebc": ebc("a")}), get_default_pss_sharders())


class _Failing(PSSShardingPlanner):
    """A user's, whose error cannot be sent to other ranks."""

    def plan(self, module, sharders):
        class OwnError(Exception):
            pass

        raise OwnError("nobody knows this class")


def errors_of_all_ranks(rank, world_size):
    with pytest.raises(RuntimeError, match="OwnError: nobody knows this class"):
        _Failing(Topology(world_size, "cpu"), pss="never").collective_plan(nn.ModuleDict({"ebc": ebc("a")}))
    return True


def test_an_error_that_cannot_be_sent_leaves_no_rank_waiting(tmp_path):
    assert all(two_ranks.run(errors_of_all_ranks, tmp_path))
