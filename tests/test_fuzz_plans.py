"""Random models, sharders, constraints and optimizers: each ends in trained steps, or in an error that says what to write instead."""

import os
import random
import traceback
import warnings

import pytest
import torch
import torch.distributed as dist
import torchrec.optim as theirs
import two_ranks
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import nn
from torch.distributed.optim import _apply_optimizer_in_backward
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import Topology
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.modules.feature_processor_ import PositionWeightedModuleCollection
from torchrec.modules.fp_embedding_modules import FeatureProcessedEmbeddingBagCollection
from torchrec.optim.optimizers import in_backward_optimizer_filter
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss import (
    PSSConfig,
    PSSEmbeddingBagCollection,
    PSSEmbeddingCollection,
    PSSParameterConstraints,
    PSSShardingPlanner,
    get_default_pss_sharders,
)

CPU = torch.device("cpu")
BARE = (KeyError, IndexError, AttributeError)


class Own(torch.optim.SGD):
    """A user's."""


OPTIMIZERS = [
    None, (torch.optim.SGD, {"lr": 0.1}), (torch.optim.Adam, {}), (theirs.SGD, {"lr": 0.1}), (theirs.RowWiseAdagrad, {"lr": 0.1}),
    (theirs.RowWiseAdagrad, {"lr": 0.1, "eps": 1e-4}), (theirs.Adagrad, {"lr": 0.1}), (Own, {"lr": 0.1}),
]  # fmt: skip
ODD_OPTIMIZERS = [
    (theirs.LAMB, {"lr": 0.1}), (theirs.LarsSGD, {"lr": 0.1}), (theirs.SGD, {"momentum": 0.3}), (theirs.Adam, {"rate": 1}),
    (theirs.PartialRowWiseAdam, {"lr": 0.1}), (theirs.RowWiseAdagrad, {"weight_decay": 0.1}),
]  # fmt: skip
FUSED = [
    None, {"learning_rate": 0.1}, {"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "learning_rate": 0.1, "eps": 1e-4},
    {"optimizer": EmbOptimType.EXACT_SGD, "learning_rate": 0.1}, {"learning_rat": 0.1}, {"optimizer": EmbOptimType.LAMB}, {"optimizer": "sgd"},
]  # fmt: skip


class Model(nn.Module):
    def __init__(self, collections):
        super().__init__()
        self.collections = nn.ModuleDict(collections)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, kjt):
        total = 0
        for collection in self.collections.values():
            read = collection(kjt)
            values = (
                read.values() if hasattr(read, "length_per_key") else torch.cat([j.values() for j in read.values()])
            )
            total = total + values.float().square().sum()
        return total * self.scale.sum()


def table(rng, name, kind=EmbeddingBagConfig, dim=None):
    others = {"pooling": rng.choice(list(PoolingType)[:2])} if kind is EmbeddingBagConfig else {}
    return kind(
        name=name,
        num_embeddings=rng.choice([1, 3, 40, 500, 3000]),
        embedding_dim=dim or rng.choice([4, 8, 16]),
        feature_names=rng.sample(["x", "y", "z"], rng.choice([1, 1, 2])),
        data_type=rng.choice([DataType.FP32] * 6 + [DataType.FP16]),
        **others,
    )


def random_model(rng):
    collections = {}
    for number in range(rng.choice([1, 1, 2, 3])):
        kind = rng.choice(["ebc"] * 4 + ["ec", "swapped", "swapped ec", "processed"])
        names = [f"t{number}{i}" for i in range(rng.choice([1, 2, 4]))]
        budget = PSSConfig(array_bytes=rng.choice([2000, 20_000]))
        if kind in ("ec", "swapped ec"):
            tables = [table(rng, n, EmbeddingConfig, 8) for n in names]
            for t in tables:
                t.data_type = tables[0].data_type
            made = (
                EmbeddingCollection(tables=tables, device=CPU)
                if kind == "ec"
                else PSSEmbeddingCollection(tables, config=budget)
            )
        else:
            tables = [table(rng, n) for n in names]
            if kind == "swapped":
                for t in tables:
                    t.data_type = tables[0].data_type
                made = PSSEmbeddingBagCollection(tables, config=budget)
            elif kind == "processed":
                for t in tables:
                    t.pooling = PoolingType.SUM
                made = FeatureProcessedEmbeddingBagCollection(
                    EmbeddingBagCollection(tables, is_weighted=True, device=CPU),
                    PositionWeightedModuleCollection(dict.fromkeys("xyz", 4), CPU),
                )
            else:
                made = EmbeddingBagCollection(tables, device=CPU)
        collections[f"c{number}"] = made
    return Model(collections)


def embedding_parameters(model):
    return {n: p for n, p in model.named_parameters() if "embedding" in n or n.endswith((".array", ".projections"))}


def put_optimizers(rng, model):
    parameters = embedding_parameters(model)
    if rng.random() < 0.2:
        for p in parameters.values():  # each its own
            chosen = rng.choice(ODD_OPTIMIZERS if rng.random() < 0.1 else OPTIMIZERS)
            if chosen:
                _apply_optimizer_in_backward(chosen[0], [p], dict(chosen[1]))
        return
    chosen = rng.choice(ODD_OPTIMIZERS if rng.random() < 0.1 else OPTIMIZERS)
    if chosen:
        _apply_optimizer_in_backward(chosen[0], parameters.values(), dict(chosen[1]))
        if rng.random() < 0.05:
            _apply_optimizer_in_backward(chosen[0], parameters.values(), dict(chosen[1]))
    for p in parameters.values():
        if rng.random() < 0.05:
            p.requires_grad_(False)


def random_sharders(rng):
    fused = rng.choice(FUSED) if rng.random() < 0.15 else rng.choice(FUSED[:4])
    ours = get_default_pss_sharders(rng.choice(["ddp", "all_reduce", "sparse", "bf16"]), fused_params=fused)
    theirs_ = [EmbeddingBagCollectionSharder(fused_params=rng.choice(FUSED[:4])), EmbeddingCollectionSharder()]
    return rng.choice([ours] * 16 + [theirs_ + ours, ours + theirs_, theirs_, ours[::-1]])


def random_constraints(rng, model):
    names = [c.name for m in model.modules() for c in _configs(m)]
    constraints = {}
    for name in names:
        if rng.random() < 0.15:
            constraints[name] = rng.choice([
                PSSParameterConstraints(pss=rng.choice(["never", "always", "exact", "auto"])),
                PSSParameterConstraints(pss="never", sharding_types=["table_wise"]),
                ParameterConstraints(pooling_factors=[2.0]),
                PSSParameterConstraints(pss="auto", compute_kernels=["fused"]),
            ])  # fmt: skip
    if rng.random() < 0.05:
        constraints["nobody"] = PSSParameterConstraints(pss="never")
    return constraints or None


def _configs(module):
    for name in ("embedding_bag_configs", "embedding_configs"):
        if hasattr(module, name):
            return getattr(module, name)()
    return []


def batch(seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 2, (12,), generator=generator)
    return KeyedJaggedTensor(["x", "y", "z"], torch.zeros(int(lengths.sum()), dtype=torch.long), lengths=lengths)


def one(seed):
    """Trained, or the error."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    model = random_model(rng)
    put_optimizers(rng, model)
    sharders = random_sharders(rng)
    planner = PSSShardingPlanner(
        Topology(1, "cpu", ddr_cap=rng.choice([10**6, 10**9, 10**9])),
        pss=rng.choice(["always", "auto", "never"]),
        array_bytes=rng.choice([200, 1000, 8000, 50_000]),
        constraints=random_constraints(rng, model),
    ) if rng.random() < 0.9 else None  # fmt: skip
    plan = planner.collective_plan(model, sharders, dist.group.WORLD) if planner else None
    dmp = DistributedModelParallel(model, sharders=sharders, device=CPU, plan=plan)
    rest = [p for _, p in in_backward_optimizer_filter(dmp.named_parameters())]
    dense = torch.optim.SGD(rest, lr=0.01)
    for step in range(2):
        dense.zero_grad()
        loss = dmp(batch(step))
        assert torch.isfinite(loss)
        loss.backward()
        dense.step()
    assert all(torch.isfinite(p).all() for p in dmp.parameters())


def fuzz(rank, world_size, first, number):
    """Of each case that did not train: seed, error and where it was raised."""
    warnings.simplefilter("ignore")
    found = []
    for seed in range(first, first + number):
        try:
            one(seed)
            found.append((seed, "", "", ""))
        except Exception as error:
            where = "".join(traceback.format_tb(error.__traceback__)[-4:])
            found.append((seed, type(error).__name__, str(error), where))
    return found


@pytest.mark.parametrize("part", range(4))
def test_every_plan_trains_or_is_refused_by_name(tmp_path, part):
    number = int(os.environ.get("FUZZ_PLANS", "500")) // 4
    (found,) = two_ranks.run(fuzz, tmp_path, part * number, number, world_size=1)
    bare = [f for f in found if f[1] in {e.__name__ for e in BARE} or (f[1] and len(f[2]) < 30)]
    assert not bare, f"{len(bare)} of {number}, the first:\n{bare[0]}"
    assert sum(not kind for _, kind, _, _ in found) > number // 3
