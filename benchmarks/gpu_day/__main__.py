"""A day's work on a GPU in one command, in the order of its value, resumable.

    python -m benchmarks.gpu_day --minutes 25
    python -m benchmarks.gpu_day --minutes 9 --only correctness,lookup
    python -m benchmarks.gpu_day --dry-run

A part ends at its own limit or at that of the call, and keeps what it has finished. A further call goes on there. Exit status: 0 where
all parts that ran have passed, 1 where one has failed, 3 where one was cut or not begun.
"""

import argparse
import importlib
import os
import resource
import signal
import sys
from pathlib import Path

from torchrec_pss.flags import Parser, add_number

_TERMINATED = 128 + signal.SIGTERM
_FORKED_FROM = ("torchrec.distributed.model_parallel", "torch.distributed.checkpoint", "torchmetrics.classification",
                "matplotlib.figure", "torchrec_pss")  # fmt: skip


def flags(argv: list[str] | None) -> argparse.Namespace:
    """Raises SystemExit, with a reason on stderr."""
    from benchmarks.gpu_day.parts import PARTS

    names = [part.name for part in PARTS]
    parser = Parser(
        prog="python -m benchmarks.gpu_day", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_number(parser, "--minutes", default=25.0, help="of this call (default 25)")
    parser.add_argument(
        "--out", type=Path, help="folder of the day (default runs/gpu_day; runs/gpu_day_dry of a dry run)"
    )
    parser.add_argument("--only", help="parts, separated by commas")
    parser.add_argument("--list", action="store_true", help="say what there is, and end")
    parser.add_argument("--dry-run", action="store_true", help="every part tiny, on the CPU")
    args = parser.parse_args(argv)
    args.only = None if args.only is None else args.only.split(",")
    if unknown := set(args.only or ()) - set(names):
        parser.error(f"--only: there is no part {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    args.out = args.out or Path("runs/gpu_day_dry" if args.dry_run else "runs/gpu_day")
    return args


def main(argv: list[str] | None = None) -> int:
    if "--dry-run" in (sys.argv[1:] if argv is None else argv):
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    args = flags(argv)
    from benchmarks.gpu_day.day import Day, say
    from benchmarks.gpu_day.parts import PARTS

    if args.list:
        for part in PARTS:
            print(f"{part.name:12} {part.seconds:4.0f} s  {part.lacks() or part.says}")
        return 0
    import torch

    if not args.dry_run and not torch.cuda.is_available():
        print("error: there is no GPU; --dry-run runs every part without one", file=sys.stderr)
        return 2
    from benchmarks.gpu_day.machine import described
    from benchmarks.gpu_day.report import Report

    if args.dry_run:
        for name in _FORKED_FROM:
            importlib.import_module(name)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))  # so that the part in hand is ended too
    try:
        report = Report(args.out.resolve(), described(args.dry_run), args.dry_run, args.minutes)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    chosen = [part for part in PARTS if args.only is None or part.name in args.only]
    for part in PARTS:
        if part not in chosen:
            report.leave_out(part, "not in --only")
    status = Day(report, args.minutes * 60, args.dry_run).run(chosen)
    say(f"{report.folder / 'report.md'} says it all")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
