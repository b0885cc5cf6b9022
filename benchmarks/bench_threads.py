"""What a second thread is worth to a training step on the CPU, alone and beside another process that does the same.

    python -m benchmarks.bench_threads [--repeats 5] [--json FILE]

The steps are those of `train_criteo.py`'s model, with Adam and the weights' average. Sides: one thread; a thread a core that waits busily,
as torch has it; a thread a core that soon sleeps, as `examples/threads.py` has it. All in one run, by turns; seconds are medians.
"""

import multiprocessing as mp
import os
import statistics
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tqdm import tqdm

from torchrec_pss.flags import Parser, add_number
from torchrec_pss.whole_file import write_json

EXAMPLES = Path(__file__).parents[1] / "examples"
_SECONDS = 0.2  # a turn
_LAYERS = {
    "train_criteo.py": ("16", "64,16", "256,128,1"),
    "MLPerf's": ("128", "512,256,128", "1024,1024,512,256,1"),
}  # embedding_dim, dense and over arch
CASES = [("train_criteo.py", rows) for rows in (16, 256, 2048)] + [("MLPerf's", rows) for rows in (16, 256)]
_ONE, _BUSY, _BRIEF = SIDES = ("one thread", "a thread a core, waiting busily", "a thread a core, waiting briefly")


class _Steps:
    """Training steps of one case."""

    def __init__(self, layers: str, rows: int) -> None:
        sys.path.insert(0, str(EXAMPLES))
        import criteo_flags
        import criteo_model
        import torch
        from click_data import ClickData

        from torchrec_pss.datasets.rows import KAGGLE_NUM_EMBEDDINGS, RowBlock
        from torchrec_pss.datasets.splits import Splits
        from torchrec_pss.datasets.synthetic import ClickLogConfig, ClickLogGenerator
        from torchrec_pss.optim import WeightAverage

        dim, dense, over = _LAYERS[layers]
        flags = ["--embedding_dim", dim, "--dense_arch_layer_sizes", dense, "--over_arch_layer_sizes", over]
        args = criteo_flags.parse([*flags, "--array_bytes", "200kB"])
        tables = tuple(max(2, n // 100) for n in KAGGLE_NUM_EMBEDDINGS)
        generator = ClickLogGenerator(ClickLogConfig(num_embeddings=tables))
        data = ClickData(
            source=generator,
            splits=Splits(range(rows), range(0), range(0)),
            signature={},
            num_embeddings=list(tables),
            counted="declared",
            contiguous=True,
        )
        self.model = criteo_model.build(args, data, torch.device("cpu"))
        self.multiply_adds = rows * criteo_model.multiply_adds(self.model)
        self._optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self._average = WeightAverage(dict(self.model.named_parameters()), every=4)
        dense_values, ids, labels, _ = generator.rows(range(rows))
        self._batch = RowBlock(dense_values, ids, labels).batch()

    def step(self) -> None:
        self._optimizer.zero_grad()
        loss, _ = self.model(self._batch)
        loss.backward()
        self._optimizer.step()
        self._average.step()


def _serve(jobs: Connection) -> None:
    """Answers ``(case, threads)`` by seconds a step, until None comes."""
    import torch

    made: dict[tuple, _Steps] = {}
    while (job := jobs.recv()) is not None:
        case, threads = job
        if case not in made:
            made[case] = _Steps(*case)
        steps = made[case]
        torch.set_num_threads(threads)
        steps.step()
        number, started = 0, time.perf_counter()
        while (taken := time.perf_counter() - started) < _SECONDS:
            steps.step()
            number += 1
        jobs.send((taken / number, steps.multiply_adds))


def _workers() -> dict[str, list[Connection]]:
    """Two processes for each way of waiting, which OpenMP is told when it is loaded."""
    sys.path.insert(0, str(EXAMPLES))
    from threads import SPINS

    os.environ.pop("GOMP_SPINCOUNT", None)  # set by the import
    context, found = mp.get_context("spawn"), {}
    for way, environment in {"busily": {}, "briefly": {"GOMP_SPINCOUNT": SPINS}}.items():
        for _ in range(2):
            ours, theirs = context.Pipe()
            os.environ.update(environment)
            context.Process(target=_serve, args=(theirs,), daemon=True).start()
            found.setdefault(way, []).append(ours)
        for name in environment:
            del os.environ[name]
    return found


def measure(workers: dict[str, list[Connection]], case: tuple[str, int], cores: int, repeats: int) -> dict[str, Any]:
    """Median seconds a step by side, alone and beside; and ratios to one thread."""
    sides = {_ONE: ("busily", 1), _BUSY: ("busily", cores), _BRIEF: ("briefly", cores)}
    seconds: dict[str, dict[str, list[float]]] = {"alone": {s: [] for s in SIDES}, "beside": {s: [] for s in SIDES}}
    for _ in range(repeats):
        for side, (way, threads) in sides.items():
            for where, number in (("alone", 1), ("beside", 2)):
                at_work = workers[way][:number]
                for jobs in at_work:
                    jobs.send((case, threads))
                answers = [jobs.recv() for jobs in at_work]
                seconds[where][side] += [taken for taken, _ in answers]
    medians = {where: {side: statistics.median(of) for side, of in found.items()} for where, found in seconds.items()}
    ratios = {where: {side: of[side] / of[_ONE] for side in SIDES[1:]} for where, of in medians.items()}
    return {"layers": case[0], "rows": case[1], "multiply_adds": answers[0][1], "seconds": medians, "ratios": ratios}


def main() -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    add_number(parser, "--repeats", default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.environ.pop("OMP_NUM_THREADS", None)
    cores, workers = len(os.sched_getaffinity(0)), _workers()
    if (load := os.getloadavg()[0]) > cores / 2:
        print(f"the machine is not idle: load {load:.1f} on {cores} cores", file=sys.stderr)
    found = [measure(workers, case, cores, args.repeats) for case in tqdm(CASES, "cases")]
    for jobs in [*workers["busily"], *workers["briefly"]]:
        jobs.send(None)
    print(f"{cores} cores; a step's seconds over those of one thread, {' / '.join(SIDES[1:])}")
    for line in found:
        alone, beside = line["ratios"]["alone"].values(), line["ratios"]["beside"].values()
        print(
            f"{line['layers']:16}{line['rows']:6} rows {line['multiply_adds'] / 1e6:8.0f} M   alone "
            f"{' / '.join(f'{r:.2f}' for r in alone)}   beside {' / '.join(f'{r:.2f}' for r in beside)}"
        )
    if args.json:
        write_json(args.json, {"cores": cores, "load_before": load, "repeats": args.repeats, "cases": found})


if __name__ == "__main__":
    main()
