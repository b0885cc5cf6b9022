"""The shape of TorchRec's examples/retrieval: two towers are trained, copied to the CPU, indexed, quantised and served in fp16."""

from functools import partial

import pytest
import torch
import torch.distributed as dist
import two_ranks
from torch import nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
from torchrec import inference
from torchrec.datasets.random import RandomRecDataset
from torchrec.distributed import TrainPipelineSparseDist
from torchrec.distributed.model_parallel import DistributedModelParallel as DMP
from torchrec.inference.state_dict_transform import state_dict_gather, state_dict_to_device
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.modules.mlp import MLP
from torchrec.optim.keyed import KeyedOptimizerWrapper
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

import torchrec_pss as pss  # swap, planner
from public_programs.ways import CPU, META, STEPS, Program, check, compared, exact_bytes, small_bytes, write_values

COLUMNS, DIM, ROWS, LAYERS, RATE = ["user", "movie"], 8, 80, [16, 8], 0.05
WHERE = "two_tower.ebc"  # in the model


def tables(data_type=DataType.FP32):
    return [
        EmbeddingBagConfig(
            name=f"t_{c}", embedding_dim=DIM, num_embeddings=ROWS, feature_names=[c], data_type=data_type
        )
        for c in COLUMNS
    ]


class TwoTower(nn.Module):
    def __init__(self, ebc, device=None):
        super().__init__()
        query, candidate = ebc.embedding_bag_configs()
        assert query.embedding_dim == candidate.embedding_dim
        self.features = [query.feature_names, candidate.feature_names]
        self.ebc = ebc
        self.query_proj, self.candidate_proj = (MLP(query.embedding_dim, LAYERS, device=device) for _ in range(2))

    def forward(self, kjt):
        pooled = self.ebc(kjt)
        query, candidate = (torch.cat([pooled[f] for f in names], dim=1) for names in self.features)
        return self.query_proj(query), self.candidate_proj(candidate)


class TrainTask(nn.Module):
    def __init__(self, two_tower):
        super().__init__()
        self.two_tower = two_tower
        self.loss_fn = nn.BCEWithLogitsLoss()

    def forward(self, batch):
        query, candidate = self.two_tower(batch.sparse_features)
        logits = (query * candidate).sum(dim=1).squeeze()
        loss = self.loss_fn(logits, batch.labels.float())
        return loss, (loss.detach(), logits.detach(), batch.labels.detach())


def batches():
    return RandomRecDataset(
        COLUMNS, 16, hash_size=ROWS, ids_per_feature=1, manual_seed=dist.get_rank(), num_generated_batches=2
    )


def program(way, size, folder, pins=None):
    ebc = EmbeddingBagCollection(tables=tables(), device=META)
    if way == "swap":
        ebc = pss.PSSEmbeddingBagCollection(tables(), device=META, config=pss.PSSConfig(array_bytes=size))  # swap
    task = TrainTask(TwoTower(ebc, CPU))
    apply_optimizer_in_backward(RowWiseAdagrad, task.two_tower.ebc.parameters(), {"lr": RATE})
    if way == "plain":
        model = DMP(module=task, device=CPU)
    if way == "swap":
        model = DMP(module=task, device=CPU, sharders=pss.get_default_pss_sharders())  # swap
    if way == "planner":
        plan = pss.PSSShardingPlanner(pss="always", constraints=pins, array_bytes=size).collective_plan(task)  # planner
        model = DMP(module=task, device=CPU, sharders=pss.get_default_pss_sharders(), plan=plan)  # planner
    optimizer = KeyedOptimizerWrapper(
        dict(model.named_parameters()), lambda params: torch.optim.Adam(params, lr=RATE)
    )  # of all parameters, those with an optimizer in backward too
    pipeline = TrainPipelineSparseDist(model, optimizer, CPU)
    data, probe = iter(batches()), next(iter(batches()))

    def gather():
        pipeline.detach()
        with torch.no_grad():
            expected = model(probe)[1][1]
        group = dist.new_group(backend="gloo")
        state = state_dict_to_device(model.state_dict(), pg=group, device=CPU)
        ebc = EmbeddingBagCollection(tables=tables(), device=META)
        if way == "swap":
            ebc = pss.PSSEmbeddingBagCollection(tables(), device=META, config=pss.PSSConfig(array_bytes=size))  # swap
        if way == "planner":
            ebc = pss.MixedEmbeddingBagCollection.from_plan(tables(), plan.plan[WHERE], device=META)  # planner
        on_cpu = TrainTask(TwoTower(ebc))
        if dist.get_rank() == 0:
            on_cpu = on_cpu.to_empty(device="cpu")
        state_dict_gather(state, on_cpu.state_dict())
        dist.barrier()
        if dist.get_rank() == 0:
            check_served(way, model, on_cpu, probe, expected, folder)

    return Program(model, lambda: pipeline.progress(data)[0], lambda m: m(probe)[1][1], gather)


@torch.no_grad()
def check_served(way, model, on_cpu, probe, expected, folder):
    """All movies into the index, the state to disk, and the towers served from it."""
    kjt = KeyedJaggedTensor(COLUMNS, torch.arange(ROWS), lengths=torch.tensor([0] * ROWS + [1] * ROWS))
    items = on_cpu.two_tower.candidate_proj(on_cpu.two_tower.ebc(kjt)[COLUMNS[1]])
    index = Index(items)
    torch.testing.assert_close(on_cpu(probe)[1][1], expected)
    state = on_cpu.state_dict()
    if way != "plain":
        state = pss.expanded(on_cpu)  # swap, planner
    state = {name: value.half() for name, value in as_retrieval(state).items()}
    served = Retrieval(index, *(EmbeddingBagCollection(tables=[t]) for t in tables(DataType.FP16)))
    served.load_state_dict(state)
    served = inference.modules.quantize_embeddings(served, dtype=torch.qint8, inplace=True, output_dtype=torch.float16)
    queries = KeyedJaggedTensor(COLUMNS[:1], torch.arange(5), lengths=torch.ones(5, dtype=torch.int64))
    logits = served(queries)
    assert logits.shape == (5, 3) and logits.isfinite().all()
    pipelined = inference.modules.quantize_embeddings(model, dtype=torch.qint8, inplace=True)  # finds no table
    torch.save(pipelined.state_dict(), f"{folder}/model-{way}.pt")
    if way == "swap":  # or served by arrays, in fp16 too
        on_arrays = Retrieval(index, *(of_fp16(state, t) for t in tables(DataType.FP16)))
        on_arrays.load_state_dict(state, strict=False)
        torch.testing.assert_close(on_arrays(queries), logits, rtol=0.05, atol=0.02)


def of_fp16(state, table):
    """One table's array, with outputs for dense layers in fp16."""
    kept, of_table = (
        pss.PSSConfig(array_bytes=exact_bytes([table])),
        {n: v for n, v in state.items() if table.name in n},
    )
    fitted, _ = pss.compress(of_table, config=kept, tables=[table])
    made = pss.PSSEmbeddingBagCollection([table], config=kept, output_dtype=torch.float16)
    made.load_state_dict(fitted.state_dict())
    return made


def as_retrieval(state):
    return {
        name.replace("two_tower.ebc.embedding_bags.t_user", "query_ebc.embedding_bags.t_user")
        .replace("two_tower.ebc.embedding_bags.t_movie", "candidate_ebc.embedding_bags.t_movie")
        .removeprefix("two_tower."): value
        for name, value in state.items()
    }


class Index:
    """In the place of FAISS."""

    def __init__(self, items):
        self.items = items

    def search(self, queries, k, D, I):  # noqa: E741 (the names are FAISS's)
        found = (queries @ self.items.T).topk(k)
        D.copy_(found.values)
        I.copy_(found.indices)


class Retrieval(nn.Module):
    def __init__(self, index, query_ebc, candidate_ebc, k=3, dtype=torch.float16):
        super().__init__()
        self.query_ebc, self.candidate_ebc = query_ebc, candidate_ebc
        self.query_proj, self.candidate_proj = (MLP(DIM, LAYERS, dtype=dtype) for _ in range(2))
        self.index, self.k = index, k

    def forward(self, queries):
        query = self.query_proj(self.query_ebc(queries).values())
        distances, found = torch.empty(len(query), self.k), torch.empty(len(query), self.k, dtype=torch.int64)
        self.index.search(query.float(), self.k, D=distances, I=found)
        lengths = torch.full((found.numel(),), 1)
        kjt = KeyedJaggedTensor(
            self.candidate_ebc.embedding_bag_configs()[0].feature_names, found.flatten(), lengths=lengths
        )
        candidate = self.candidate_proj(self.candidate_ebc(kjt).values())
        return (query.unsqueeze(1) * candidate.view(len(query), self.k, -1)).sum(dim=2)


def whole():
    return TrainTask(TwoTower(EmbeddingBagCollection(tables=tables(), device=CPU)))


def run(rank, world_size, folder):
    return compared(rank, world_size, partial(program, folder=folder), whole, tables(), folder)


@pytest.mark.parametrize("ranks", [1, 2])
def test_retrieval(tmp_path, ranks):
    check(two_ranks.run(run, tmp_path, str(tmp_path), world_size=ranks))


def some_pinned(rank, world_size, folder):
    """One table in an array and one in TorchRec's shards, gathered together."""
    pins = {"t_movie": pss.PSSParameterConstraints(pss="never", sharding_types=["table_wise"])}
    torch.manual_seed(0)
    made = program("planner", small_bytes(tables()), folder, pins)
    write_values(made.model)  # a random start can have towers that are zero everywhere
    losses = [float(made.step()) for _ in range(STEPS)]
    assert any(isinstance(value, ShardedTensor) for value in made.model.state_dict().values())
    made.end()
    return losses


@pytest.mark.parametrize("ranks", [1, 2])
def test_some_tables_stay_torchrecs(tmp_path, ranks):
    for losses in two_ranks.run(some_pinned, tmp_path, str(tmp_path), world_size=ranks):
        assert min(losses[-2:]) < losses[0]
