"""Elements of few bits: the levels, what is read and learned of them, bytes, and what is refused."""

import copy
import io
import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import script_runs
import torch
import two_ranks
from torch import nn
from torch.distributed.optim import _apply_optimizer_in_backward
from torchrec.distributed.model_parallel import DistributedModelParallel, get_unwrapped_module
from torchrec.distributed.planner import Topology
from torchrec.distributed.types import ShardingEnv
from torchrec.fx import symbolic_trace
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss import (
    PSSConfig,
    PSSEmbeddingBagCollection,
    PSSEmbeddingCollection,
    get_default_pss_sharders,
    load_packed,
    packed,
)
from torchrec_pss.advise import lookup_time
from torchrec_pss.advise.__main__ import advise
from torchrec_pss.advise.lookup_time import step_milliseconds
from torchrec_pss.advise.prediction import Calibration
from torchrec_pss.advise.tables import Described, from_list, power_law_counts
from torchrec_pss.datasets.table_list import ListedTable
from torchrec_pss.distributed.embeddingbag import ShardedPSSEmbeddingBagCollection
from torchrec_pss.distributed.planner import PSSParameterConstraints, PSSShardingPlanner
from torchrec_pss.modules import shared_array
from torchrec_pss.modules.id_counts import IdCounts
from torchrec_pss.ops import quantize as few
from torchrec_pss.ops.lookup import HAS_CPU_KERNEL
from torchrec_pss.ops.packed import lookup_trained
from torchrec_pss.plan.dry_run import dry_run

ROWS = {"t1": 100, "t2": 5000, "t3": 40}
FEW = few.FEW_BITS


def collection(bits=4, array_bytes=10_000, data_type=DataType.FP32, pooling=PoolingType.SUM, weighted=True, **choices):
    torch.manual_seed(0)
    tables = [
        EmbeddingBagConfig(
            name=t, num_embeddings=n, embedding_dim=16, feature_names=[f"f{t}"], data_type=data_type, pooling=pooling
        )
        for t, n in ROWS.items()
    ]
    kinds = {"layout": "plain", "exact": ["t1"], "hot": {"t2": range(20)}, "width": 6, "segments": True, "bias": True}
    config = PSSConfig(**{"array_bytes": array_bytes, "bits": bits} | kinds | choices)
    return PSSEmbeddingBagCollection(tables, config=config, is_weighted=weighted)


def batch(seed=0, weighted=True):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 4, (3 * 8,), generator=generator, dtype=torch.int32)
    per_table = lengths.view(3, -1).sum(1).tolist()
    ids = [torch.randint(0, n, (k,), generator=generator) for n, k in zip(ROWS.values(), per_table, strict=True)]
    weights = torch.rand(int(lengths.sum()), generator=generator) if weighted else None
    return KeyedJaggedTensor([f"f{t}" for t in ROWS], torch.cat(ids), weights, lengths)


def random_array(numel, seed=0):
    generator = torch.Generator().manual_seed(seed)
    array = torch.randn(numel, generator=generator) * torch.rand(numel, generator=generator) ** 4
    array[numel // 3 : numel // 3 + 70] = 0  # a group of zeros
    return array


@pytest.mark.parametrize("bits", FEW)
def test_levels(bits):
    """Of the specification, in whole numbers: largest element over largest level, rounded to bf16, is the scale."""
    array = random_array(1000)
    read = few.quantize(array, bits)
    half = 2 ** (bits - 1)
    for first in range(0, 1000, few.GROUP):
        group, found = array[first : first + few.GROUP], read[first : first + few.GROUP]
        wanted = float(group.abs().max()) / (half - 0.5)
        scale = torch.tensor(wanted).to(torch.bfloat16).clamp(min=torch.finfo(torch.bfloat16).tiny).float()
        levels = (torch.arange(-half, half) + 0.5) * scale
        assert all(bool((value == levels).any()) for value in found)
        inside = group.abs() <= half * scale
        assert bool(((found - group).abs()[inside] <= scale * 0.5001).all())
        assert bool((found[~inside].abs() == levels[-1]).all())


@pytest.mark.skipif(not HAS_CPU_KERNEL, reason="no C++ kernel")
@pytest.mark.parametrize("numel", [16, 64, 80, 1000, 300_000])
def test_the_kernel_has_the_references_bits(numel):
    for bits in FEW:
        array = random_array(numel, seed=bits)
        assert torch.equal(few.quantize(array, bits), few.reference(array, bits))
    assert few.quantize(torch.zeros(0), 4).numel() == 0


@pytest.mark.parametrize("bits", FEW)
def test_what_is_read_reads_as_itself(bits):
    once = few.quantize(random_array(5000), bits)
    assert torch.equal(few.quantize(once, bits), once)


def test_not_finite_elements_are_seen():
    for bad in (float("nan"), float("inf")):
        array = random_array(200)
        array[70] = bad
        read = few.quantize(array, 4)
        assert not torch.isfinite(read[70]) and bool(torch.isfinite(read[:64]).all())


@pytest.mark.parametrize("bits", FEW)
def test_gradient_straight_through(bits):
    array = random_array(200).requires_grad_()
    factor = torch.arange(200.0)
    (few.quantize(array, bits) * factor).sum().backward()
    assert torch.equal(array.grad, factor)
    torch.library.opcheck(torch.ops.torchrec_pss.quantize.default, (random_array(200).requires_grad_(), bits))


@pytest.mark.parametrize("name", ["array", "projections"])
def test_forward_mode_says_that_there_is_none(name):
    ebc = collection()
    parameter = getattr(ebc, name)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(parameter.detach(), torch.ones_like(parameter))
        with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
            torch.func.functional_call(ebc, {name: dual}, (batch(),))


@pytest.mark.parametrize("bits", FEW)
def test_stored_bytes_fill_the_budget(bits):
    for array_bytes in (1500, 4001, 20_003):
        layout = collection(bits, array_bytes, exact=(), hot=None, segments=False).layout
        numel, beside = layout.numel, layout.embedding_bytes - layout.array_bytes
        assert layout.embedding_bytes == few.stored_bytes(numel, bits) + beside <= array_bytes
        assert few.stored_bytes(numel + 16, bits) + beside > array_bytes
        assert layout.full_embedding_bytes == sum(ROWS.values()) * 16 * 4
    assert f"elements of {bits} bits" in str(layout)


@pytest.mark.parametrize("pooling", [PoolingType.SUM, PoolingType.MEAN])
@pytest.mark.parametrize("bits", FEW)
def test_a_collection_reads_the_levels_and_gives_the_array_their_gradient(bits, pooling):
    ours = collection(bits, pooling=pooling)
    assert any(t.is_exact for t in ours.layout.tables) and any(t.num_hot for t in ours.layout.tables)
    grid = ours.layout
    config = PSSConfig(**{**{f: getattr(ours.config, f) for f in ours.config.__dataclass_fields__}, "bits": 32,
                          "array_bytes": 4 * (grid.numel + grid.projection_numel + len(grid.hot_keys))})  # fmt: skip
    theirs = PSSEmbeddingBagCollection(ours.embedding_bag_configs(), config=config, is_weighted=True)
    assert theirs.layout.numel == grid.numel
    with torch.no_grad():
        theirs.array.copy_(few.quantize(ours.array, bits))
        theirs.projections.copy_(few.quantize(ours.projections, 8))
    results = []
    for ebc in (ours, theirs):
        features = batch()
        features.weights().requires_grad_()
        out = ebc(features).values()
        out.square().sum().backward()
        results.append((out, ebc.array.grad, ebc.projections.grad, features.weights().grad))
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other)
    assert torch.equal(ours.materialize("t2", torch.arange(50)), theirs.materialize("t2", torch.arange(50)))


def test_sequences_traced_and_scripted_modules_read_the_levels():
    tables = [EmbeddingConfig(name="t", num_embeddings=5000, embedding_dim=8, feature_names=["f"])]
    ec = PSSEmbeddingCollection(tables, config=PSSConfig(array_bytes=1000, bits=4))
    features = KeyedJaggedTensor(["f"], torch.tensor([3, 4000, 3]), lengths=torch.tensor([1, 0, 2]))
    rows = ec.materialize("t", features.values())
    assert torch.equal(ec(features)["f"].values(), rows)
    ebc = collection(weighted=False)
    out = ebc(batch(weighted=False)).values()
    assert torch.equal(symbolic_trace(ebc)(batch(weighted=False)).values(), out)
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(ebc), file)
    file.seek(0)
    assert torch.equal(torch.jit.load(file)(batch(weighted=False)).values(), out)


def test_a_compiled_module_learns_the_same():
    results = []
    for compiled in (False, True):
        ebc = collection(weighted=False)
        model = torch.compile(ebc, backend="aot_eager") if compiled else ebc
        model(batch(weighted=False)).values().square().sum().backward()
        results.append(ebc.array.grad)
    torch.testing.assert_close(*results)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.ebc = collection()

    def forward(self, features):
        return self.ebc(features).values().square().sum()


def train(rank, world_size, in_backward):
    model = Model()
    first = model.ebc.array.detach().clone()
    if in_backward:
        _apply_optimizer_in_backward(torch.optim.SGD, model.parameters(), {"lr": 0.1})
    dmp = DistributedModelParallel(model, sharders=get_default_pss_sharders(), device=torch.device("cpu"))
    optimizer = None if in_backward else torch.optim.SGD(dmp.parameters(), lr=0.1)
    for step in range(5):
        both = [batch(2 * step + r) for r in ((rank,) if world_size == 2 else (0, 1))]
        losses = [dmp(one) for one in both]
        (sum(losses) / len(losses)).backward()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()
    found = get_unwrapped_module(dmp).ebc
    assert not torch.equal(found.array.detach(), few.quantize(found.array.detach(), 4)), "the array must stay fp32"
    return (found.array.detach() - first).numpy(), found.projections.detach().numpy()


def test_training_is_the_same_on_two_processes_and_with_the_optimizer_in_backward(tmp_path):
    runs = [
        result
        for in_backward in (False, True)
        for world_size in (1, 2)
        for result in two_ranks.run(train, tmp_path, in_backward, world_size=world_size)
    ]
    assert abs(runs[0][0]).max() > 0.01
    for array, projections in runs[1:]:
        torch.testing.assert_close(torch.from_numpy(array), torch.from_numpy(runs[0][0]), rtol=1e-3, atol=2e-5)
        torch.testing.assert_close(torch.from_numpy(projections), torch.from_numpy(runs[0][1]), rtol=1e-3, atol=2e-5)


def test_checkpoints_of_other_bits_are_refused_by_name():
    saved = collection(4).state_dict()
    restored = collection(4)
    restored.load_state_dict(saved)
    assert torch.equal(restored.array, saved["array"])
    same_places = collection(4).layout
    beside = same_places.embedding_bytes - same_places.array_bytes
    as_many = few.stored_bytes(same_places.numel, 8) + beside
    given = {f: getattr(restored.config, f) for f in restored.config.__dataclass_fields__}
    other = PSSEmbeddingBagCollection(
        restored.embedding_bag_configs(),
        config=PSSConfig(**given | {"bits": 8, "array_bytes": as_many}),
        is_weighted=True,
    )
    assert other.layout.numel == same_places.numel
    before = other.array.detach().clone()
    with pytest.raises(ValueError, match="bits is 4 in the checkpoint and 8 here"):
        other.load_state_dict(saved)
    assert torch.equal(other.array, before)
    with pytest.raises(ValueError, match="bits is 32 in the checkpoint and 4 here"):
        restored.load_state_dict(collection(32).state_dict())


def test_32_bits_keep_version_2():
    assert collection(32).layout.fingerprint()["format_version"] == 2
    found = collection(4).layout.fingerprint()
    assert found["format_version"] == 3 and found["bits"] == 4


@pytest.mark.parametrize("bits", [1, 5, 16, 4.0, "4", True, None])
def test_bits_that_are_not_offered(bits):
    with pytest.raises(ValueError, match="bits must be one of"):
        PSSConfig(array_bytes=1000, bits=bits)


def test_auto_bits_are_four_unless_all_rows_fit():
    tables = [EmbeddingBagConfig(name=n, num_embeddings=5000, embedding_dim=16, feature_names=[n]) for n in "ab"]
    full = 5000 * 16 * 4 * 2
    for compression, exact, bits in ((1, "auto", 32), (3.7, "auto", 8), (100, "auto", 4), (1, [], 4), (1, ["a"], 4)):
        config = PSSConfig(array_bytes=int(full / compression), bits="auto", exact=exact)
        ebc = PSSEmbeddingBagCollection(tables, config=config)
        assert ebc.config.bits == ebc.layout.bits == bits
        assert ebc.layout == PSSEmbeddingBagCollection(tables, config=replace(config, bits=bits)).layout
    assert PSSConfig.from_json(config.to_json()) == config
    halves = replace(tables[0], name="h", data_type=DataType.BF16)
    assert PSSEmbeddingBagCollection([halves], config=PSSConfig(array_bytes=9000, bits="auto")).layout.bits == 32
    with pytest.raises(ValueError, match="is too small"):
        PSSEmbeddingBagCollection(tables, config=PSSConfig(array_bytes=8, bits="auto"))
    with pytest.raises(ValueError, match="bits='auto' goes by an array's tables"):
        few_bits_planner(10_000, bits="auto")


def test_what_few_bits_cannot_be():
    with pytest.raises(ValueError, match="bits=4: tables must be FP32"):
        collection(4, data_type=DataType.BF16)
    with pytest.raises(ValueError, match='hash="robe" has no'):
        PSSConfig(array_bytes=1000, bits=4, hash="robe", block_size=4)
    with pytest.raises(ValueError, match="array must be an fp32 vector"):
        few.quantize(torch.zeros(4, 4), 4)
    with pytest.raises(ValueError, match="bits must be one of"):
        few.quantize(torch.zeros(4), 5)
    for dtype in (torch.float16, torch.float64):
        with pytest.raises(TypeError, match="bits=4"):
            collection(4).to(dtype)


def test_a_smallest_budget_is_named():
    with pytest.raises(ValueError, match="is too small") as error:
        collection(4, array_bytes=8, exact=(), hot=None)
    smallest = int(str(error.value).split("hot rows is ")[1].split(" ")[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert collection(4, array_bytes=smallest, exact=(), hot=None).layout.embedding_bytes <= smallest
    with pytest.raises(ValueError, match="is too small"):
        collection(4, array_bytes=smallest - 1, exact=(), hot=None)


@pytest.mark.parametrize("bits, array_bytes", [(2, 41), (4, 67), (4, 77), (8, 83), (8, 149)])
def test_an_automatic_layout_counts_the_last_scale_whole(bits, array_bytes):
    tables = [
        EmbeddingBagConfig(name=name, num_embeddings=rows, embedding_dim=dim)
        for name, rows, dim in (("t", 4, 16), ("u", 9, 8))
    ]
    for budget in (array_bytes, array_bytes + 1):
        layout = PSSEmbeddingBagCollection(tables, config=PSSConfig(array_bytes=budget, bits=bits)).layout
        assert layout.embedding_bytes <= budget


def test_plans_and_advice_count_stored_bytes():
    tables = [ListedTable("t", 10**6, 16, 1.0, 1.1), ListedTable("u", 500, 16, 1.0, 1.1)]
    host = Topology(world_size=2, compute_device="cpu")
    wide, narrow = (dry_run(tables, host, "always", 512, "100kB", bits=bits) for bits in (32, 4))
    assert abs(wide.array_bytes - narrow.array_bytes) < 100
    of_table = [{t.name: t.bytes for t in plan.tables}["u"] for plan in (wide, narrow)]
    assert of_table[1] < of_table[0] / 4
    described = from_list("kaggle", None, 1.1)
    rows = [advise(described, Calibration.load(), 4096, measure=False, bits=bits) for bits in (32, 4)]
    for one, other in zip(*rows, strict=False):
        assert other["bytes"] < 1.1 * one["bytes"]
    assert all(
        other["lost_share"] < one["lost_share"] for one, other in zip(*rows, strict=False) if one["compression"] >= 100
    )


def test_advice_is_given_though_large_arrays_have_more_elements_than_slots():
    config = EmbeddingBagConfig(name="t", num_embeddings=10**10, embedding_dim=16, feature_names=["t"])
    described = Described([config], {"t": power_law_counts(10**10, 1.1)}, contiguous=True, source="huge")
    rows = advise(described, Calibration.load(), 4096, measure=False, bits=4)
    assert rows and max(row["compression"] for row in rows) == 10_000


def test_what_takes_too_much_memory_while_it_is_trained_is_not_measured(monkeypatch):
    """A budget of 1 MB has an array of 7.5 MB."""
    tables = [EmbeddingBagConfig(name="t", num_embeddings=10**6, embedding_dim=16, feature_names=["t"])]
    counts = {"t": IdCounts(ids=[1], counts=[2], total=2)}
    monkeypatch.setattr(lookup_time, "MOST_BYTES", 5_000_000)
    found = [step_milliseconds(tables, PSSConfig(array_bytes="1MB", bits=bits), counts, 4) for bits in (32, 4)]
    assert found[0] is not None and found[1] is None


def model_of(**collections):
    meta = torch.device("meta")
    tables = {
        path: [
            EmbeddingBagConfig(name=f"{path}{i}", num_embeddings=n, embedding_dim=16, data_type=kind)
            for i, n in enumerate(rows)
        ]
        for path, (kind, *rows) in collections.items()
    }
    return nn.ModuleDict({path: EmbeddingBagCollection(of_path, device=meta) for path, of_path in tables.items()})


def few_bits_planner(array_bytes, bits=4, **choices):
    host = Topology(world_size=1, compute_device="cpu")
    return PSSShardingPlanner(host, config=PSSConfig(array_bytes=array_bytes, bits=bits), **choices)


@pytest.mark.parametrize("mode", ["auto", "always"])
def test_a_plan_leaves_tables_that_are_not_fp32_out_of_an_array_of_few_bits(mode):
    planner = few_bits_planner(100_000, pss=mode)
    plan = planner.plan(model_of(a=(DataType.FP32, 10_000), b=(DataType.FP16, 10_000)), get_default_pss_sharders())
    reasons = {t.name: t.reason for t in planner.tables}
    assert reasons == {"a0": "", "b0": "its data type is FP16; an array of bits=4 is made of FP32"}
    assert all(p.sharding_type != "shared_array" for p in plan.plan["b"].values())


def test_several_collections_share_a_budget_of_stored_bytes():
    pinned = {f"a{i}": PSSParameterConstraints(pss="exact") for i in range(2)}
    model = model_of(a=(DataType.FP32, 400, 800), b=(DataType.FP32, 10**5))
    plan = few_bits_planner(60_000, pss="always", constraints=pinned).plan(model, get_default_pss_sharders()).plan
    found = {path: entry.config.array_bytes for path, entry in plan.items()}
    assert found["a"] >= few.stored_bytes(1200 * 16, 4) and sum(found.values()) <= 60_000
    with pytest.raises(ValueError, match=r"must be exact \(a0, a1\) have 10,200 bytes, in 2 collections"):
        few_bits_planner(10_000, pss="always", constraints=pinned).plan(model, get_default_pss_sharders())


@pytest.mark.slow
def test_the_script_counts_stored_bytes_and_refuses_other_bits_on_resume(tmp_path):
    flags = [
        "--synthetic_rows",
        6000,
        "--synthetic_scale",
        0.001,
        "--batch_size",
        100,
        "--epochs",
        1,
        "--compression",
        200,
    ]
    run = [*flags, "--output_dir", tmp_path / "o", "--bits"]
    script_runs.run("train_criteo.py", *run, 4, ranks=2)
    found = json.loads((tmp_path / "o" / "results.json").read_text())
    assert found["layout"]["bits"] == 4 and found["config"]["bits"] == 4
    assert 0.9 < 200 * found["embedding_bytes"] / found["full_embedding_bytes"] <= 1
    refused = script_runs.run("train_criteo.py", *run, 8, "--resume", ranks=2, check=False)
    assert (
        refused.returncode == 2
        and "another layout of the shared array: bits is 4 in the checkpoint and 8 here" in refused.output
    )
    script_runs.run("train_criteo.py", *flags, "--output_dir", tmp_path / "a", "--bits", "auto")
    assert json.loads((tmp_path / "a" / "results.json").read_text())["layout"]["bits"] == 4
    refused = script_runs.run("train_criteo.py", "--embedding", "hash", "--bits", "auto", check=False)
    assert refused.returncode == 2 and "--bits auto is of an array of all tables" in refused.output
    for embedding in ("narrow", "hash"):
        there = ["--embedding", embedding, "--bits", 4, "--compression", 8, "--output_dir", tmp_path / embedding]
        script_runs.run("train_criteo.py", *flags[:-2], *there)
        assert json.loads((tmp_path / embedding / "results.json").read_text())["layout"]["bits"] == 4
    refused = script_runs.run("train_criteo.py", "--embedding", "full", "--bits", 4, check=False)
    assert refused.returncode == 2 and "--bits makes no sense with --embedding full" in refused.output


@pytest.mark.parametrize("bits", FEW)
def test_packed_bytes_are_those_that_are_counted_and_read_the_same(bits):
    ebc = collection(bits, hot={"t2": range(20), "t3": [5]})
    state = packed(ebc)
    size = sum(v.nbytes for name, v in state.items() if name != "_extra_state")
    layout = ebc.layout
    keys = len(state["hot_keys"])
    assert size - keys == layout.array_bytes + layout.projection_bytes and keys <= layout.key_bytes <= keys + 4
    other = collection(bits, hot={"t2": range(20), "t3": [5]})
    with torch.no_grad():
        other.array.zero_(), other.projections.zero_()
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    load_packed(other, torch.load(file, weights_only=True))
    assert torch.equal(other(batch()).values(), ebc(batch()).values())
    again = packed(other)
    assert all(torch.equal(again[name], state[name]) for name in state)


@pytest.mark.parametrize("hot", [range(1 << 14), [1] * 1000 + [4999], [7] * 50])
def test_packed_keys_that_are_fewer_than_the_ids_fit_what_is_counted(hot):
    """Ids may be listed twice, and have one short key: of 2^14 some sixteen."""
    tables = [EmbeddingBagConfig(name="t", num_embeddings=10**6, embedding_dim=8)]
    config = PSSConfig(array_bytes=200_000, bits=4, layout="plain", exact=(), width=4, hot={"t": hot})
    ebc = PSSEmbeddingBagCollection(tables, config=config)
    (table,), keys = ebc.layout.tables, len(packed(ebc)["hot_keys"])
    assert table.num_hot < len(hot) and keys <= ebc.layout.key_bytes
    found = sum(v.nbytes for name, v in packed(ebc).items() if name != "_extra_state")
    assert found <= ebc.layout.embedding_bytes <= 200_000
    assert 1 <= table.num_hot / 2 ** (23 - table.hot_drop) < 2


def test_packed_keys_are_all_there():
    """Read back from the bits as the specification has them."""
    ebc = collection(4, hot={"t2": range(1000, 1100), "t3": [5]}, exact=(), array_bytes=20_000)
    bits = np.unpackbits(packed(ebc)["hot_keys"].numpy(), bitorder="little").tolist()
    for table in sorted(ebc.layout.tables, key=lambda t: t.name):
        keys = ebc.layout.hot_keys[table.hot_begin : table.hot_end].tolist()
        lower = [sum(bits[9 * k + i] << i for i in range(9)) for k in range(len(keys))]
        del bits[: 9 * len(keys)]
        upper, number = [], 0
        while len(upper) < len(keys) or (keys and number < 1 << 23 - table.hot_drop):
            bit = bits.pop(0)
            upper += [number] if bit else []
            number += not bit
        found = [((u << 9 | low) << table.hot_drop) - (1 << 31) for u, low in zip(upper, lower, strict=True)]
        assert sorted(found) == keys
    assert not any(bits) and len(bits) < 8


def test_what_is_no_packed_state_of_a_collection():
    ebc = collection(4)
    state, before = packed(ebc), ebc.array.detach().clone()
    with pytest.raises(ValueError, match="nothing to pack: the collection's elements have 32 bits"):
        packed(collection(32))
    with pytest.raises(
        ValueError, match="is packed, for reading alone: give it to torchrec_pss.load_packed; to train on"
    ):
        ebc.load_state_dict(state)
    with pytest.raises(ValueError, match=r"make the collection with the same PSSConfig\(bits=...\)"):
        load_packed(collection(32), state)
    with pytest.raises(ValueError, match="has no projections.scales"):
        load_packed(ebc, {k: v for k, v in state.items() if k != "projections.scales"})
    with pytest.raises(ValueError, match="another layout of the shared array: seed is 0"):
        load_packed(collection(4, seed=1), state)
    with pytest.raises(ValueError, match=r"codes must be torch.uint8 \[\d+\], got torch.uint8 \[7\]"):
        load_packed(ebc, state | {"codes": torch.zeros(7, dtype=torch.uint8)})
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        scales = state["scales"].clone()
        scales[3] = bad
        with pytest.raises(ValueError, match=r"scales\[3\] is .*: a scale must be positive"):
            load_packed(ebc, state | {"scales": scales})
    assert torch.equal(ebc.array, before)
    meta = PSSEmbeddingBagCollection(ebc.embedding_bag_configs(), True, "meta", config=ebc.config)
    for refused in (lambda: load_packed(meta, state), lambda: packed(meta)):
        with pytest.raises(ValueError, match="on the meta device, where it has no elements"):
            refused()
    with torch.no_grad():
        ebc.array[7] = float("nan")
    with pytest.raises(ValueError, match="array is not finite at 7: it cannot be packed"):
        packed(ebc)


@pytest.fixture
def packings(monkeypatch):
    """A list that has an entry for each forward that packs."""
    calls = []
    monkeypatch.setattr(shared_array, "lookup_trained", lambda *a, **k: calls.append(1) or lookup_trained(*a, **k))
    return calls


def loaded(ebc):
    reads = collection(4)
    with torch.no_grad():
        reads.array.zero_(), reads.projections.zero_()
    load_packed(reads, packed(ebc))
    return reads


def test_what_was_loaded_packed_is_read_as_it_is(packings):
    ebc = collection(4)
    expected, reads = ebc(batch()).values(), loaded(ebc)
    assert not any(p.requires_grad for p in reads.parameters()) and len(packings) == 1
    for same in (reads, reads.to("cpu"), symbolic_trace(reads), torch.jit.script(reads), copy.deepcopy(reads)):
        assert torch.equal(same(batch()).values(), expected)
    assert len(packings) == 2  # of the copy, which nobody has told
    assert torch.equal(reads.materialize("t2", torch.arange(9)), ebc.materialize("t2", torch.arange(9)))
    assert torch.equal(packed(reads)["codes"], packed(ebc)["codes"])


def test_what_was_loaded_packed_is_packed_again_once_it_was_trained(packings):
    ebc = collection(4)
    reads = loaded(ebc)
    reads.requires_grad_()
    optimizer = torch.optim.SGD(reads.parameters(), lr=0.1)
    reads(batch()).values().sum().backward()
    optimizer.step()
    reads.requires_grad_(False)
    del packings[:]
    served = reads(batch()).values()
    assert len(packings) == 1 and torch.equal(served, loaded(reads)(batch()).values())
    load_packed(reads, packed(ebc))  # once more
    assert not any(p.requires_grad for p in reads.parameters())
    assert torch.equal(reads(batch()).values(), ebc(batch()).values()) and len(packings) == 2


@pytest.mark.parametrize("how", ["load_state_dict", "in place", "scripted"])
def test_what_is_loaded_over_it_is_read_in_few_bits(packings, how):
    ebc = collection(4)
    reads = loaded(ebc)
    other = collection(4)
    with torch.no_grad():
        other.array.normal_()
    expected = other(batch()).values()
    scripted = torch.jit.script(reads)
    if how == "load_state_dict":
        reads.load_state_dict(other.state_dict())
        assert all(p.requires_grad for p in reads.parameters())
    elif how == "in place":  # as torch.distributed.checkpoint does
        state = reads.state_dict()
        state["array"].copy_(other.array.detach()), state["projections"].copy_(other.projections.detach())
    else:
        scripted.load_state_dict({k: v for k, v in other.state_dict().items() if k in scripted.state_dict()})
    assert torch.equal((scripted if how == "scripted" else reads)(batch()).values(), expected)


def test_what_was_frozen_before_stays_frozen():
    ebc, reads = collection(4), collection(4)
    reads.projections.requires_grad_(False)
    load_packed(reads, packed(ebc))
    reads.load_state_dict(ebc.state_dict())
    assert reads.array.requires_grad and not reads.projections.requires_grad


def test_a_sharded_collection_that_was_loaded_packed(packings):
    ebc = collection(4)
    reads = loaded(ebc)
    sharded = ShardedPSSEmbeddingBagCollection(reads, ShardingEnv.from_local(1, 0), torch.device("cpu"))
    del packings[:]
    read = PSSEmbeddingBagCollection.forward(sharded, batch()).values()
    assert torch.equal(read, ebc(batch()).values()) and len(packings) == 1
    sharded.load_state_dict(ebc.state_dict())
    assert all(p.requires_grad for p in sharded.parameters())
