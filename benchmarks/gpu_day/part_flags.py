"""The flags that every part of ours takes."""

import argparse
from pathlib import Path

import torch

from benchmarks.gpu_day.lines import Lines
from torchrec_pss.flags import Parser, add_number


def parse(text: str = __doc__) -> argparse.Namespace:
    """Flags of a part, with ``device`` and the `Lines` of its file.

    Args:
        text: of its module.
    """
    parser = Parser(description=text.split("\n")[0])
    parser.add_argument(
        "--lines", type=Path, required=True, help="JSON lines, one a case; finished cases are not repeated"
    )
    add_number(parser, "--call", default=1, help="number of the day's call")
    parser.add_argument("--dry-run", action="store_true", help="tiny, on the CPU")
    args = parser.parse_args()
    if not args.dry_run and not torch.cuda.is_available():
        parser.error("there is no GPU; --dry-run needs none")
    args.device = "cpu" if args.dry_run else "cuda"
    args.done = Lines(args.lines, args.call)
    return args
