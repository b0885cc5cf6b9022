"""One rank of `bench_step`: for each side a DLRM step taken apart, each part after a barrier, and the whole step as users train it.

All sides take their turns in one process, two steps each, of which the second counts: a machine that is slower for a while is so for all.
"""

import argparse
import json
import os
import statistics
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
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
from torchrec_pss.flags import Parser, add_number

NUM_DENSE = 13
SIDES: dict[str, ArrayReduction | None] = {
    "full": None,
    "shared array": ArrayReduction.DDP,
    "array, bf16": ArrayReduction.BF16,
    "array, sparse": ArrayReduction.SPARSE,
}
_BATCHES = 4
_WARM_UP = 2  # turns
_LEARNING_RATE = 0.01

Batch = tuple[torch.Tensor, KeyedJaggedTensor, torch.Tensor]  # dense features, ids, labels
PartCosts = dict[str, tuple[float, float]]  # seconds, bytes that this rank sent


def build(args: argparse.Namespace, reduction: ArrayReduction | None, apart: bool) -> DistributedModelParallel:
    """Full tables without a ``reduction``, else the array; ``apart``: without DDP, its gradient is reduced by a part of the step."""
    rows = [max(2, int(n * args.rows_share)) for n in TABLE_SETS["kaggle"]]
    tables = [
        EmbeddingBagConfig(num_embeddings=n, embedding_dim=args.embedding_dim, name=f"t{i}", feature_names=[f"f{i}"])
        for i, n in enumerate(rows)
    ]
    if reduction is None:
        ebc = EmbeddingBagCollection(tables=tables, device=torch.device("meta"))
        _apply_optimizer_in_backward(torch.optim.SGD, ebc.parameters(), {"lr": _LEARNING_RATE})
    else:
        ebc = PSSEmbeddingBagCollection(tables, config=PSSConfig(array_bytes=args.array_bytes))
    model = DLRM(ebc, NUM_DENSE, [512, 256, args.embedding_dim], [512, 256, 1])
    sharders = get_default_pss_sharders(ArrayReduction.DDP if apart or reduction is None else reduction)
    topology = Topology(world_size=dist.get_world_size(), compute_device="cpu", hbm_cap=1 << 40, ddr_cap=1 << 40)
    plan = EmbeddingShardingPlanner(topology=topology, batch_size=args.batch_size).collective_plan(
        model, sharders, dist.group.WORLD
    )
    return DistributedModelParallel(
        model, plan=plan, sharders=sharders, device=torch.device("cpu"), init_data_parallel=not apart
    )


def batches_of(args: argparse.Namespace, rank: int) -> list[Batch]:
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
    """Seconds and bytes sent by this rank, of each part of a step."""

    def __init__(self, interface: str) -> None:
        self._counter = Path(f"/sys/class/net/{interface}/statistics/tx_bytes")
        # What goes through the loopback device is that of both ranks.
        self._share = dist.get_world_size() if interface == "lo" else 1
        self.costs: PartCosts = {}

    @contextmanager
    def part(self, name: str):
        dist.barrier()
        time.sleep(0.002)  # the barrier's own messages are through
        before, started = int(self._counter.read_text()), time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        dist.barrier() if self._share > 1 else None  # the other rank has sent its bytes too
        self.costs[name] = (seconds, (int(self._counter.read_text()) - before) / self._share)


@dataclass
class Contestant:
    """A side's model, and what its steps took."""

    model: DistributedModelParallel
    reduction: ArrayReduction | None
    optimizer: torch.optim.Optimizer = field(init=False)
    array: torch.Tensor | None = field(init=False)
    dense: list[torch.Tensor] = field(init=False)  # projections among them
    taken: list = field(default_factory=list)

    def __post_init__(self) -> None:
        parameters = dict(in_backward_optimizer_filter(self.model.named_parameters()))
        self.optimizer = torch.optim.Adam(parameters.values(), lr=1e-3, fused=True)
        self.array = next((p for name, p in parameters.items() if name.endswith(".array")), None)
        self.dense = [p for p in parameters.values() if p is not self.array]


def step_apart(side: Contestant, batch: Batch, interface: str) -> PartCosts:
    """The same step as `torchrec.models.dlrm.DLRM` takes, cut at the embeddings."""
    dense_features, kjt, labels = batch
    dlrm, optimizer, array = side.model.module, side.optimizer, side.array
    ebc = dlrm.sparse_arch.embedding_bag_collection
    parts = Parts(interface)
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
        flat = torch.cat([p.grad.flatten() for p in side.dense])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for p, part in zip(side.dense, flat.split([p.numel() for p in side.dense]), strict=True):
            p.grad = part.view_as(p)
    with parts.part("all-reduce array"):
        if array is not None:
            array_reduction.start(side.reduction, array.grad, dist.group.WORLD)()
    with parts.part("optimizer"):
        optimizer.step()
        optimizer.zero_grad()
    return parts.costs


def model_dim(ebc, values: torch.Tensor, kjt: KeyedJaggedTensor) -> int:
    return values.shape[1] // len(kjt.keys())


def whole_step(side: Contestant, batch: Batch) -> float:
    """Seconds of a step as users take it, the all-reduce overlapping with backward."""
    dense_features, kjt, labels = batch
    dist.barrier()
    started = time.perf_counter()
    logits = side.model(dense_features, kjt).squeeze(1)
    torch.nn.functional.binary_cross_entropy_with_logits(logits, labels).backward()
    side.optimizer.step()
    side.optimizer.zero_grad()
    return time.perf_counter() - started


def take_turns(sides: dict[str, Contestant], batches: list[Batch], turns: int, step) -> None:
    """``step(side, batch)`` twice a turn: the first leaves the caches as in training, the second counts."""
    for turn in range(turns + _WARM_UP):
        for side in sides.values():
            step(side, batches[2 * turn % _BATCHES])
            costs = step(side, batches[(2 * turn + 1) % _BATCHES])
            if turn >= _WARM_UP:
                side.taken.append(costs)


def main() -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    add_number(parser, "--batch_size", required=True, help="of this rank")
    add_number(parser, "--embedding_dim", required=True)
    add_number(parser, "--array_bytes", required=True)
    add_number(parser, "--rows_share", required=True)
    add_number(parser, "--turns", required=True)
    parser.add_argument("--interface", required=True)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo")
    rank = int(os.environ["RANK"])
    batches = batches_of(args, rank)
    report: dict[str, dict] = {}
    apart = {name: Contestant(build(args, r, apart=True), r) for name, r in SIDES.items()}
    take_turns(apart, batches, args.turns, lambda side, batch: step_apart(side, batch, args.interface))
    for name, side in apart.items():
        medians = {
            part: [statistics.median(costs[part][i] for costs in side.taken) for i in (0, 1)] for part in side.taken[0]
        }
        report[name] = {
            "parts": {part: {"seconds": seconds, "bytes_sent": sent} for part, (seconds, sent) in medians.items()},
            "dense_bytes": 4 * sum(p.numel() for p in side.dense),
            "array_bytes": 0 if side.array is None else 4 * side.array.numel(),
        }
    del apart, side
    whole = {name: Contestant(build(args, r, apart=False), r) for name, r in SIDES.items()}
    take_turns(whole, batches, args.turns, whole_step)
    for name, side in whole.items():
        report[name]["seconds"] = statistics.median(side.taken)
    if rank == 0:
        args.json.write_text(json.dumps(report))
    dist.barrier()


if __name__ == "__main__":
    main()
