"""What an array costs or saves in the public programs: ``python -m benchmarks.bench_programs``.

The programs of tests/public_programs with tables of 200,000 rows and larger batches: a step untouched, swapped and planned, at 100x, in
turn, in one process and in two (gloo, one thread each). Medians of the steps, and their ratio to the untouched program's.
"""

import logging
import statistics
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing
from torchrec.datasets.random import RandomRecDataset
from tqdm import tqdm

from torchrec_pss.flags import Parser, add_number
from torchrec_pss.whole_file import write_json

logger: logging.Logger = logging.getLogger(__name__)

ROWS, BATCH, DIM, COMPRESSION = 200_000, 1024, 64, 100
WAYS = ("plain", "swap", "planner")
_TESTS = Path(__file__).resolve().parents[1] / "tests"
# By program: the function that makes it, and constants of its module.
PROGRAMS: dict[str, tuple[str, dict[str, Any]]] = {
    "golden_training": ("program", {"ROWS": ROWS, "DIM": DIM}),
    "ray": ("program", {}),  # these two take their tables from the one above
    "torchrec_dlrm": ("program", {"BATCH": BATCH, "DIM": DIM}),
    "retrieval": ("program", {"ROWS": ROWS, "DIM": DIM}),
    "transfer_learning": ("program", {"ROWS": ROWS, "DIM": DIM, "BATCH": BATCH}),
    "bert4rec": ("dmp", {"VOCABULARY": 20_000, "BATCH": 64}),
}


def _larger_batches() -> None:
    """Of the programs that draw from `RandomRecDataset`."""
    golden, retrieval = (import_module(f"public_programs.test_{n}") for n in ("golden_training", "retrieval"))

    def dense_and_sparse() -> RandomRecDataset:
        return RandomRecDataset(
            golden.CATEGORIES, BATCH, hash_size=ROWS, ids_per_feature=1, num_dense=golden.NUM_DENSE, manual_seed=dist.get_rank(),
            num_generated_batches=8,
        )  # fmt: skip

    for name in ("golden_training", "ray", "torchrec_dlrm"):
        import_module(f"public_programs.test_{name}").batches = dense_and_sparse
    retrieval.batches = lambda: RandomRecDataset(
        retrieval.COLUMNS,
        BATCH,
        hash_size=ROWS,
        ids_per_feature=1,
        manual_seed=dist.get_rank(),
        num_generated_batches=8,
    )


def _timed(rank: int, world_size: int, store: str, name: str, steps: int, results: Any) -> None:
    logging.disable(logging.WARNING)
    sys.path.insert(0, str(_TESTS))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    for changed, (_, constants) in PROGRAMS.items():
        module = import_module(f"public_programs.test_{changed}")
        for constant, value in constants.items():
            setattr(module, constant, value)
    _larger_batches()
    module = import_module(f"public_programs.test_{name}")
    size = sum(t.num_embeddings * t.embedding_dim * 4 for t in module.tables()) // COMPRESSION
    folder = [tempfile.mkdtemp()] if name == "retrieval" else []
    made = {way: getattr(module, PROGRAMS[name][0])(way, 0 if way == "plain" else size, *folder) for way in WAYS}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(steps + 2):
        for way in WAYS:
            dist.barrier()
            start = time.perf_counter()
            made[way].step()
            dist.barrier()
            if number >= 2:
                seconds[way].append(time.perf_counter() - start)
    results.put((rank, seconds))
    dist.barrier()
    dist.destroy_process_group()


def medians(name: str, world_size: int, steps: int) -> dict[str, float]:
    """Seconds a step by way, of the first rank."""
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        arguments = [(rank, world_size, f"{folder}/store", name, steps, results) for rank in range(world_size)]
        processes = [context.Process(target=_timed, args=a) for a in arguments]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError(f"{name} on {world_size} processes: exit codes {[p.exitcode for p in processes]}")
    first = next(seconds for rank, seconds in (results.get() for _ in range(world_size)) if rank == 0)
    return {way: statistics.median(values) for way, values in first.items()}


def main() -> None:
    parser = Parser(prog="python -m benchmarks.bench_programs", description=__doc__.split("\n")[0])
    add_number(parser, "--repeats", default=40, help="steps a way")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/bench_programs.json"))
    args = parser.parse_args()
    logging.basicConfig(level=logging.ERROR, format="%(message)s", force=True)
    logger.setLevel(logging.INFO)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, world_size in tqdm([(n, w) for n in PROGRAMS for w in (1, 2)]):
        steps = medians(name, world_size, args.repeats)
        found.setdefault(name, {})[str(world_size)] = steps
        ratios = ", ".join(f"{way} {steps[way] / steps['plain']:.2f}" for way in WAYS[1:])
        logger.info("%s, %d processes: plain %.1f ms; of that, %s", name, world_size, 1e3 * steps["plain"], ratios)
    setting = {
        "rows": ROWS,
        "batch_size": BATCH,
        "embedding_dim": DIM,
        "compression": COMPRESSION,
        "steps": args.repeats,
    }
    write_json(args.json, {"setting": setting, "seconds": found})


if __name__ == "__main__":
    main()
