"""What checksums and the check of finite values cost: `save_checkpoint` and `load_checkpoint` beside `torch.distributed.checkpoint`'s own.

python -m benchmarks.bench_checkpoint [--gigabytes 2] [--repeats 5] [--threads 1] [--folder DIR]
"""

import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp

from torchrec_pss.distributed import add_checksums, check_checkpoint, load_checkpoint, require_finite
from torchrec_pss.flags import Parser, add_number

_TENSORS = 32


def seconds(function: Callable, *args: object) -> float:
    os.sync()  # what others have left to write
    started = time.perf_counter()
    function(*args)
    return time.perf_counter() - started


def dcp_save(state: dict, folder: Path) -> None:
    dcp.save(state, checkpoint_id=folder)


def dcp_load(state: dict, folder: Path) -> None:
    dcp.load(state, checkpoint_id=folder)


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    add_number(parser, "--gigabytes", default=2.0)
    add_number(parser, "--repeats", default=5)
    add_number(parser, "--threads", default=1)
    parser.add_argument("--folder", help="on the disk in question (default: the temporary one)")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    state = {f"tensor {n}": torch.randn(int(args.gigabytes * 1e9 / 4 / _TENSORS)) for n in range(_TENSORS)}
    times: dict[str, list[float]] = {}
    for _ in range(args.repeats):
        with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
            folder = Path(scratch) / "checkpoint"
            steps = {
                "DCP saves": (dcp_save, state, folder),
                "are all values finite": (require_finite, state),
                "checksums are written": (add_checksums, folder),
                "DCP loads": (dcp_load, state, folder),
                "checksums are checked": (check_checkpoint, folder),
                "`load_checkpoint`, check and all": (load_checkpoint, state, folder),
            }
            for name, call in steps.items():
                times.setdefault(name, []).append(seconds(*call))
    found = {name: statistics.median(values) for name, values in times.items()}
    print("| | seconds | of DCP's own |\n|---|---|---|")
    for name, value in found.items():
        own = found["DCP saves" if name in list(found)[:3] else "DCP loads"]
        print(f"| {name} | {value:.2f} | {value / own:.2f} |")


if __name__ == "__main__":
    main()
