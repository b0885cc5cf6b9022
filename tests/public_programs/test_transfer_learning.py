"""The shape of TorchRec's examples/transfer_learning: a pretrained table, planned by a constraint, is copied into its shards."""

import pytest
import torch
import torch.distributed as dist
import two_ranks
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel as DMP
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.distributed.types import ShardingType
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

import torchrec_pss as pss  # swap, planner
from public_programs.ways import CPU, META, Program, check, compared, exact_bytes, pattern

ROWS, DIM, BATCH = 200, 8, 16
WHERE = ShardingType.TABLE_WISE  # on a CPU EBCs have no ROW_WISE, the original's
NAME = "embedding_bags.emb.weight"


def tables():
    return [
        EmbeddingBagConfig(
            name="emb", embedding_dim=DIM, num_embeddings=ROWS, feature_names=["f"], pooling=PoolingType.SUM
        )
    ]


def batch(step):
    generator = torch.Generator().manual_seed(2 * (step % 2) + dist.get_rank())
    lengths = torch.randint(1, 4, (BATCH,), generator=generator)
    return KeyedJaggedTensor(["f"], torch.randint(0, ROWS, (int(lengths.sum()),), generator=generator), lengths=lengths)


def program(way, size):
    pretrained = {NAME: pattern("emb", torch.arange(ROWS), DIM)}
    ebc = EmbeddingBagCollection(tables=tables(), device=META)
    if way == "swap":
        ebc, _ = pss.compress(pretrained, array_bytes=size, tables=tables())  # swap
    fused_params = {"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "learning_rate": 0.05, "eps": 0.01}
    sharders = [EmbeddingBagCollectionSharder(fused_params=fused_params)]
    if way != "plain":
        sharders = pss.get_default_pss_sharders(fused_params=fused_params)  # swap, planner
    topology = Topology(world_size=dist.get_world_size(), compute_device=CPU.type)
    constraints = {"emb": ParameterConstraints(sharding_types=[WHERE.value])}
    planner = EmbeddingShardingPlanner(topology=topology, constraints=constraints)
    if way == "planner":
        planner = pss.PSSShardingPlanner(topology, constraints=constraints, pss="always", array_bytes=size)  # planner
    plan = planner.collective_plan(ebc, sharders, dist.group.WORLD)
    model = DMP(module=ebc, device=CPU, plan=plan, sharders=sharders)
    if way == "planner":
        fitted, _ = pss.compress(pretrained, config=plan.plan[""].config, tables=tables())  # planner
        model.module.array.load_state_dict(fitted.state_dict())  # planner
    if way == "plain":  # its shards; an array is whole on all ranks
        copy_shards(model, pretrained[NAME])
    if size != 0 and size != exact_bytes(tables()):
        assert model(batch(0)).values().isfinite().all()
    else:
        torch.testing.assert_close(model(batch(0)).values(), bags(pretrained[NAME]))
    steps = iter(range(100))

    def step():
        loss = (model(batch(next(steps))).values() - 0.3).square().mean()
        loss.backward()
        return loss

    return Program(model, step, lambda m: m(batch(0)).values())


def copy_shards(model, pretrained):
    for shard in (s for t in model.state_dict().values() if isinstance(t, ShardedTensor) for s in t.local_shards()):
        (row, column), (rows, columns) = shard.metadata.shard_offsets, shard.metadata.shard_sizes
        shard.tensor.copy_(pretrained[row : row + rows, column : column + columns])


def bags(weight):
    kjt = batch(0)
    return torch.nn.functional.embedding_bag(kjt.values(), weight, kjt.offsets(), mode="sum", include_last_offset=True)


def whole():
    return EmbeddingBagCollection(tables=tables(), device=CPU)


def run(rank, world_size, folder):
    return compared(rank, world_size, program, whole, tables(), folder)


@pytest.mark.parametrize("ranks", [1, 2])
def test_transfer_learning(tmp_path, ranks):
    check(two_ranks.run(run, tmp_path, str(tmp_path), world_size=ranks))
