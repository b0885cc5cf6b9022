"""Two ranks with the array on GPUs: every reduction gives one process's gradient, and TorchRec's pipelines the plain loop's losses.

With gloo on one GPU, which NCCL refuses to two ranks; with NCCL on two. The same bodies run on the CPU, so that they are known to be
sound where there is no GPU.
"""

import itertools

import pytest
import torch
import torch.distributed as dist
import two_ranks
from torch.distributed.optim import _apply_optimizer_in_backward
from torchrec.datasets.utils import Batch
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.train_pipeline import (
    PrefetchTrainPipelineSparseDist,
    TrainPipelineBase,
    TrainPipelineSparseDist,
)
from torchrec.distributed.train_pipeline.train_pipelines import TrainPipelineSemiSync
from torchrec.models.dlrm import DLRM, DLRMTrain
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.optim.optimizers import in_backward_optimizer_filter
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection, get_default_pss_sharders
from torchrec_pss.distributed.array_reduction import ArrayReduction

STEPS, BATCH, DIM, RATE = 5, 8, 8, 0.5
NAMES = ["s", "h", "n"]
GPUS = torch.cuda.device_count()
PLACES = [
    pytest.param("cpu", "gloo", id="cpu"),
    pytest.param("cuda", "gloo", id="one_gpu", marks=pytest.mark.skipif(GPUS < 1, reason="no GPU")),
    pytest.param("cuda", "nccl", id="two_gpus", marks=pytest.mark.skipif(GPUS < 2, reason="fewer than two GPUs")),
]
WAYS = list(itertools.product(ArrayReduction, (False, True)))
ON_CPU = WAYS[1::3]  # as many as show that the body is sound
PIPELINES = {
    "base": TrainPipelineBase,
    "sparse": TrainPipelineSparseDist,
    # Before its start_batch it is synchronous, on its streams all the same.
    "semi_sync": lambda *args: TrainPipelineSemiSync(*args, start_batch=10**6),
    "prefetch": PrefetchTrainPipelineSparseDist,
}
ON_CUDA_ALONE = {"semi_sync", "prefetch"}  # the one has CUDA's events, the other does nothing without streams


def device_of(rank, kind, backend):
    if kind == "cpu":
        return torch.device("cpu")
    torch.cuda.set_device(rank if backend == "nccl" else 0)
    return torch.device("cuda", torch.cuda.current_device())


def model_on(device):
    torch.manual_seed(0)
    tables = [
        EmbeddingBagConfig(name=f"t{f}", num_embeddings=10**9, embedding_dim=DIM, feature_names=[f]) for f in NAMES
    ]
    ebc = PSSEmbeddingBagCollection(tables, False, device, config=PSSConfig(array_bytes=4096))
    return DLRMTrain(DLRM(ebc, 3, [16, DIM], [16, 1], dense_device=device))


def batch(step, rank):
    generator = torch.Generator().manual_seed(1000 * step + rank)
    lengths = torch.randint(0, 4, (len(NAMES) * BATCH,), generator=generator)
    ids = torch.randint(0, 10**9, (int(lengths.sum()),), generator=generator)
    kjt = KeyedJaggedTensor(NAMES, ids, lengths=lengths, stride=BATCH)
    labels = torch.rand(BATCH, generator=generator).round()
    made = Batch(torch.rand(BATCH, 3, generator=generator), kjt, labels)
    return made.pin_memory() if torch.cuda.is_available() else made


def sharded(device, way, in_backward):
    """A model on this rank, and the optimizer of what backward does not step."""
    model = model_on(device)
    if in_backward:
        array = model.model.sparse_arch.embedding_bag_collection.parameters()
        _apply_optimizer_in_backward(torch.optim.SGD, array, {"lr": RATE})
    sharders = get_default_pss_sharders(way)
    topology = Topology(dist.get_world_size(), device.type, local_world_size=dist.get_world_size())
    plan = EmbeddingShardingPlanner(topology).collective_plan(model, sharders, dist.group.WORLD)
    dmp = DistributedModelParallel(
        model,
        plan=plan,
        sharders=sharders,
        device=device,
    )
    rest = [p for _, p in in_backward_optimizer_filter(dmp.named_parameters())]
    return dmp, torch.optim.SGD(rest, lr=RATE)


def reduced(rank, world_size, kind, backend):
    """Of each way: the parameters after some steps."""
    device = device_of(rank, kind, backend)
    found = []
    for way, in_backward in ON_CPU if kind == "cpu" else WAYS:
        dmp, optimizer = sharded(device, way, in_backward)
        for step in range(STEPS):
            optimizer.zero_grad()
            dmp(batch(step, rank).to(device))[0].backward()
            optimizer.step()
        state = dmp.state_dict()
        found.append({n: v.cpu().numpy().copy() for n, v in state.items() if not n.endswith("_extra_state")})
    return found


@pytest.mark.parametrize(("kind", "backend"), PLACES)
def test_every_reduction_trains_as_one_process(kind, backend, tmp_path):
    first, second = two_ranks.run(reduced, tmp_path, kind, backend, backend=backend)
    model = model_on(torch.device(kind))
    start = {n: v.clone() for n, v in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for step in range(STEPS):
        optimizer.zero_grad()
        sum(model(batch(step, rank).to(kind))[0] / 2 for rank in range(2)).backward()
        optimizer.step()
    ways = ON_CPU if kind == "cpu" else WAYS
    for (way, in_backward), here, there in zip(ways, first, second, strict=True):
        for name, value in model.named_parameters():
            told = f"{way.value}, in backward {in_backward}: {name}"
            assert (here[name] == there[name]).all(), told
            moved = float((value - start[name]).abs().max())
            bf16 = way == ArrayReduction.BF16
            tolerance = {"rtol": 0, "atol": 0.05 * moved} if bf16 else {"rtol": 1e-3, "atol": 1e-4}
            torch.testing.assert_close(
                torch.from_numpy(here[name]), value.detach().cpu(), **tolerance, msg=lambda m, told=told: f"{told}: {m}"
            )


def pipelined(rank, world_size, kind, backend):
    """Losses of each pipeline, and of the plain loop first."""
    device = device_of(rank, kind, backend)
    losses = []
    for name in [None, *PIPELINES]:
        if kind == "cpu" and name in ON_CUDA_ALONE:
            continue
        dmp, optimizer = sharded(device, ArrayReduction.BF16, in_backward=True)
        iterator = (batch(step, rank) for step in range(STEPS))
        if name is None:
            own = []
            for given in iterator:
                optimizer.zero_grad()
                loss, _ = dmp(given.to(device))
                loss.backward()
                optimizer.step()
                own.append(float(loss))
        else:
            pipeline = PIPELINES[name](dmp, optimizer, device)
            own = [float(pipeline.progress(iterator)[0]) for _ in range(STEPS)]
        losses.append(own)
    return losses


@pytest.mark.parametrize(("kind", "backend"), PLACES)
def test_pipelines_equal_the_plain_loop(kind, backend, tmp_path):
    for plain, *others in two_ranks.run(pipelined, tmp_path, kind, backend, backend=backend):
        assert len(others) == len(PIPELINES) - (len(ON_CUDA_ALONE) if kind == "cpu" else 0)
        assert len(set(plain)) == STEPS
        for other in others:
            torch.testing.assert_close(other, plain, rtol=1e-4 if kind == "cuda" else 0, atol=0)
