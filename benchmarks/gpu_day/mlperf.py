"""Part `mlperf`: MLPerf DLRM's 26 tables in full against an array of 10 MB: samples/s, memory, and AUROC against steps."""

import gc
import time
from dataclasses import dataclass
from functools import partial

import torch
from torchmetrics.functional.classification import binary_auroc

from benchmarks.gpu_day import part_flags
from benchmarks.gpu_day.click_rows import ClickRows, generated
from benchmarks.gpu_day.click_sides import FULL, SIDES, side, table_bytes
from benchmarks.gpu_day.lines import Lines
from benchmarks.lookup_cases import MB, TABLE_SETS
from torchrec_pss.datasets.rows import NUM_DENSE
from torchrec_pss.models import ClickModel, ClickModelConfig

_BESIDE_TABLES = 8 << 30  # bytes: dense layers, activations, the sort of a backward
_GIB = 1 << 30
_COUNTED = 1 << 20  # rows by which the layout is chosen


@dataclass(frozen=True)
class Size:
    """``seconds``: of training, a side. ``every``: steps between two evaluations."""

    rows: list[int]
    shape: ClickModelConfig
    array_bytes: int
    train_rows: int
    test_rows: int
    batch_size: int
    every: int
    seconds: float


FULL_SIZE = Size(
    list(TABLE_SETS["mlperf"]), ClickModelConfig(NUM_DENSE, [512, 256, 128], [1024, 1024, 512, 256, 1]), 10 * MB,
    train_rows=24_000_000, test_rows=400_000, batch_size=16384, every=100, seconds=60,
)  # fmt: skip
DRY_SIZE = Size(
    [min(n, 200) for n in TABLE_SETS["mlperf"]], ClickModelConfig(NUM_DENSE, [16, 8], [8, 1]), 60_000,
    train_rows=1024, test_rows=512, batch_size=256, every=2, seconds=60,
)  # fmt: skip


def train(name: str, size: Size, data: ClickRows, done: Lines) -> dict:
    """One pass over the rows, or as many steps as `Size.seconds` allow; evaluations are not counted in. Each is a line of its own too, so
    that a run that is cut keeps its curve."""
    device = data.dense.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        ids = data.ids[:, : min(_COUNTED, size.train_rows)]
        model, optimizer, embedding_bytes = side(name, size.rows, size.shape, size.array_bytes, ids, size.batch_size)
    except (ImportError, OSError) as error:
        return {"left_out": f"FBGEMM: {error}"[:300]}
    curve, seconds, steps = [], 0.0, 0
    while seconds < size.seconds and (steps + 1) * size.batch_size <= size.train_rows:
        started = time.perf_counter()
        for _ in range(min(size.every, size.train_rows // size.batch_size - steps)):
            loss, _ = model(data.batch(steps * size.batch_size, size.batch_size))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
        _wait(device)
        seconds += time.perf_counter() - started
        if not curve:  # the first steps compile
            first = seconds, steps
        curve.append([steps, _auroc(model, size, data)])
        done.add(f"{name}, step {steps}", auroc=curve[-1][1], training_seconds=seconds)
        print(
            f"{name}: step {steps}, AUROC {curve[-1][1]:.5f}, {steps * size.batch_size / seconds:.0f} samples/s",
            flush=True,
        )
    found = {"embedding_bytes": embedding_bytes, "steps": steps, "curve": curve, "auroc": curve[-1][1]}
    if steps > first[1]:
        found["samples_per_second"] = (steps - first[1]) * size.batch_size / (seconds - first[0])
    if device.type == "cuda":
        found["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
    return found


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


@torch.no_grad()
def _auroc(model: ClickModel, size: Size, data: ClickRows) -> float:
    """Of the rows behind those that are trained on."""
    model.eval()
    parts = []
    for first in range(size.train_rows, len(data), size.batch_size):
        batch = data.batch(first, min(size.batch_size, len(data) - first))
        parts.append(model(batch)[1][1])
    model.train()
    logits = torch.cat(parts).double()
    return float(binary_auroc(torch.sigmoid(logits), data.labels[size.train_rows :].long()))


def lacking(size: Size, device: str) -> str | None:
    """Why full tables do not fit; None where they do. Of a CPU nothing is asked."""
    if device == "cpu":
        return None
    needed = table_bytes(size.rows, size.shape.dense_arch_layer_sizes[-1]) + _BESIDE_TABLES
    free, _ = torch.cuda.mem_get_info()
    if free >= needed:
        return None
    return f"full tables need {needed / _GIB:.1f} GiB of device memory, and {free / _GIB:.1f} are free"


def main() -> int:
    args = part_flags.parse(__doc__)
    size = DRY_SIZE if args.dry_run else FULL_SIZE
    names = [name for name in SIDES if not args.done.is_done(name)]
    if names:
        started = time.perf_counter()
        data = generated(size.rows, size.train_rows + size.test_rows, args.device, 0 if args.dry_run else None)
        print(f"{len(data):,} rows were made in {time.perf_counter() - started:.1f} s", flush=True)
    for name in names:
        why = lacking(size, args.device) if name == FULL else None
        if why:
            args.done.add(name, left_out=why)
            print(f"{name}: left out, {why}", flush=True)
            continue
        args.done.run(name, partial(train, name, size, data, args.done))
        gc.collect()
        if args.device == "cuda":
            torch.cuda.empty_cache()
    return int(args.done.failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
