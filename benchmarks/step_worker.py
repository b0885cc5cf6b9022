"""One rank of `bench_step`: a DLRM step taken apart, each part after a barrier, and the whole step as users train it."""

import argparse
import json
import os
import statistics
import time
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.optim import _apply_optimizer_in_backward
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.models.dlrm import DLRM
from torchrec.optim.optimizers import in_backward_optimizer_filter

from benchmarks.lookup_cases import TABLE_SETS, draw_ids
from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection, get_default_pss_sharders
from torchrec_pss.distributed import ArrayReduction, array_reduction

NUM_DENSE = 13
_BATCHES = 4
_WARM_UP = 3
_LEARNING_RATE = 0.01


def build(args: argparse.Namespace) -> DistributedModelParallel:
    rows = [max(2, int(n * args.rows_share)) for n in TABLE_SETS["kaggle"]]
    tables = [
        EmbeddingBagConfig(num_embeddings=n, embedding_dim=args.embedding_dim, name=f"t{i}", feature_names=[f"f{i}"])
        for i, n in enumerate(rows)
    ]
    if args.side == "full":
        ebc = EmbeddingBagCollection(tables=tables, device=torch.device("meta"))
        _apply_optimizer_in_backward(torch.optim.SGD, ebc.parameters(), {"lr": _LEARNING_RATE})
    else:
        ebc = PSSEmbeddingBagCollection(tables, config=PSSConfig(array_bytes=args.array_bytes))
    model = DLRM(ebc, NUM_DENSE, [512, 256, args.embedding_dim], [512, 256, 1])
    # Apart, the gradient is reduced by its part of the step, not by backward.
    sharders = get_default_pss_sharders(ArrayReduction.DDP if args.apart else args.reduction)
    topology = Topology(world_size=dist.get_world_size(), compute_device="cpu", hbm_cap=1 << 40, ddr_cap=1 << 40)
    plan = EmbeddingShardingPlanner(topology=topology, batch_size=args.batch_size).collective_plan(
        model, sharders, dist.group.WORLD
    )
    return DistributedModelParallel(
        model, plan=plan, sharders=sharders, device=torch.device("cpu"), init_data_parallel=not args.apart
    )


def batches_of(args: argparse.Namespace, rank: int) -> list[tuple[torch.Tensor, KeyedJaggedTensor, torch.Tensor]]:
    rows = [max(2, int(n * args.rows_share)) for n in TABLE_SETS["kaggle"]]
    keys = [f"f{i}" for i in range(len(rows))]
    lengths = torch.ones(len(rows) * args.batch_size, dtype=torch.int32)
    batches = []
    for number in range(_BATCHES):
        ids = draw_ids(rows, args.batch_size, "power_law", seed=10 * number + rank)
        kjt = KeyedJaggedTensor(keys, ids.flatten(), lengths=lengths)
        batches.append((torch.randn(args.batch_size, NUM_DENSE), kjt, torch.rand(args.batch_size).round()))
    return batches


class Parts:
    """Seconds and bytes sent by this rank, of each part of each step."""

    def __init__(self, interface: str) -> None:
        self._counter = Path(f"/sys/class/net/{interface}/statistics/tx_bytes")
        # What goes through the loopback device is that of both ranks.
        self._share = dist.get_world_size() if interface == "lo" else 1
        self.steps: list[dict[str, tuple[float, float]]] = []

    @contextmanager
    def part(self, name: str):
        dist.barrier()
        time.sleep(0.002)  # the barrier's own messages are through
        before, started = int(self._counter.read_text()), time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        dist.barrier() if self._share > 1 else None  # the other rank has sent its bytes too
        sent = (int(self._counter.read_text()) - before) / self._share
        self.steps[-1][name] = (seconds, sent)

    def medians(self) -> dict[str, dict[str, float]]:
        kept = self.steps[_WARM_UP:]
        return {
            name: {"seconds": statistics.median(s[name][0] for s in kept), "bytes_sent": statistics.median(s[name][1] for s in kept)}
            for name in kept[0]
        }  # fmt: skip


def step_apart(
    model: DistributedModelParallel, batch, parts: Parts, optimizer, dense, array: torch.Tensor | None, reduction: str
) -> None:
    """The same step as `torchrec.models.dlrm.DLRM` takes, cut at the embeddings."""
    dense_features, kjt, labels = batch
    dlrm = model.module
    ebc = dlrm.sparse_arch.embedding_bag_collection
    parts.steps.append({})
    with parts.part("input exchange"):
        context = ebc.create_context()
        local = ebc.input_dist(context, kjt).wait().wait()
    with parts.part("lookup forward"):  # for full tables with the exchange of their output
        embeddings = ebc.compute_and_output_dist(context, local).wait()
        values = embeddings.values()
    with parts.part("dense layers"):
        cut = values.detach().requires_grad_()
        sparse = cut.view(len(labels), -1, model_dim(ebc, cut, kjt))
        bottom = dlrm.dense_arch(dense_features)
        logits = dlrm.over_arch(dlrm.inter_arch(dense_features=bottom, sparse_features=sparse)).squeeze(1)
        torch.nn.functional.binary_cross_entropy_with_logits(logits, labels).backward()
    with parts.part("lookup backward"):  # for full tables with the exchange of gradients, and their optimizer
        values.backward(cut.grad)
    with parts.part("all-reduce dense"):  # and projections
        flat = torch.cat([p.grad.flatten() for p in dense])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for p, part in zip(dense, flat.split([p.numel() for p in dense]), strict=True):
            p.grad = part.view_as(p)
    with parts.part("all-reduce array"):
        if array is not None:
            array_reduction.start(reduction, array.grad, dist.group.WORLD)()
    with parts.part("optimizer"):
        optimizer.step()
        optimizer.zero_grad()


def model_dim(ebc, values: torch.Tensor, kjt: KeyedJaggedTensor) -> int:
    return values.shape[1] // len(kjt.keys())


def whole_steps(model: DistributedModelParallel, batches, optimizer, steps: int) -> float:
    """Median seconds of steps as users take them, the all-reduce overlapping with backward."""
    taken = []
    for number in range(steps + _WARM_UP):
        dense_features, kjt, labels = batches[number % len(batches)]
        dist.barrier()
        started = time.perf_counter()
        logits = model(dense_features, kjt).squeeze(1)
        torch.nn.functional.binary_cross_entropy_with_logits(logits, labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[_WARM_UP:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--side", choices=["full", "array"], required=True)
    parser.add_argument("--reduction", choices=list(ArrayReduction), type=ArrayReduction, default=ArrayReduction.DDP)
    parser.add_argument("--batch_size", type=int, required=True, help="of this rank")
    parser.add_argument("--embedding_dim", type=int, required=True)
    parser.add_argument("--array_bytes", type=int, required=True)
    parser.add_argument("--rows_share", type=float, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--interface", required=True)
    parser.add_argument("--apart", action="store_true")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo")
    rank = int(os.environ["RANK"])
    model, batches = build(args), batches_of(args, rank)
    parameters = dict(in_backward_optimizer_filter(model.named_parameters()))
    optimizer = torch.optim.Adam(parameters.values(), lr=1e-3, fused=True)
    if args.apart:
        array = next((p for name, p in parameters.items() if name.endswith(".array")), None)
        dense = [p for p in parameters.values() if p is not array]
        parts = Parts(args.interface)
        for number in range(args.steps + _WARM_UP):
            step_apart(model, batches[number % _BATCHES], parts, optimizer, dense, array, args.reduction)
        report = {"parts": parts.medians(), "dense_bytes": 4 * sum(p.numel() for p in dense)}
        report["array_bytes"] = 0 if array is None else 4 * array.numel()
    else:
        report = {"seconds": whole_steps(model, batches, optimizer, args.steps)}
    if rank == 0:
        args.json.write_text(json.dumps(report))
    dist.barrier()


if __name__ == "__main__":
    main()
