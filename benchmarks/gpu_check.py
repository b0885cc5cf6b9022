"""Verifies the Triton kernels on a real GPU, and times them against FBGEMM's TBE and against a copy of as many bytes.

    python -m benchmarks.gpu_check [--configurations 500] [--processes 8] [--json FILE]

1. Random configurations against the reference on the CPU: output, every gradient, every fused update, and the same sums by sorting.
   Nearly each of them compiles kernels of its own, which is what takes the time: hence the processes.
2. Addresses, bit for bit: an array that holds its own indices is read by CPU and GPU.
3. A whole step captured in a CUDA graph and replayed equals the steps without one.
4. Times, medians, in turn, over batches that differ. ``copy`` copies what the output and the elements read take. Against FBGEMM (left
   out where it is not installed): how long the GPU is busy, on both sides; ours replayed as a CUDA graph; and both as Python runs
   them, where the host is what small batches wait for. Above 1: ours is faster.

Without a GPU, ``--interpret`` does 1 and 2 in Triton's interpreter (a test runs it), which shows that the script is sound, no more.
`python -m benchmarks.gpu_day` does this and much more, resumably.
"""

import functools
import multiprocessing
import os
import sys
from pathlib import Path

import torch
from tqdm import tqdm

_INTERPRET = "--interpret" in sys.argv
if _INTERPRET:
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported

from benchmarks.gpu_day.configurations import address_seeds, suitable, verify_addresses, verify_case  # noqa: E402
from benchmarks.gpu_day.measure import TABLE_HEAD, measure, row_of  # noqa: E402
from benchmarks.gpu_day.problems import CASES  # noqa: E402
from benchmarks.gpu_day.steps import verify_graph  # noqa: E402
from torchrec_pss.flags import Parser, add_number  # noqa: E402
from torchrec_pss.whole_file import write_json  # noqa: E402


def verify(number: int, device: str, processes: int) -> None:
    """Raises AssertionError at the first configuration that differs."""
    seeds = suitable(number, device)
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        found = pool.imap_unordered(functools.partial(verify_case, device=device), seeds)
        for _ in tqdm(found, "configurations", len(seeds), mininterval=5):
            pass


def main() -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    add_number(parser, "--configurations", default=500)
    add_number(parser, "--processes", default=min(os.cpu_count(), 16), help="that compile and verify")
    add_number(parser, "--repeats", default=20)
    parser.add_argument("--interpret", action="store_true", help="verify in Triton's interpreter; time nothing")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if not args.interpret and not torch.cuda.is_available():
        parser.error("there is no GPU; --interpret verifies without one")
    import triton

    device = "cpu" if args.interpret else "cuda"
    name = "Triton's interpreter" if args.interpret else torch.cuda.get_device_name()
    print(f"{name}; torch {torch.__version__}, triton {triton.__version__}")
    report = {"device": name, "torch": torch.__version__, "triton": triton.__version__}
    report["configurations"] = args.configurations
    verify(args.configurations, device, args.processes)
    print(f"{report['configurations']} configurations equal the reference")
    seeds = address_seeds(max(args.configurations // 10, 1), device)
    report["addresses"] = sum(verify_addresses(seed, device) for seed in seeds)
    print(f"{report['addresses']} addresses equal the CPU's, bit for bit")
    if not args.interpret:
        report["graph_difference"] = verify_graph()
        print(f"CUDA graph: replayed steps equal, largest difference {report['graph_difference']:.1e}")
        report["cases"] = [measure(case, args.repeats) for case in tqdm(CASES, "cases")]
        for note in sorted({note for case in report["cases"] for note in case["notes"]}):
            print(note, file=sys.stderr)
        print(TABLE_HEAD, *map(row_of, report["cases"]), sep="\n")
    if args.json:
        write_json(args.json, report)


if __name__ == "__main__":
    main()
