"""The planner's choice of what to share: unmodified models, budgets, pins, and the seams of TorchRec's planner that it uses."""

import json
import re
from dataclasses import replace

import pytest
import torch
import torchrec.optim
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import nn
from torch.distributed.optim import _apply_optimizer_in_backward
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.constants import CROSS_NODE_BANDWIDTH
from torchrec.distributed.planner.partitioners import GreedyPerfPartitioner
from torchrec.distributed.planner.types import ParameterConstraints, PlannerError
from torchrec.distributed.sharding_plan import get_default_sharders
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from benchmarks.step_model import predictions
from torchrec_pss import (
    PSSConfig,
    PSSEmbeddingBagCollection,
    PSSEmbeddingBagCollectionSharder,
    get_default_pss_sharders,
)
from torchrec_pss.distributed.mixed_collection import EXACT, SHARED, SHARED_ARRAY
from torchrec_pss.distributed.mixed_embeddingbag import MixedEmbeddingBagCollection, MixedEmbeddingBagCollectionSharder
from torchrec_pss.distributed.planner import PSSParameterConstraints, PSSShardingPlanner
from torchrec_pss.distributed.planner.machines import topology
from torchrec_pss.distributed.planner.partitioners import FlatCopyPartitioner
from torchrec_pss.distributed.planner.report import report_of
from torchrec_pss.distributed.planner.shard_estimators import ReplicatedArrayEstimator
from torchrec_pss.plan.__main__ import main as dry_planner

WORLD = 4
MB = 1_000_000
SIZES = {"small": 100, "middle": 50_000, "large": 1_000_000, "huge": 40_000_000}
DIM = 16


def model(sizes=SIZES):
    tables = [
        EmbeddingBagConfig(name=name, num_embeddings=rows, embedding_dim=DIM, feature_names=[f"f_{name}"])
        for name, rows in sizes.items()
    ]
    return nn.ModuleDict({"ebc": EmbeddingBagCollection(tables, device=torch.device("meta")), "dense": nn.Linear(4, 1)})


def planner(pss="auto", hbm=10_000 * MB, world_size=WORLD, **others):
    topology = Topology(world_size=world_size, compute_device="cuda", hbm_cap=hbm, ddr_cap=1)
    if pss != "never" and "config" not in others:
        others = {"array_bytes": MB} | others
    return PSSShardingPlanner(topology, pss=pss, batch_size=512, **others)


def kinds(plan):
    return {
        name: sharding.compute_kernel if sharding.sharding_type == SHARED_ARRAY else sharding.sharding_type
        for name, sharding in plan.plan["ebc"].items()
    }


def shared(plan):
    return {name for name, kind in kinds(plan).items() if kind in (EXACT, SHARED)}


def test_never_is_torchrecs_own_plan():
    topology = Topology(world_size=WORLD, compute_device="cuda", hbm_cap=10_000 * MB, ddr_cap=1)
    theirs = EmbeddingShardingPlanner(topology=topology, batch_size=512).plan(model(), get_default_sharders())
    ours = planner("never").plan(model(), get_default_pss_sharders())
    assert str(ours) == str(theirs)
    assert type(ours.plan["ebc"]) is type(theirs.plan["ebc"])


def test_never_with_nothing_to_shard():
    assert planner("never").plan(nn.Linear(2, 1), []).plan == {}


def test_sharders_take_torchrecs_arguments_by_position():
    fused = {"learning_rate": 0.1}
    assert MixedEmbeddingBagCollectionSharder(fused).fused_params == fused
    assert PSSEmbeddingBagCollectionSharder(None, {"forward": None}).qcomm_codecs_registry == {"forward": None}


def test_always_shares_all_but_what_is_pinned():
    plan = planner("always").plan(model(), get_default_pss_sharders())
    assert kinds(plan) == {"small": EXACT, "middle": SHARED, "large": SHARED, "huge": SHARED}
    constraints = {
        "middle": PSSParameterConstraints(pss="never"),
        "small": PSSParameterConstraints(pss="always"),
        "large": ParameterConstraints(pooling_factors=[3.0]),
    }
    plan = planner("always", constraints=constraints).plan(model(), get_default_pss_sharders())
    assert shared(plan) == {"small", "large", "huge"}
    assert all(s.ranks == list(range(WORLD)) for n, s in plan.plan["ebc"].items() if n != "middle")


def test_auto_shares_only_what_does_not_fit():
    """3.4 GB of tables: on ranks of 10 GB all fit; of 200 MB the largest must go; of 20 MB all that cannot be cut in four."""
    only_fit = {"min_speedup": float("inf")}
    assert shared(planner(**only_fit).plan(model(), get_default_pss_sharders())) == set()
    roomy = planner(hbm=200 * MB, **only_fit)
    assert shared(roomy.plan(model(), get_default_pss_sharders())) == {"huge"}
    assert [t.name for t in roomy.chosen.shared] == ["huge"]
    assert shared(planner(hbm=20 * MB, **only_fit).plan(model(), get_default_pss_sharders())) == {"huge", "large"}


def test_auto_shares_what_fits_where_the_cost_model_finds_it_faster():
    """Many ids a bag make exchanges dear; an array of a few bytes is reduced in no time."""
    constraints = {name: ParameterConstraints(pooling_factors=[50.0]) for name in SIZES}
    fast = planner(constraints=constraints, array_bytes=100_000)
    plan = fast.plan(model(), get_default_pss_sharders())
    never = planner("never", constraints=constraints)
    never.plan(model(), get_default_pss_sharders())
    assert shared(plan) and never.chosen.rating >= 1.1 * fast.chosen.rating
    slow = planner(
        constraints=constraints, array_bytes=100_000, min_speedup=never.chosen.rating / fast.chosen.rating * 1.01
    )
    assert shared(slow.plan(model(), get_default_pss_sharders())) == set()


def test_max_compression_limits_what_is_shared():
    options = {"hbm": 20 * MB, "min_speedup": float("inf")}
    with pytest.raises(PlannerError, match="no plan fits.*With max_compression 2628 .all tables shared. a plan fits"):
        planner(max_compression=2000, **options).plan(model(), get_default_pss_sharders())
    assert "huge" in shared(planner(max_compression=3000, **options).plan(model(), get_default_pss_sharders()))
    with pytest.raises(ValueError, match="max_compression 10: the tables that must be in the array have 2,627,206,400"):
        planner("always", max_compression=10).plan(model(), get_default_pss_sharders())


def test_pins_for_exact_tables():
    constraints = {"middle": PSSParameterConstraints(pss="exact"), "huge": PSSParameterConstraints(pss="never")}
    plan = planner("always", array_bytes=8 * MB, constraints=constraints).plan(model(), get_default_pss_sharders())
    assert kinds(plan)["middle"] == EXACT and kinds(plan)["large"] == SHARED
    with pytest.raises(ValueError, match="array_bytes = 1000000 is too small.*works .* 1601856 bytes"):
        planner("always", array_bytes=MB, constraints=constraints).plan(model(), get_default_pss_sharders())


def test_settings_of_tables_left_out_are_passed_over():
    config = PSSConfig(array_bytes=MB, width={"huge": 4, "large": 8}, exact=["small"], seed=5)
    plan = planner("always", config=config, constraints={"large": PSSParameterConstraints(pss="never")}).plan(
        model(), get_default_pss_sharders()
    )
    found = plan.plan["ebc"].config
    assert found.width["huge"] == 4 and "large" not in found.width and found.seed == 5 and found.array_bytes == MB


def test_several_collections_divide_the_budget():
    two = nn.ModuleDict({"a": model()["ebc"], "b": model({"other": 1_000_000})["ebc"]})
    plan = planner("always").plan(two, get_default_pss_sharders())
    budgets = [plan.plan[path].config.array_bytes for path in ("a", "b")]
    assert sum(budgets) <= MB and 0 < budgets[1] < budgets[0]


def test_a_collection_alone_is_planned_too():
    plan = planner("always").plan(model()["ebc"], get_default_pss_sharders())
    assert set(plan.plan) == {""} and set(plan.plan[""].shared_tables) == set(SIZES)


def test_the_model_is_not_changed():
    module = model()
    before = {name: id(m) for name, m in module.named_modules()}
    planner(hbm=20 * MB).plan(module, get_default_pss_sharders())
    with pytest.raises(PlannerError):
        planner(hbm=MB // 10).plan(module, get_default_pss_sharders())
    assert {name: id(m) for name, m in module.named_modules()} == before


@pytest.mark.parametrize(
    "options, message",
    [
        ({"pss": "perhaps"}, "pss must be one of .*'perhaps'"),
        ({"array_bytes": None, "config": None}, "give array_bytes or config"),
        ({"config": PSSConfig(array_bytes=MB), "array_bytes": MB}, "give array_bytes or config"),
        ({"max_compression": 0.5}, "max_compression must be at least 1, got 0.5"),
        ({"min_speedup": 0.5}, "min_speedup must be at least 1, got 0.5"),
        ({"min_speedup": float("nan")}, "min_speedup must be a number, got nan"),
        ({"max_compression": float("nan")}, "max_compression must be a number, got nan"),
        ({"optimizer_states": -1}, "optimizer_states must be at least 0, got -1"),
        ({"optimizer_states": 1.5}, "optimizer_states must be a whole number, got 1.5"),
        ({"array_bytes": "10 megabytes"}, "array_bytes must be a size .*'10 megabytes'"),
        (
            {"constraints": {"huge": ParameterConstraints(pooling_factors=[float("nan")])}},
            "pooling_factors of table 'huge' must be a number, got nan",
        ),
        (
            {"constraints": {"huge": ParameterConstraints(batch_sizes=[0])}},
            "batch_sizes of table 'huge' must be positive, got 0",
        ),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        planner(**options)


def test_bad_constraints_and_sharders():
    with pytest.raises(ValueError, match="pss must be one of .*'sometimes'"):
        PSSParameterConstraints(pss="sometimes")
    constraints = {"hugo": PSSParameterConstraints(pss="never")}
    with pytest.raises(ValueError, match="constraints name the tables \\['hugo'\\].*'huge'"):
        planner(constraints=constraints).plan(model(), get_default_pss_sharders())
    with pytest.raises(ValueError, match="give get_default_pss_sharders"):
        planner().plan(model(), get_default_sharders())
    with pytest.raises(PlannerError, match="no plan fits, with up to 4 tables in an array of 1,000,000 bytes"):
        planner(hbm=MB // 10).plan(model(), get_default_pss_sharders())


def test_torchrecs_own_sharder_refuses_a_plan_with_shared_tables():
    """A user who forgets the sharders gets an error, not full tables on every rank."""
    from torchrec.distributed.types import ShardingEnv

    plan = planner("always").plan(model(), get_default_pss_sharders())
    theirs = next(s for s in get_default_sharders() if s.module_type is EmbeddingBagCollection)
    with pytest.raises(ValueError, match="not supported .*_in_array"):
        theirs.shard(model()["ebc"], plan.plan["ebc"], ShardingEnv(WORLD, 0), torch.device("cpu"))


def test_a_plan_of_other_tables_is_refused():
    from torchrec.distributed.types import ShardingEnv

    plan = planner("always").plan(model(), get_default_pss_sharders())
    ours = next(s for s in get_default_pss_sharders() if s.module_type is EmbeddingBagCollection)
    with pytest.raises(ValueError, match="top.ebc: the plan is of tables .*'middle'.*the module has \\['small'\\]"):
        ours.shard(model({"small": 100})["ebc"], plan.plan["ebc"], ShardingEnv(1, 0), torch.device("cpu"), "top.ebc")


def test_optimizers_in_backward_must_agree():
    module = model()["ebc"]
    _apply_optimizer_in_backward(torch.optim.SGD, [module.embedding_bags["huge"].weight], {"lr": 0.1})
    config = PSSConfig(array_bytes=MB)
    with pytest.raises(ValueError, match="'large' and 'huge' have different optimizers in backward"):
        MixedEmbeddingBagCollection(module, ["large", "huge"], config, "meta")
    mixed = MixedEmbeddingBagCollection(module, ["huge"], config, "meta")
    assert mixed.array.array._optimizer_classes == [torch.optim.SGD]
    with pytest.raises(ValueError, match="must be some of the collection's"):
        MixedEmbeddingBagCollection(module, ["hugo"], config, "meta")


def test_mixed_outputs_in_the_collections_order():
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    tables = [
        EmbeddingBagConfig(name="a", num_embeddings=50, embedding_dim=4, feature_names=["x", "y"]),
        EmbeddingBagConfig(name="b", num_embeddings=50, embedding_dim=8, feature_names=["x"]),
        EmbeddingBagConfig(name="c", num_embeddings=50, embedding_dim=8, feature_names=["z"]),
    ]
    ebc = EmbeddingBagCollection(tables)
    kjt = KeyedJaggedTensor.from_lengths_sync(["x", "y", "z"], torch.arange(9), torch.tensor([1, 2, 0, 3, 1, 2]))
    expected = ebc(kjt)
    mixed = MixedEmbeddingBagCollection(ebc, ["b"], PSSConfig(array_bytes=2000, exact=["b"]), "cpu")
    with torch.no_grad():
        layout = mixed.array.layout.tables[0]
        own = mixed.array.array[layout.base : layout.base + 400]
        own.copy_(ebc.embedding_bags["b"].weight.flatten())
    found = mixed(kjt)
    assert found.keys() == expected.keys() and found.length_per_key() == expected.length_per_key()
    torch.testing.assert_close(found.values(), expected.values())


def test_the_report_adds_up():
    module = model()
    for options in ({"pss": "always"}, {"hbm": 200 * MB, "min_speedup": float("inf")}, {"pss": "never"}):
        chosen = planner(**options)
        report = report_of(chosen, chosen.plan(module, get_default_pss_sharders()), WORLD)
        assert {t.name: t.full_bytes for t in report.tables} == {n: r * DIM * 4 for n, r in SIZES.items()}
        assert report.total_milliseconds == pytest.approx(chosen.chosen.rating)
        text = str(report)
        assert all(name in text for name in SIZES)
        if options.get("pss") == "never":
            assert report.array_bytes is None
        else:
            assert 0.99 * MB < report.array_bytes <= MB and "bytes on every rank" in text


def test_the_dry_planner(tmp_path, capsys):
    listed = tmp_path / "tables.csv"
    listed.write_text("name,rows,dim,pooling\n" + "".join(f"{n},{r},16,2\n" for n, r in SIZES.items()))
    report = tmp_path / "plan.json"
    flags = ["--tables", str(listed), "--world_size", "4", "--hbm", "200MB", "--ddr", "1", "--array_bytes", "1MB"]
    assert dry_planner([*flags, "--min_speedup", "inf", "--json", str(report)]) == 0
    text = capsys.readouterr().out
    assert "huge" in text and "never   " in text and "no plan" in text
    found = json.loads(report.read_text())
    assert {t["name"]: t["kind"] for t in found["auto"]["tables"]}["huge"] == SHARED
    assert isinstance(found["never"], str) and found["always"]["array_bytes"] <= MB
    assert dry_planner([*flags, "--pss", "never"]) == 1


def test_what_only_a_plan_for_comparison_refuses(tmp_path, capsys):
    flags = [
        "--tables",
        "kaggle",
        "--world_size",
        "2",
        "--max_compression",
        "10",
        "--json",
        str(tmp_path / "plan.json"),
    ]
    assert dry_planner(flags) == 0
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["always"].startswith("no plan: max_compression 10: ") and found["auto"]["tables"]
    with pytest.raises(SystemExit):
        dry_planner([*flags, "--pss", "always"])
    last = capsys.readouterr().err.strip().splitlines()[-1]  # after progress, on a slow machine
    assert last.startswith("error: max_compression 10: ")


@pytest.mark.parametrize("flag, flags", [
        ("--hbm", []), ("--hbm", ["--pss", "never"]), ("--hbm", ["--pss", "always"]), ("--ddr", ["--compute_device", "cpu"]),
    ])  # fmt: skip
def test_a_memory_that_is_too_small_is_named_with_what_is_needed(flag, flags, tmp_path, capsys):
    report = tmp_path / "plan.json"
    flags = ["--tables", "kaggle", "--world_size", "2", *flags, "--json", str(report)]
    assert dry_planner([*flags, flag, "16384"]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("no plan")]
    wanted = re.fullmatch(rf"no plan: {flag} 16384, bytes of a rank, is too small; a plan fits in ([\d.]+GB)", line)[1]
    assert all("\n" not in text for text in json.loads(report.read_text()).values())
    if "never" not in flags:
        assert float(wanted[:-2]) < 0.2  # the array and a batch, not 2 GB of tables
    assert dry_planner([*flags, flag, wanted]) == 0


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--tables", "missing.csv"], "missing.csv does not exist"),
        (["--tables", "kaggle", "--hbm", "much"], "--hbm must be a size such as 80GB, 10MiB or 4096, got 'much'"),
        (["--tables", "kaggle", "--world_size", "8", "--local_world_size", "3"], "is no multiple of"),
        (["--tables", "kaggle", "--max_compression", "0"], "max_compression must be at least 1"),
        (["--tables", "kaggle", "--batch_size", "0"], "--batch_size must be positive"),
    ],
)
def test_the_dry_planner_refuses(flags, message, capsys):
    with pytest.raises(SystemExit) as left:
        dry_planner(flags)
    assert left.value.code == 2 and message in capsys.readouterr().err


def test_the_seams_of_torchrecs_planner():
    """What `PSSShardingPlanner` relies on, beside public classes. A release that changes one fails here, by name."""
    topology = Topology(world_size=WORLD, compute_device="cuda", hbm_cap=10_000 * MB)
    own = EmbeddingShardingPlanner(topology=topology, batch_size=512)
    for name in ("_topology", "_batch_size", "_constraints", "_enumerator", "_stats", "_perf_model"):
        assert hasattr(own, name), f"EmbeddingShardingPlanner has no {name} any more"
    module = model()
    plan = own.plan(module, get_default_pss_sharders())
    assert own._best_plan and all(s.rank is not None for o in own._best_plan for s in o.shards)
    # The rating is the slowest rank's sum of the options' perfs.
    totals = [sum(s.perf.total for o in own._best_plan for s in o.shards if s.rank == r) for r in range(WORLD)]
    assert own._perf_model.rate(own._best_plan) == pytest.approx(max(totals))
    # Options carry their module, so that the array's estimator knows an array.
    assert {o.module[0] for o in own._best_plan} == {"ebc"} and own._best_plan[0].module[1] is module["ebc"]
    assert set(plan.plan) == {"ebc"}
    # Estimators run in order, the last word is ours; and new sharder objects make the enumerator look again.
    chosen = planner("always")
    chosen.plan(module, get_default_pss_sharders())
    (array,) = chosen.chosen.options
    assert array.shards[0].perf.bwd_comms > 0 and array.shards[0].storage.hbm > 4 * 0.99 * MB
    assert replace(array.shards[0].perf) == array.shards[0].perf


def test_an_fp16_array_with_an_optimizer_in_backward_counts_its_fp32_state():
    storages = {}
    for data_type in (DataType.FP32, DataType.FP16):
        tables = [
            EmbeddingBagConfig(
                name="t", num_embeddings=10**9, embedding_dim=8, feature_names=["f"], data_type=data_type
            )
        ]
        ebc = PSSEmbeddingBagCollection(tables, config=PSSConfig(layout="plain", exact=(), array_bytes=1 << 20))
        _apply_optimizer_in_backward(torch.optim.Adam, ebc.parameters(), {})
        planner = EmbeddingShardingPlanner(Topology(world_size=1, compute_device="cpu"), batch_size=1)
        planner.plan(nn.ModuleList([ebc]), get_default_pss_sharders())
        (option,) = planner._enumerator.last_stored_search_space
        ReplicatedArrayEstimator(Topology(world_size=1, compute_device="cpu")).estimate([option])
        storages[data_type] = option.shards[0].storage.ddr, ebc.array.numel()
    (wide, elements), (half, more) = storages[DataType.FP32], storages[DataType.FP16]
    assert more == 2 * elements
    assert abs(wide - (4 + 4 + 8) * elements) < 1000  # array, gradient, two moments
    assert abs(half - (2 + 4 + 4 + 8) * more) < 1000  # array, stand-in, gradient, two moments


@pytest.mark.parametrize(
    ("optimizer_class", "kwargs", "fused_params", "states"),
    [
        (torchrec.optim.SGD, {}, None, 0),
        (torchrec.optim.RowWiseAdagrad, {}, None, 1),
        (torchrec.optim.PartialRowWiseAdam, {}, None, 2),
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}, None, 1),
        (torch.optim.Adam, {"amsgrad": True}, None, 3),
        (None, {}, {"learning_rate": 0.1}, 0),  # FBGEMM's default is SGD
        (None, {}, {"optimizer": EmbOptimType.EXACT_ADAGRAD}, 1),
        (None, {}, None, 2),  # not in backward: the planner's optimizer_states
    ],
)
def test_the_estimate_counts_the_states_of_what_steps_the_array(optimizer_class, kwargs, fused_params, states):
    tables = [EmbeddingBagConfig(name="t", num_embeddings=10**9, embedding_dim=8, feature_names=["f"])]
    ebc = PSSEmbeddingBagCollection(tables, config=PSSConfig(layout="plain", exact=(), array_bytes=1 << 20))
    if optimizer_class is not None:
        _apply_optimizer_in_backward(optimizer_class, ebc.parameters(), dict(kwargs))
    on_one = PSSShardingPlanner(Topology(world_size=1, compute_device="cpu"), pss="never", batch_size=1)
    on_one.plan(nn.ModuleList([ebc]), get_default_pss_sharders(fused_params=fused_params))
    (option,) = on_one._enumerator.last_stored_search_space
    ReplicatedArrayEstimator(Topology(world_size=1, compute_device="cpu")).estimate([option])
    assert abs(option.shards[0].storage.ddr - (2 + states) * ebc.array.nbytes) < 1000


def test_one_cost_model(tmp_path, monkeypatch):
    """The benchmark's prediction, the dry run's, and the model's by hand: 8 A100, 2,048 rows a GPU, 10 MB."""
    (found,) = predictions(["a100"], [2048], ["10MB"])
    monkeypatch.setattr("torchrec_pss.plan.__main__.MODES", ("always", "never"))  # "auto" would take long
    flags = [
        "--tables",
        "mlperf",
        "--machine",
        "a100",
        "--batch_size",
        "2048",
        "--array_bytes",
        "10MB",
        "--pss",
        "always",
    ]
    assert dry_planner([*flags, "--json", str(tmp_path / "plans.json")]) == 0
    plans = json.loads((tmp_path / "plans.json").read_text())
    assert found["full"] * 1e3 == plans["never"]["total_milliseconds"]
    assert found["shared array"] * 1e3 == plans["always"]["total_milliseconds"]
    moved = 2048 * 26 * (8 + 128 * 4)
    array = plans["always"]["array_bytes"]
    by_hand = (2 * moved + 7 * array) / (0.8 * 2.0e12) + 2 * array * 7 / 8 / (0.8 * 300e9)
    assert found["shared array"] == pytest.approx(by_hand, rel=0.01)


def test_inside_a_host_arrays_are_summed_over_its_links():
    """Where TorchRec's basic bandwidths take the network between hosts."""
    found = {n: ReplicatedArrayEstimator(topology("a100", 8, n))._all_reduce_bandwidth() for n in (8, 4)}
    assert found == {8: 0.8 * 300e9 / 1000, 4: 4 * CROSS_NODE_BANDWIDTH}


def test_tables_are_placed_as_by_torchrecs_partitioner():
    """On two hosts, where it copies devices for every table."""
    rows = (100, 10**5, 10**7, 3 * 10**7)
    tables = [
        EmbeddingBagConfig(name=f"t{i}", num_embeddings=rows[i % 4], embedding_dim=(32, 64, 128)[i % 3], feature_names=[f"f{i}"])
        for i in range(9)
    ]  # fmt: skip
    model = torch.nn.ModuleDict({"ebc": EmbeddingBagCollection(tables, device=torch.device("meta"))})
    topology = Topology(world_size=8, local_world_size=4, compute_device="cuda", hbm_cap=8 * 10**9)
    plans = [
        EmbeddingShardingPlanner(topology=topology, partitioner=partitioner, stats=[]).plan(model, get_default_sharders())
        for partitioner in (GreedyPerfPartitioner(), FlatCopyPartitioner())
    ]  # fmt: skip
    assert str(plans[0]) == str(plans[1])
    ranks = [sharding.ranks for of_module in plans[0].plan.values() for sharding in of_module.values()]
    assert len(ranks) == len(tables) and len({tuple(r) for r in ranks}) > 2


@pytest.mark.parametrize("pss", ["never", "always"])
def test_a_planner_keeps_nothing_of_the_model_before(pss):
    tables = [EmbeddingBagConfig(name="t", num_embeddings=100, embedding_dim=8, feature_names=["f"])]
    model = torch.nn.ModuleDict({"ebc": EmbeddingBagCollection(tables, device=torch.device("meta"))})
    planner = PSSShardingPlanner(
        Topology(world_size=2, compute_device="cpu"), pss=pss, array_bytes=10_000 if pss == "always" else None
    )
    sharders = get_default_pss_sharders()
    planner.plan(model, sharders)
    assert planner.chosen.options and planner.chosen.rating > 0
    planner.plan(torch.nn.ModuleDict({"linear": torch.nn.Linear(2, 2)}), sharders)
    assert planner.chosen.options == [] and planner.chosen.rating == 0
