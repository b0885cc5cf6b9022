"""Part `lookup`: every problem's times against FBGEMM's TBE and a copy of as many bytes."""

import gc
from functools import partial

import torch

from benchmarks.gpu_day import part_flags
from benchmarks.gpu_day.measure import measure
from benchmarks.gpu_day.problems import DRY, PROBLEMS, Problem


def main() -> int:
    args = part_flags.parse(__doc__)
    for problem in DRY if args.dry_run else PROBLEMS:
        args.done.run(problem.name, partial(_measured, problem, 1 if args.dry_run else 15, args.device))
    return int(args.done.failed > 0)


def _measured(problem: Problem, repeats: int, device: str) -> dict:
    try:
        return measure(problem, repeats, device)
    finally:
        if device == "cuda":
            gc.collect()
            torch.cuda.empty_cache()  # tables of tens of gigabytes, and the next problem's


if __name__ == "__main__":
    raise SystemExit(main())
