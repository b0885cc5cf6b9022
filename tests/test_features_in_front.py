"""What TorchRec puts before an EBC, before an array: feature processors, managed collisions."""

import pytest
import torch
import torch.distributed as dist
import two_ranks
from mixed_model import CPU, STEPS, batch, planner
from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.feature_processor_ import PositionWeightedModule
from torchrec.modules.fp_embedding_modules import FeatureProcessedEmbeddingBagCollection
from torchrec.modules.mc_modules import (
    DistanceLFU_EvictionPolicy,
    ManagedCollisionCollection,
    MCHManagedCollisionModule,
)
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection, get_default_pss_sharders
from torchrec_pss.distributed import ShardedPSSEmbeddingBagCollection
from torchrec_pss.modules import PSSFeatureProcessedEmbeddingBagCollection


def tables(rows=10**9):
    return [EmbeddingBagConfig(name=n, num_embeddings=rows, embedding_dim=8, feature_names=[n]) for n in ("s", "h")]


class Model(nn.Module):
    def __init__(self, seed, kind=PSSFeatureProcessedEmbeddingBagCollection):
        super().__init__()
        torch.manual_seed(seed)
        ebc = PSSEmbeddingBagCollection(tables(), is_weighted=True, config=PSSConfig(array_bytes=2048))
        self.fp = kind(ebc, {n: PositionWeightedModule(max_feature_length=3) for n in ("s", "h")})
        self.dense = nn.Linear(16, 1)

    def forward(self, kjt):
        return self.dense(self.fp(kjt).values()).squeeze(1)


def test_position_weights_scale_the_rows():
    fp = Model(0).fp
    kjt = KeyedJaggedTensor.from_lengths_sync(["s", "h"], torch.tensor([5, 6, 7, 8]), torch.tensor([2, 1, 0, 1]))
    weights = [fp._feature_processors[n].position_weight.data.uniform_() for n in ("s", "h")]
    rows = [fp._embedding_bag_collection.materialize(n, torch.tensor(i)) for n, i in (("s", [5, 6, 7]), ("h", [8]))]
    (w_s, w_h), (r_s, r_h) = weights, rows
    expected = torch.cat(
        [torch.stack([w_s[0] * r_s[0] + w_s[1] * r_s[1], w_s[0] * r_s[2]]), torch.stack([0 * r_h[0], w_h[0] * r_h[0]])],
        1,
    )
    torch.testing.assert_close(fp(kjt).values(), expected)


def trained(rank, world_size):
    model = Model(seed=rank)
    sharders = get_default_pss_sharders()
    plan = planner(world_size).collective_plan(model, sharders, dist.group.WORLD)
    dmp = DistributedModelParallel(model, plan=plan, sharders=sharders, device=CPU)
    assert isinstance(dmp.module.fp._embedding_bag_collection, ShardedPSSEmbeddingBagCollection)
    optimizer = torch.optim.SGD(dmp.parameters(), lr=0.5)
    for step in range(STEPS):
        kjt, labels = batch(step, rank)
        optimizer.zero_grad()
        (dmp(kjt) - labels).square().mean().backward()
        optimizer.step()
    return {k: v.numpy() for k, v in dmp.state_dict().items()}


def test_two_processes_train_processors_and_array_as_one(tmp_path):
    first, second = two_ranks.run(trained, tmp_path)
    model = Model(seed=0)
    start = model.fp._feature_processors["s"].position_weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for step in range(STEPS):
        optimizer.zero_grad()
        for rank in range(2):
            kjt, labels = batch(step, rank)
            ((model(kjt) - labels).square().mean() / 2).backward()
        optimizer.step()
    alone = model.state_dict()
    assert set(first) == set(alone)
    for name, value in alone.items():
        assert (first[name] == second[name]).all()
        torch.testing.assert_close(torch.from_numpy(first[name]), value, rtol=1e-4, atol=1e-5)
    assert not torch.equal(start, model.fp._feature_processors["s"].position_weight)


def test_torchrecs_class_is_refused_by_name():
    model = Model(0, FeatureProcessedEmbeddingBagCollection)
    with pytest.raises(ValueError, match="make it a torchrec_pss.modules.PSSFeatureProcessedEmbeddingBagCollection"):
        planner(2).plan(model, get_default_pss_sharders())


def test_managed_collisions_remap_ids_before_an_array():
    """An array takes any id and needs none; a model that has them keeps them, as a module from KJT to KJT."""
    configs = tables(rows=100)
    managed = ManagedCollisionCollection(
        {
            t.name: MCHManagedCollisionModule(
                device=CPU, zch_size=100, eviction_interval=1, eviction_policy=DistanceLFU_EvictionPolicy()
            )
            for t in configs
        },
        configs,
    )
    ebc = PSSEmbeddingBagCollection(configs, config=PSSConfig(array_bytes=1 << 16))
    assert all(t.is_exact for t in ebc.layout.tables)
    kjt, _ = batch(0, 0)
    for _ in range(3):
        remapped = managed(kjt)
    assert remapped.values().max() < 100 < kjt.values().max()
    assert ebc(remapped).values().shape == (kjt.stride(), 16)
