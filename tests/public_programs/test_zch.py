"""The shape of TorchRec's examples/zch: sequences of raw ids, which managed collisions map to rows of tables.

The original reads with and without MPZCH, in one process, on a CPU in inference mode only; here the older modules learn too.
"""

import pytest
import torch
import torch.distributed as dist
import two_ranks
from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel as DMP
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.modules.hash_mc_evictions import HashZchEvictionConfig, HashZchEvictionPolicyName
from torchrec.modules.hash_mc_modules import HashZchManagedCollisionModule
from torchrec.modules.mc_embedding_modules import ManagedCollisionEmbeddingCollection
from torchrec.modules.mc_modules import (
    DistanceLFU_EvictionPolicy,
    ManagedCollisionCollection,
    MCHManagedCollisionModule,
)
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

import torchrec_pss as pss  # swap
from public_programs.ways import CPU, Program, check, compared, exact_bytes, write_values

ROWS, DIM, BATCH, IDS = 60, 8, 8, 4000


def tables():
    return [
        EmbeddingConfig(name=f"table_{i}", feature_names=[f"feature_{i}"], embedding_dim=DIM, num_embeddings=ROWS)
        for i in range(2)
    ]


def zch(table, use_mpzch):
    if not use_mpzch:
        return MCHManagedCollisionModule(
            zch_size=table.num_embeddings, input_hash_size=IDS, device=CPU, eviction_interval=2,
            eviction_policy=DistanceLFU_EvictionPolicy(),
        )  # fmt: skip
    return HashZchManagedCollisionModule(
        is_inference=False, zch_size=table.num_embeddings, input_hash_size=IDS, device=CPU, total_num_buckets=1,
        eviction_policy_name=HashZchEvictionPolicyName.SINGLE_TTL_EVICTION,
        eviction_config=HashZchEvictionConfig(features=table.feature_names, single_ttl=1),
    )  # fmt: skip


class SparseArch(nn.Module):
    def __init__(self, way, size, use_mpzch=False):
        super().__init__()
        configs = tables()
        ec = EmbeddingCollection(tables=configs, device=CPU)
        if way == "swap":
            ec = pss.PSSEmbeddingCollection(configs, device=CPU, config=pss.PSSConfig(array_bytes=size))  # swap
        modules = {t.name: zch(t, use_mpzch) for t in configs}
        remapped = ManagedCollisionCollection(managed_collision_modules=modules, embedding_configs=configs)
        self.mc_ec = ManagedCollisionEmbeddingCollection(ec, remapped, return_remapped_features=True)

    def forward(self, kjt):
        return self.mc_ec(kjt)


class RawIds(nn.Module):
    """The array in the place of tables and managed collisions: it takes any id."""

    def __init__(self, size):
        super().__init__()
        self.mc_ec = pss.PSSEmbeddingCollection(tables(), config=pss.PSSConfig(array_bytes=size, exact=()))  # swap

    def forward(self, kjt):
        return self.mc_ec(kjt), kjt  # swap


class Task(nn.Module):
    """A loss, which the original has not."""

    def __init__(self, sparse_arch):
        super().__init__()
        self.sparse_arch = sparse_arch
        self.over = nn.Linear(DIM, 1)

    def forward(self, kjt):
        read, _ = self.sparse_arch(kjt)
        return self.over(torch.cat([read[f"feature_{i}"].values() for i in range(2)])).squeeze(1)


def batch(step, rank):
    generator = torch.Generator().manual_seed(2 * (step % 2) + rank)
    ids = torch.randint(0, IDS, (3 * BATCH,), generator=generator)
    return KeyedJaggedTensor(["feature_0", "feature_1"], ids, lengths=torch.tensor([1] * BATCH + [2] * BATCH))


def loop(model, rank):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    steps = iter(range(100))

    def step():
        kjt = batch(next(steps), rank)
        optimizer.zero_grad()
        loss = (model(kjt) - (kjt.values() % 2)).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return Program(model, step, lambda m: m(batch(0, rank)))


def inside(way, size):
    return loop(Task(SparseArch(way, size)), 0)


def run(rank, world_size, folder):
    return compared(rank, world_size, inside, None, tables(), folder, ways=["swap"])


def test_inside_managed_collisions(tmp_path):
    """In one process, ids of which both ways make the same rows."""
    check(two_ranks.run(run, tmp_path, str(tmp_path), world_size=1), same_optimizer=True)


def raw(way, size):
    if way == "plain":  # TorchRec shards managed collisions on a GPU only
        return inside(way, size)
    return loop(DMP(Task(RawIds(size)), device=CPU, sharders=pss.get_default_pss_sharders()), dist.get_rank())


def run_raw(rank, world_size, folder):
    return compared(rank, world_size, raw, None, tables(), folder, ways=["swap"])


@pytest.mark.parametrize("ranks", [1, 2])
def test_in_the_place_of_managed_collisions(tmp_path, ranks):
    found = two_ranks.run(run_raw, tmp_path, str(tmp_path), world_size=ranks)
    check([{key: losses for key, losses in of_rank.items() if key[1] != "exact"} for of_rank in found])


def test_mpzch_reads(tmp_path):
    """As the original on a CPU: in inference mode."""
    found = []
    for way in ("plain", "swap"):
        model = SparseArch(way, exact_bytes(tables()), use_mpzch=True).eval()
        for module in model.mc_ec._managed_collision_collection._managed_collision_modules.values():
            module.reset_inference_mode()
        write_values(model)
        read, remapped = model(batch(0, 0))
        found.append([remapped.values(), *(read[name].values() for name in sorted(read))])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def under_dmp(rank, world_size):
    with pytest.raises(ValueError, match="ManagedCollisionEmbeddingCollection cannot shard a shared array, whose ids"):
        DMP(SparseArch("swap", exact_bytes(tables())), device=CPU, sharders=pss.get_default_pss_sharders())
    return True


def test_each_rank_would_remap_by_itself(tmp_path):
    assert all(two_ranks.run(under_dmp, tmp_path, world_size=1))
