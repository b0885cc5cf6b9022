"""``torchrec-pss COMMAND``: every command of the package under one name."""

import argparse
import logging
import sys
import warnings
from importlib import import_module

from torchrec_pss.flags import Parser
from torchrec_pss.version import __version__

COMMANDS = {
    "advise": "what AUROC an array of so many bytes is likely to cost, before training",
    "doctor": "what is installed, which kernels are active, and what to do about what is wrong",
    "export": "a trained model as one file that serves it",
    "plan": "what the planner would do with these tables on that cluster",
    "prepare": "reads click logs once into files that training maps into memory",
    "report": "a page about training runs",
    "schema": "writes a schema for a log of your own, from its first rows",
}  # each is torchrec_pss.<command>.__main__, and so python -m torchrec_pss.<command>, too

_OTHERS = r"(torch|torchrec|fbgemm_gpu|tensordict|torchmetrics)(\.|$)"  # their warnings would bury our lines


def main(argv: list[str] | None = None) -> int:
    """Runs a command; what it returns is the exit status."""
    parser = Parser(
        prog="torchrec-pss",
        description="One small shared array in place of TorchRec's embedding tables.",
        epilog="commands:\n"
        + "\n".join(f"  {name:9}{text}" for name, text in COMMANDS.items())
        + "\n\nexample: torchrec-pss plan --tables mlperf --world_size 8 --array_bytes 10MB",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"torchrec_pss {__version__}")
    parser.add_argument("command", choices=list(COMMANDS), metavar="COMMAND", help="one of those below")
    given = sys.argv[1:] if argv is None else argv
    command = parser.parse_args(given[:1]).command
    logging.basicConfig(format="%(message)s")
    logging.getLogger("torchrec_pss.datasets").setLevel(logging.INFO)  # how far reading is
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module=_OTHERS)
    return import_module(f"torchrec_pss.{command}.__main__").main(given[1:]) or 0


if __name__ == "__main__":
    raise SystemExit(main())
