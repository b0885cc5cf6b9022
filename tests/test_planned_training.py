"""Plans of `PSSShardingPlanner` carried out on an unmodified DLRM, in two processes."""

import warnings
from functools import partial

import pytest
import torch
import torch.distributed as dist
import two_ranks
from torch import nn
from torch.distributed.optim import _apply_optimizer_in_backward
from torchrec.datasets.utils import Batch
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import Topology
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import PlannerError
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.models.dlrm import DLRM, DLRMTrain
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim.optimizers import in_backward_optimizer_filter
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss import PSSConfig, get_default_pss_sharders
from torchrec_pss.distributed import ShardedPSSEmbeddingBagCollection
from torchrec_pss.distributed.mixed_embeddingbag import MixedEmbeddingBagCollection
from torchrec_pss.distributed.planner import PSSParameterConstraints, PSSShardingPlanner

STEPS, BATCH, DIM, RATE = 5, 64, 8, 2.0
CPU = torch.device("cpu")
ROWS = {"small": 20, "middle": 4_000, "huge": 30_000}
ARRAY_BYTES = 40_000
PATH = "model.sparse_arch.embedding_bag_collection"


def dlrm(data_type=DataType.FP32):
    torch.manual_seed(3)
    start = partial(nn.init.constant_, val=0.1)  # sharding draws a plain table anew
    tables = [
        EmbeddingBagConfig(
            name=name,
            num_embeddings=rows,
            embedding_dim=DIM,
            feature_names=[f"f_{name}"],
            init_fn=start,
            data_type=data_type,
        )
        for name, rows in ROWS.items()
    ]
    return DLRMTrain(DLRM(EmbeddingBagCollection(tables), 3, [16, DIM], [16, 1]))


def batch(step, rank):
    generator = torch.Generator().manual_seed(100 * step + rank)
    lengths = torch.randint(0, 3, (len(ROWS) * BATCH,), generator=generator)
    ids = [
        torch.randint(rows, (int(lengths[f * BATCH : (f + 1) * BATCH].sum()),), generator=generator)
        for f, rows in enumerate(ROWS.values())
    ]
    kjt = KeyedJaggedTensor.from_lengths_sync([f"f_{n}" for n in ROWS], torch.cat(ids), lengths)
    return Batch(torch.rand(BATCH, 3, generator=generator), kjt, torch.rand(BATCH, generator=generator).round())


def planner_of(mode, world_size, ddr=10_000_000, bits=32, **others):
    return PSSShardingPlanner(
        Topology(world_size=world_size, compute_device="cpu", ddr_cap=ddr),
        pss=mode,
        config=None if mode == "never" else PSSConfig(array_bytes=ARRAY_BYTES, bits=bits),
        batch_size=BATCH,
        storage_reservation=FixedPercentageStorageReservation(0.0),
        **others,
    )


def trained(rank, world_size, mode):
    """What each rank has after STEPS in a pipeline, by the plan for a rank whose memory holds half of the tables."""
    ddr = 10_000_000 if mode == "never" else 600_000
    model = dlrm()
    _apply_optimizer_in_backward(torch.optim.SGD, model.model.sparse_arch.parameters(), {"lr": RATE})
    sharders = get_default_pss_sharders()
    pins = {"middle": PSSParameterConstraints(pss="never")}
    plan = planner_of(mode, world_size, ddr, constraints=pins).collective_plan(model, sharders, dist.group.WORLD)
    dmp = DistributedModelParallel(model, plan=plan, sharders=sharders, device=CPU)
    embeddings = dmp.module.model.sparse_arch.embedding_bag_collection
    if mode == "never":
        assert isinstance(embeddings, ShardedEmbeddingBagCollection)
    else:
        assert isinstance(embeddings, MixedEmbeddingBagCollection)
        assert isinstance(embeddings.array, ShardedPSSEmbeddingBagCollection)
        assert isinstance(embeddings.tables, ShardedEmbeddingBagCollection)
    dense = torch.optim.SGD(dict(in_backward_optimizer_filter(dmp.named_parameters())).values(), lr=RATE)
    start = {k: v.clone() for k, v in dmp.state_dict().items() if ".array." in k}
    pipeline = TrainPipelineSparseDist(dmp, dense, CPU, execute_all_batches=True)
    batches = iter([batch(step, rank) for step in range(STEPS)])
    losses = [float(pipeline.progress(batches)[0]) for _ in range(STEPS)]
    names = {type(m).__name__ for m in pipeline._pipelined_modules}
    state = {k: v for k, v in dmp.state_dict().items() if type(v) is torch.Tensor}
    optimizer = sorted(dmp.fused_optimizer.params)
    as_numpy = {k: v.float().numpy() for k, v in state.items()}
    start = {k: v.float().numpy() for k, v in start.items()}
    shared = [] if mode == "never" else [c.name for c in embeddings.array.embedding_bag_configs()]
    return losses, as_numpy, start, names, optimizer, list(dmp.state_dict()), shared


def trained_alone(start, shared):
    """The same model in one process: the array beside the tables, the mean over both ranks' batches."""
    model = dlrm()
    config = PSSConfig(array_bytes=ARRAY_BYTES)
    mixed = MixedEmbeddingBagCollection(model.model.sparse_arch.embedding_bag_collection, shared, config, "cpu")
    model.model.sparse_arch.embedding_bag_collection = mixed
    for name in start:
        value = torch.from_numpy(start[name])
        if not name.endswith("_extra_state"):
            model.get_parameter(name).data.copy_(value)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        found = [model(batch(step, rank))[0] for rank in range(2)]
        (sum(found) / 2).backward()
        optimizer.step()
        losses.append([float(loss) for loss in found])
    return losses, model.state_dict()


@pytest.mark.parametrize("mode", ["auto", "always"])
def test_a_planned_model_trains_as_one_process_does(tmp_path, mode):
    (losses, first, start, names, optimizer, keys, shared), (others, second, *_) = two_ranks.run(
        trained, tmp_path, mode
    )
    assert names == {"ShardedPSSEmbeddingBagCollection", "ShardedEmbeddingBagCollection"}
    assert f"{PATH}.array.array" in keys and f"{PATH}.tables.embedding_bags.middle.weight" in keys
    assert optimizer[0] == f"{PATH}.array.array" and any("middle" in name for name in optimizer)
    for name in first:
        assert (first[name] == second[name]).all(), name
    assert shared == (["huge"] if mode == "auto" else ["small", "huge"])
    alone, state = trained_alone(start, shared)
    for step in range(STEPS):
        assert [losses[step], others[step]] == pytest.approx(alone[step], rel=1e-4)
    for name, value in first.items():
        torch.testing.assert_close(torch.from_numpy(value), state[name].float(), rtol=1e-4, atol=1e-5)
    assert abs(first[f"{PATH}.array.array"] - start[f"{PATH}.array.array"]).max() > 1e-4


def test_never_trains_torchrecs_own_modules(tmp_path):
    (losses, _, _, names, _, keys, _), _ = two_ranks.run(trained, tmp_path, "never")
    assert names == {"ShardedEmbeddingBagCollection"} and len(set(losses)) == STEPS
    assert f"{PATH}.embedding_bags.huge.weight" in keys


def refused(rank, world_size):
    """The planner's error on this rank, of a memory that nothing fits."""
    planner = planner_of("auto", world_size, ddr=1000)
    with pytest.raises(PlannerError, match="no plan fits") as error:
        planner.collective_plan(dlrm(), get_default_pss_sharders(), dist.group.WORLD)
    return str(error.value)


def test_every_rank_gets_the_planners_error(tmp_path):
    first, second = two_ranks.run(refused, tmp_path)
    assert first == second


def memory(rank, world_size, data_type, optimizer_class, bits=32):
    """Bytes that the array, its gradient and optimizer states take, with what a step's lookup keeps; and the planner's estimate."""
    model = dlrm(data_type)
    ebc = model.model.sparse_arch.embedding_bag_collection
    states = {torch.optim.SGD: 0, torch.optim.Adagrad: 1, torch.optim.Adam: 2}[optimizer_class]
    planner = planner_of("always", world_size, bits=bits, optimizer_states=states)
    sharders = get_default_pss_sharders()
    plan = planner.collective_plan(model, sharders, dist.group.WORLD)
    dmp = DistributedModelParallel(model, plan=plan, sharders=sharders, device=CPU)
    array = dmp.module.model.sparse_arch.embedding_bag_collection.array
    assert len(ebc.embedding_bag_configs()) == len(array.embedding_bag_configs())
    optimizer = optimizer_class(array.parameters(), lr=0.1)
    saved = {}

    def keep(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    ids = batch(0, rank).sparse_features
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        out = array(ids).values()
    for parameter in array.parameters():
        saved.pop(parameter.untyped_storage().data_ptr(), None)
    out.sum().backward()
    optimizer.step()
    measured = out.nbytes + sum(saved.values())
    for parameter in array.parameters():
        measured += parameter.nbytes + parameter.grad.nbytes
        measured += sum(s.nbytes for s in optimizer.state[parameter].values() if s.dim() > 0)
    estimated = planner.chosen.options[0].shards[0].storage.ddr if rank == 0 else 0
    return measured, estimated


def memories(rank, world_size):
    kinds = [
        (t, o) for t in (DataType.FP32, DataType.BF16) for o in (torch.optim.SGD, torch.optim.Adagrad, torch.optim.Adam)
    ]
    return [memory(rank, world_size, *kind) for kind in [*kinds, (DataType.FP32, torch.optim.Adam, 4)]]


def test_the_memory_estimate_is_what_is_measured(tmp_path):
    first, _ = two_ranks.run(memories, tmp_path)
    for measured, estimated in first:
        assert 0.9 < estimated / measured < 1.1, (estimated, measured)


def gradients_of_weights(rank, world_size, pins):
    tables = [
        EmbeddingBagConfig(name=n, num_embeddings=50, embedding_dim=4, feature_names=[f"f_{n}"]) for n in ("t", "u")
    ]
    model = nn.ModuleDict({"ebc": EmbeddingBagCollection(tables, is_weighted=True, device=torch.device("meta"))})
    sharders = get_default_pss_sharders()
    constraints = {name: PSSParameterConstraints(pss=pin) for name, pin in zip("tu", pins, strict=True)}
    planner = planner_of("always", world_size, constraints=constraints)
    plan = planner.collective_plan(model, sharders, dist.group.WORLD)
    ebc = DistributedModelParallel(model, plan=plan, sharders=sharders, device=CPU).module["ebc"]
    weights = torch.ones(3, requires_grad=True)
    kjt = KeyedJaggedTensor(["f_u", "f_t"], torch.tensor([1, 2, 3]), weights, lengths=torch.tensor([1, 2]))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            ebc(kjt).values().sum().backward()
    told = [str(w.message) for w in told if "require a gradient" in str(w.message)]
    return told, weights.grad.numpy()


def test_weights_whose_gradient_torchrecs_tables_do_not_give_are_told(tmp_path):
    told, gradient = two_ranks.run(gradients_of_weights, tmp_path, ("always", "never"), world_size=1)[0]
    assert len(told) == 1 and "TorchRec's sharded tables ['u'] add nothing" in told[0]
    told, gradient = two_ranks.run(gradients_of_weights, tmp_path, ("always", "always"), world_size=1)[0]
    assert not told and (gradient != 0).all()
