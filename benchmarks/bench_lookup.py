"""The lookup against the full tables that it replaces: forward, and a whole step with a fused optimizer.

    python -m benchmarks.bench_lookup [--quick] [--json FILE] [--plot FILE]

For each case, how many times as fast the shared array is as each rival: all sides run in turn in one process, and the figure is the
ratio of the medians. Full tables are Kaggle's or MLPerf's 26, fp32, with as many of their rows as --table_gib holds.

Limits, as a share of our time: ``floor`` is the whole lookup by a C++ program that is told where each distinct row lies in the array
(lookup_floor.cpp): no hashing, no checks, sums in any order; ``copy`` is a plain copy of the output's bytes (a step must at least read its
gradient and write it); ``lines`` sums, by `embedding_bag` and places given beforehand, as many cache lines of an array of that size as
the forward reads where no id repeats.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from tqdm import tqdm

from benchmarks.lookup_cases import ALL, QUICK, TABLE_SETS, Case, draw_ids
from benchmarks.lookup_floor import floor
from benchmarks.shared_collection import batch_of, collection
from torchrec_pss import PSSEmbeddingBagCollection
from torchrec_pss.flags import Parser, add_number, plot_path
from torchrec_pss.modules.array_layout import ArrayLayout
from torchrec_pss.ops import HAS_CPU_KERNEL
from torchrec_pss.ops.hashing import robe_offsets
from torchrec_pss.whole_file import write_json

LEARNING_RATE = 0.01
_WARM_UP = 2  # rounds
_TURN = 0.01  # seconds that a side is called for, over and over, when it is its turn
_BATCHES = 4  # that take turns: no rival finds its rows in the cache because it has just read the same ids
_LINE = 16  # fp32 elements of a cache line
_LINES_A_BAG = 64
_LIMITS = ("copy", "floor", "lines")
_LIMIT_COLUMNS = tuple(f"ratio_vs_{limit}" for limit in _LIMITS)

# Forward; forward, backward and optimizer: each of the batch with that number.
Contestant = tuple[Callable[[int], object], Callable[[int], object] | None]
Batches = list[torch.Tensor]  # of ids, int64 ``[tables, batch_size * ids_per_bag]``


def rows_of(case: Case, table_gib: float) -> list[int]:
    """Rows of the full tables, scaled down to fit."""
    rows = TABLE_SETS[case.tables]
    share = min(1.0, table_gib * 2**30 / (sum(rows) * case.embedding_dim * 4))
    return [max(2, int(n * share)) for n in rows]


def trained(module: PSSEmbeddingBagCollection, batches: list[KeyedJaggedTensor], grad: torch.Tensor) -> Contestant:
    """A shared array, SGD in its backward; its projections are one more parameter of the dense layers' optimizer, and cost here what that
    does to one parameter."""
    module.step_in_backward(torch.optim.SGD([module.array], lr=LEARNING_RATE))

    def forward(batch: int):
        return module(batches[batch]).values()

    def step(batch: int):
        forward(batch).backward(grad)
        if module.projections is not None:
            with torch.no_grad():
                module.projections.add_(module.projections.grad, alpha=-LEARNING_RATE)
            module.projections.grad = None

    return forward, step


def robe_gather(case: Case, rows: list[int], batches: Batches) -> Contestant:
    """As the authors' Python does it: all addresses as a tensor, then one gather; forward only."""
    numel, dim, block = case.array_bytes // 4, case.embedding_dim, 4
    array = torch.rand(numel) - 0.5
    firsts = torch.tensor([0, *rows[:-1]]).cumsum(0)
    inside = torch.arange(block)

    def forward(batch: int):
        places = [
            robe_offsets(int(f), drawn, dim // block, numel - block + 1)
            for f, drawn in zip(firsts, batches[batch], strict=True)
        ]
        addresses = (torch.stack(places)[..., None] + inside).flatten(2)
        read = array[addresses].view(len(rows), case.batch_size, case.ids_per_bag, dim)
        return read.sum(2).transpose(0, 1).flatten(1)

    return forward, None


def cache_lines(layout: ArrayLayout, batches: Batches) -> Contestant:
    """Of each id the lines its row lies in, for hashed coordinates one a block; equal ids read equal lines."""
    lines = torch.rand(max(layout.numel // _LINE, 1), _LINE)

    def places(ids: torch.Tensor) -> torch.Tensor:
        found = []
        for number, (table, drawn) in enumerate(zip(layout.tables, ids, strict=True)):
            exact = -(-table.prefix // _LINE)
            shared = (table.width - table.prefix) // table.block * -(-table.block // _LINE)
            block = torch.arange(exact + shared) * 0x9E3779B1 + number
            found.append(((drawn[:, None] * 0x85EBCA6B + block) % len(lines)).flatten())
        return torch.cat(found)

    all_places = [places(ids) for ids in batches]
    starts = torch.arange(0, len(all_places[0]), _LINES_A_BAG)

    def forward(batch: int):
        return torch.nn.functional.embedding_bag(all_places[batch], lines, starts, mode="sum")

    return forward, None


class FullTables:
    """Tables of one size, made once for all cases that use them."""

    def __init__(self, rows: list[int], dim: int) -> None:
        self.tbe = SplitTableBatchedEmbeddingBagsCodegen(
            [(n, dim, EmbeddingLocation.HOST, ComputeDevice.CPU) for n in rows],
            optimizer=EmbOptimType.EXACT_SGD,
            learning_rate=LEARNING_RATE,
        )
        self.tbe.init_embedding_weights_uniform(-0.05, 0.05)
        self.bags = torch.nn.ModuleList(
            torch.nn.EmbeddingBag.from_pretrained(w, freeze=False, mode="sum", sparse=True)
            for w in self.tbe.split_embedding_weights()
        )

    def fbgemm(self, batches: Batches, offsets: torch.Tensor, grad: torch.Tensor) -> Contestant:
        flat = [ids.flatten() for ids in batches]
        return lambda batch: self.tbe(flat[batch], offsets), lambda batch: self.tbe(flat[batch], offsets).backward(grad)

    def embedding_bags(self, case: Case, batches: Batches, grad: torch.Tensor) -> Contestant:
        optimizer = torch.optim.SGD(self.bags.parameters(), lr=LEARNING_RATE)
        starts = torch.arange(0, case.batch_size * case.ids_per_bag, case.ids_per_bag)

        def forward(batch: int):
            return torch.cat([bag(drawn, starts) for bag, drawn in zip(self.bags, batches[batch], strict=True)], dim=1)

        def step(batch: int):
            optimizer.zero_grad()
            forward(batch).backward(grad)
            optimizer.step()

        return forward, step


def _turn(function: Callable[[int], object], calls: int) -> float:
    """Seconds a call, after one so that the caches hold what this side leaves there, as in training, and not what another left."""
    function(0)
    started = time.perf_counter()
    for call in range(1, 1 + calls):
        function(call % _BATCHES)
    return (time.perf_counter() - started) / calls


def measure(case: Case, tables: FullTables, rows: list[int], repeats: int) -> dict:
    """Medians of every contestant, measured in turn, and ours as ratios."""
    torch.set_num_threads(case.threads)
    batches = [draw_ids(rows, case.batch_size * case.ids_per_bag, case.ids, seed) for seed in range(2, 2 + _BATCHES)]
    offsets = torch.arange(0, batches[0].numel() + 1, case.ids_per_bag)
    grad = torch.randn(case.batch_size, len(rows) * case.embedding_dim)
    copied = torch.empty_like(grad)
    module = collection(case, rows)
    least = floor(module, batches, case.ids_per_bag, case.threads, grad)
    contestants: dict[str, Contestant] = {
        "shared array": trained(module, [batch_of(case, ids) for ids in batches], grad),
        "fbgemm": tables.fbgemm(batches, offsets, grad),
        "embedding_bag": tables.embedding_bags(case, batches, grad),
        "robe_gather": robe_gather(case, rows, batches),
        "copy": (lambda _: copied.copy_(grad), lambda _: copied.copy_(grad)),
        "lines": cache_lines(module.layout, batches),
        **({"floor": least} if least else {}),
    }
    times: dict[str, dict[str, list[float]]] = {n: {"forward": [], "step": []} for n in contestants}
    calls: dict[tuple[str, str], int] = {}
    for repeat in range(repeats + _WARM_UP):
        for name, (forward, step) in contestants.items():
            for kind, function in (("forward", torch.no_grad()(forward)), ("step", step)):
                if function is None:
                    continue
                spent = _turn(function, calls.get((name, kind), 1))
                calls[name, kind] = max(1, int(_TURN / spent))
                if repeat >= _WARM_UP:
                    times[name][kind].append(spent)
    seconds = {n: {kind: statistics.median(v) for kind, v in kinds.items() if v} for n, kinds in times.items()}
    ours = seconds["shared array"]
    ratios = {
        f"ratio_vs_{name}_{kind}": theirs / ours[kind]
        for name, kinds in seconds.items()
        for kind, theirs in kinds.items()
        if name not in ("shared array", *_LIMITS)
    }
    share = sum(rows) / sum(TABLE_SETS[case.tables])
    return {
        **asdict(case), "table_rows": sum(rows), "table_rows_share": share, **ratios,
        **{f"ratio_vs_{n}{'_step' * (kind == 'step')}": theirs / ours[kind] for n, kinds in seconds.items() if n in _LIMITS
           for kind, theirs in kinds.items()}, "seconds": seconds,
    }  # fmt: skip


def plot(path: Path, results: list[dict]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(9, 0.45 * len(results) + 1.5))
    for offset, kind in ((-0.2, "forward"), (0.2, "step")):
        heights = [r[f"ratio_vs_fbgemm_{kind}"] for r in results]
        axis.barh([i + offset for i in range(len(results))], heights, 0.38, label=kind)
    axis.set_yticks(range(len(results)), [_label(r) for r in results], fontsize=8)
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_xlabel("times as fast as FBGEMM's TBE on full tables")
    axis.invert_yaxis()
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def _label(r: dict) -> str:
    return (
        f"{r['tables']} {r['layout']} {r['array_bytes'] // 1_000_000} MB, D {r['embedding_dim']}, "
        f"B {r['batch_size']} x {r['ids_per_bag']}, {r['ids']}, {r['threads']} thr."
    )


def keep_freed_memory(module: str) -> None:
    """Starts the program of that module anew with glibc told not to give freed memory back. Else each output's pages are new in some calls and not
    in others, for all sides, and cost up to as much as the lookup."""
    if "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        os.environ.update(MALLOC_TRIM_THRESHOLD_=str(1 << 32), MALLOC_MMAP_THRESHOLD_=str(1 << 25))
        os.execv(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]])


def main() -> None:
    keep_freed_memory("benchmarks.bench_lookup")
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"{len(QUICK)} cases instead of {len(ALL)}")
    add_number(parser, "--table_gib", default=2.5, help="most that the full tables may take")
    add_number(parser, "--repeats", default=9)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=plot_path)
    args = parser.parse_args()
    if not HAS_CPU_KERNEL:
        parser.error("the C++ kernel was not built; there is nothing to measure")
    print(
        f"torch {torch.__version__}; times as fast as FBGEMM's TBE on full tables, forward and step; limits as shares of our time"
    )
    cases = sorted(QUICK if args.quick else ALL, key=lambda c: (c.tables, c.embedding_dim))
    results: list[dict] = []
    tables, made_for = None, None
    for case in tqdm(cases, "cases"):
        rows = rows_of(case, args.table_gib)
        if made_for != (case.tables, case.embedding_dim):
            tables = None  # frees the old ones first
            tables, made_for = FullTables(rows, case.embedding_dim), (case.tables, case.embedding_dim)
        results.append(measure(case, tables, rows, args.repeats))
        r = results[-1]
        ratios = f"{r['ratio_vs_fbgemm_forward']:.2f} {r['ratio_vs_fbgemm_step']:.2f} " + "".join(
            f" {name.removeprefix('ratio_vs_')} {value:.2f}"
            for name, value in r.items()
            if name.startswith(_LIMIT_COLUMNS)
        )
        tqdm.write(f"{_label(r)}: {ratios}")
        if args.json:
            write_json(args.json, results)
    if args.plot:
        plot(args.plot, results)


if __name__ == "__main__":
    main()
