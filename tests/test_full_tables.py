"""Full tables with the array's recipe (examples/full_tables.py) against torch's own Adam and `WeightAverage` on whole tables."""

import sys
from pathlib import Path

import pytest
import torch
import two_ranks
from torch import nn
from torch.distributed.optim import _apply_optimizer_in_backward
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise
from torchrec.distributed.types import ShardingPlan
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss.optim import WeightAverage

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from criteo_checkpoint import check_same_run
from full_tables import SGD_RATE, JointAverage, LazyAdam, TableAverage, TableRestart, sharded_tables

ROWS = {"t": 23, "u": 8, "v": 40}
DIM, BATCH, STEPS, EVERY, RATE, EPS = 4, 6, 11, 2, 0.05, 1e-6
FEATURES = {"a": "t", "b": "u", "c": "v", "d": "t"}  # two of one table


def batches(rank):
    generator = torch.Generator().manual_seed(rank)
    for _ in range(STEPS):
        lengths = torch.randint(0, 3, (len(FEATURES) * BATCH,), generator=generator)
        parts = [
            torch.randint(0, ROWS[table], (int(lengths[f * BATCH : (f + 1) * BATCH].sum()),), generator=generator)
            for f, table in enumerate(FEATURES.values())
        ]
        yield KeyedJaggedTensor(list(FEATURES), torch.cat(parts), lengths=lengths)


def collection(device, dim=DIM):
    tables = [
        EmbeddingBagConfig(
            name=n, num_embeddings=rows, embedding_dim=dim, feature_names=[f for f, t in FEATURES.items() if t == n]
        )
        for n, rows in ROWS.items()
    ]
    return EmbeddingBagCollection(tables, device=torch.device(device))


def first_values():
    generator = torch.Generator().manual_seed(9)
    return {name: torch.randn(rows, DIM, generator=generator) for name, rows in ROWS.items()}


def loss_of(out):
    return (out.values() ** 2).mean()


def sharded(world_size):
    ebc = collection("meta")
    _apply_optimizer_in_backward(torch.optim.SGD, ebc.parameters(), {"lr": SGD_RATE})
    kind = ParameterConstraints(sharding_types=["table_wise"], compute_kernels=["fused"])
    constraints = dict.fromkeys(ROWS, kind)
    planner = EmbeddingShardingPlanner(Topology(world_size=world_size, compute_device="cpu"), constraints=constraints)
    model = nn.ModuleDict({"ebc": ebc})
    plan = planner.collective_plan(model, pg=torch.distributed.group.WORLD)
    dmp = DistributedModelParallel(model, plan=plan, device=torch.device("cpu"))
    tables = sharded_tables(dmp)
    for table in tables:
        for shard in table.whole.local_shards():
            first, rows = shard.metadata.shard_offsets[0], shard.metadata.shard_sizes[0]
            shard.tensor.copy_(first_values()[_table(table)][first : first + rows])
    optimizer = LazyAdam(tables, RATE, EPS)
    optimizer.average = TableAverage(tables, 8.0, EVERY)
    dense = {"dense": torch.zeros(1)}
    return dmp, tables, optimizer, JointAverage(dense, optimizer.average, 8.0, EVERY)


def _table(table):
    return table.name.split(".")[-2]


def gathered(table, world_size):
    """The whole table, from the ranks' parts."""
    whole = torch.zeros(table.whole.size(0), DIM)
    for shard in table.whole.local_shards():
        first = shard.metadata.shard_offsets[0]
        whole[first : first + len(shard.tensor)] = shard.tensor
    torch.distributed.all_reduce(whole)
    return whole.numpy()


def trained(rank, world_size, restart_at=None):
    dmp, tables, optimizer, average = sharded(world_size)
    begin_anew = TableRestart(optimizer) if restart_at else None
    averages = []
    for number, batch in enumerate(batches(rank)):
        if number == restart_at:
            begin_anew.restart(optimizer)
        loss_of(dmp.module["ebc"](batch)).backward()
        optimizer.step()
        average.step()
        if number in (0, 4, STEPS - 1):
            before = [gathered(t, world_size) for t in tables]
            with average.applied():
                averages.append({_table(t): gathered(t, world_size) for t in tables})
            assert all((gathered(t, world_size) == b).all() for t, b in zip(tables, before, strict=True))
    return {_table(t): gathered(t, world_size) for t in tables}, averages


def expected(world_size, restart_at=None):
    """By torch.optim's formula over the rows that a batch has, and `WeightAverage` of whole tables."""
    ebc = collection("cpu")
    weights = {name: ebc.embedding_bags[name].weight for name in ROWS}
    for name, value in first_values().items():
        weights[name].data.copy_(value)
    moments = {name: (torch.zeros(rows, DIM), torch.zeros(rows, DIM)) for name, rows in ROWS.items()}
    average, averages, step = WeightAverage(weights, 8.0, EVERY), [], 0
    for number, of_ranks in enumerate(zip(*[batches(r) for r in range(world_size)], strict=True)):
        if number == restart_at:
            step = 0
            for name, value in first_values().items():
                weights[name].data.copy_(value)
                for moment in moments[name]:
                    moment.zero_()
        step += 1
        ebc.zero_grad()
        for batch in of_ranks:
            (loss_of(ebc(batch)) / world_size).backward()
        for name, weight in weights.items():
            read = [batch[f].values() for batch in of_ranks for f, table in FEATURES.items() if table == name]
            rows = torch.cat(read).unique()
            gradient, (mean, square) = weight.grad[rows], moments[name]
            mean[rows] = 0.9 * mean[rows] + 0.1 * gradient
            square[rows] = 0.999 * square[rows] + 0.001 * gradient**2
            root = (square[rows] / (1 - 0.999**step)).sqrt() + EPS
            weight.data[rows] -= RATE * mean[rows] / (1 - 0.9**step) / root
        average.step()
        if number in (0, 4, STEPS - 1):
            with average.applied():
                averages.append({name: w.detach().clone() for name, w in weights.items()})
    return {name: w.detach() for name, w in weights.items()}, averages


def check(found, wanted):
    (weights, averages), (own, own_averages) = found, wanted
    for got, want in zip([weights, *averages], [own, *own_averages], strict=True):
        for name in ROWS:
            torch.testing.assert_close(torch.from_numpy(got[name]), want[name], rtol=2e-4, atol=2e-5)


def test_one_process(tmp_path):
    (found,) = two_ranks.run(trained, tmp_path, world_size=1)
    check(found, expected(1))


def test_two_processes(tmp_path):  # TorchRec divides rows on GPUs only
    for found in two_ranks.run(trained, tmp_path):
        check(found, expected(2))


def test_begun_anew(tmp_path):
    (found,) = two_ranks.run(trained, tmp_path, 6, world_size=1)
    check(found, expected(1, restart_at=6))


def fewer_rows_than_ranks(rank, world_size):
    """Divided by rows as on GPUs; TorchRec's planner does not do it on a CPU."""
    tables = [
        EmbeddingBagConfig(name=n, num_embeddings=rows, embedding_dim=DIM, feature_names=[n])
        for n, rows in (("one", 1), ("more", 5))
    ]
    ebc = EmbeddingBagCollection(tables, device=torch.device("meta"))
    _apply_optimizer_in_backward(torch.optim.SGD, ebc.parameters(), {"lr": SGD_RATE})
    by_rows = construct_module_sharding_plan(
        ebc, {t.name: row_wise() for t in tables}, local_size=2, world_size=2, device_type="cuda"
    )
    for parameter in by_rows.values():
        for shard in parameter.sharding_spec.shards:
            shard.placement = torch.distributed._remote_device(str(shard.placement).split("/")[0] + "/cpu")
    model = DistributedModelParallel(
        nn.ModuleDict({"ebc": ebc}), plan=ShardingPlan({"ebc": by_rows}), device=torch.device("cpu")
    )
    optimizer = LazyAdam(sharded_tables(model), RATE, EPS)
    before = [t.local.fill_(0.5).clone() for t in optimizer.tables]
    features = KeyedJaggedTensor(["one", "more"], torch.tensor([0, 4]), lengths=torch.tensor([1, 1]))
    loss_of(model.module["ebc"](features)).backward()
    optimizer.step()
    return [(t.local - b).abs().mean(1).tolist() for t, b in zip(optimizer.tables, before, strict=True)]


def test_a_rank_that_a_tables_rows_do_not_last_for(tmp_path):
    first, second = two_ranks.run(fewer_rows_than_ranks, tmp_path)
    moved = [sorted(parts, key=len) for parts in (first, second)]
    assert moved == [[[pytest.approx(RATE, rel=1e-3)], [0.0] * 3], [[], [0.0, pytest.approx(RATE, rel=1e-3)]]]


def refused(rank, world_size):
    ebc = collection("meta", dim=256)
    constraints = {name: ParameterConstraints(sharding_types=["column_wise"], min_partition=128) for name in ROWS}
    planner = EmbeddingShardingPlanner(Topology(world_size=2, compute_device="cpu"), constraints=constraints)
    model = nn.ModuleDict({"ebc": ebc})
    plan = planner.collective_plan(model, pg=torch.distributed.group.WORLD)
    try:
        sharded_tables(DistributedModelParallel(model, plan=plan, device=torch.device("cpu")))
    except ValueError as error:
        return str(error)
    return "no error"


def test_a_table_in_columns_is_refused_by_name(tmp_path):
    assert all("t.weight: rows must be whole on a rank" in error for error in two_ranks.run(refused, tmp_path))


def test_runs_of_before_there_were_recipes_and_bits_go_on():
    """A checkpoint of then has neither among its flags."""
    check_same_run({"config": {"seed": 0}, "layout": None}, {"seed": 0, "bits": 32, "recipe": None}, None)
    check_same_run({"config": {"seed": 0}, "layout": None}, {"seed": 0, "bits": None, "recipe": "torchrec_dlrm"}, None)
    for flag, was, now in (("bits", 32, 4), ("recipe", "torchrec_dlrm", "equal")):
        with pytest.raises(ValueError, match=f"--{flag} was {was} and is now {now}"):
            check_same_run({"config": {}, "layout": None}, {flag: now}, None)


def test_runs_of_before_arrays_were_kept_by_default_go_on_as_they_did():
    then = {"config": {"keep_array": None}, "layout": None}
    for same in (None, False):
        check_same_run(then, {"keep_array": same}, None)
    with pytest.raises(ValueError, match="--keep_array was False and is now True"):
        check_same_run(then, {"keep_array": True}, None)
