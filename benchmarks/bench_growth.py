"""What the lookup's cost grows with: declared rows (nothing), batch, array size; and the memory of both sides.

    python -m benchmarks.bench_growth [--quick] [--json FILE] [--plot FILE]

Times are medians, measured in turn; each is given as a ratio to the first of its sweep. Memory (Linux) is the growth of a fresh process's peak
from before the tables are made to after a training step; full tables are FBGEMM's TBE.
"""

import multiprocessing
import re
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from tqdm import tqdm

from benchmarks.bench_lookup import FullTables, trained
from benchmarks.lookup_cases import MB, Case, draw_ids
from benchmarks.shared_collection import batch_of, collection
from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection
from torchrec_pss.flags import Parser, add_number, plot_path
from torchrec_pss.whole_file import write_json

_TABLES = 26
BASE = Case("kaggle", "plain", 10 * MB, 16, 4096, 1, "uniform", 2)
ROWS = [10**3, 10**6, 10**9, 10**12]
BATCHES = [1024, 4096, 16384, 65536]
ARRAYS = [1 * MB, 10 * MB, 100 * MB, 400 * MB]
MEMORY_ROWS = 1_000_000  # of each of the 26 tables


def declared(rows: int, ids: torch.Tensor):
    """Forward and backward over tables of that many declared rows, ids drawn from all of them."""
    tables = [
        EmbeddingBagConfig(num_embeddings=rows, embedding_dim=BASE.embedding_dim, name=f"t{i}", feature_names=[f"f{i}"])
        for i in range(_TABLES)
    ]
    module = PSSEmbeddingBagCollection(tables, config=PSSConfig(array_bytes=BASE.array_bytes, layout="plain", exact=()))
    module.step_in_backward(torch.optim.SGD([module.array], lr=0.01))
    lengths = torch.ones(_TABLES * BASE.batch_size, dtype=torch.int32)
    kjt = KeyedJaggedTensor([f"f{i}" for i in range(_TABLES)], ids.flatten(), lengths=lengths)
    kjt.offsets()
    grad = torch.randn(BASE.batch_size, _TABLES * BASE.embedding_dim)
    return lambda: module(kjt).values().backward(grad)


def of_case(case: Case):
    rows = [10**7] * _TABLES
    ids = draw_ids(rows, case.batch_size, case.ids)
    grad = torch.randn(case.batch_size, _TABLES * case.embedding_dim)
    step = trained(collection(case, rows), [batch_of(case, ids)], grad)[1]
    return lambda: step(0)


def sweep(steps: dict[int, object], repeats: int) -> list[dict]:
    """Medians of the steps, in turn, and their ratios to the first."""
    times: dict[int, list[float]] = {value: [] for value in steps}
    for repeat in range(repeats + 2):
        for value, step in steps.items():
            step()  # so that caches hold what this one left there, not another
            started = time.perf_counter()
            step()
            if repeat >= 2:
                times[value].append(time.perf_counter() - started)
    medians = {value: statistics.median(taken) for value, taken in times.items()}
    first = next(iter(medians.values()))
    return [{"value": value, "seconds": median, "ratio": median / first} for value, median in medians.items()]


def _status_kib(name: str) -> int:
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def _peak_growth(side: str, connection) -> None:
    case = replace(BASE, tables="growth")
    rows = [MEMORY_ROWS] * _TABLES
    ids = draw_ids(rows, case.batch_size, case.ids)
    grad = torch.randn(case.batch_size, _TABLES * case.embedding_dim)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again, from what is resident now
    before = _status_kib("VmRSS")
    if side == "fbgemm":
        step = FullTables(rows, case.embedding_dim).fbgemm([ids], torch.arange(ids.numel() + 1), grad)[1]
    else:
        step = trained(collection(case, rows), [batch_of(case, ids)], grad)[1]
    step(0)
    connection.send((_status_kib("VmHWM") - before) * 1024)


def peak_bytes(side: str) -> int:
    """Growth of a fresh process's peak memory, in bytes."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_peak_growth, args=(side, theirs))
    process.start()
    theirs.close()
    grown = ours.recv()
    process.join()
    return grown


def plot(path: Path, report: dict) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.5))
    names = {"rows": "declared rows a table", "batch": "batch size", "array_bytes": "array, bytes"}
    for axis, (key, label) in zip(axes, names.items(), strict=True):
        axis.plot([p["value"] for p in report[key]], [p["ratio"] for p in report[key]], marker="o")
        axis.set_xscale("log")
        if key == "batch":
            axis.set_yscale("log")
        else:
            axis.set_ylim(0, 1.1 * max(p["ratio"] for p in report[key]))
        axis.set_xlabel(label)
    axes[0].set_ylabel("time of a step, first = 1")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="leaves out the largest of each sweep but the rows'")
    add_number(parser, "--repeats", default=9)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=plot_path)
    args = parser.parse_args()
    torch.set_num_threads(BASE.threads)
    last = -1 if args.quick else None
    ids = {rows: torch.randint(0, rows, (_TABLES, BASE.batch_size)) for rows in ROWS}
    report = {}
    sweeps = {
        "rows": {rows: declared(rows, ids[rows]) for rows in ROWS},
        "batch": {batch: of_case(replace(BASE, batch_size=batch)) for batch in BATCHES[:last]},
        "array_bytes": {size: of_case(replace(BASE, array_bytes=size)) for size in ARRAYS[:last]},
    }
    for name, steps in tqdm(sweeps.items(), "sweeps"):
        report[name] = sweep(steps, args.repeats)
        tqdm.write(f"{name}: " + ", ".join(f"{p['value']:.0e} {p['ratio']:.2f}" for p in report[name]))
    report["peak_bytes"] = {side: peak_bytes(side) for side in ("shared array", "fbgemm")}
    print("peak memory, MB: " + ", ".join(f"{k} {v / 1e6:.0f}" for k, v in report["peak_bytes"].items()))
    if args.json:
        write_json(args.json, report)
    if args.plot:
        plot(args.plot, report)


if __name__ == "__main__":
    main()
