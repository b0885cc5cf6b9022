"""Command lines: numbers by the table of `torchrec_pss.ranges`, files of plots, and mistakes in one line."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from torchrec_pss.launcher_error import tell_launcher
from torchrec_pss.ranges import RANGES, Range

_BAD_INPUT = 2  # exit status


class Number:
    """An argparse type: text to a number of a range, or one of some words."""

    def __init__(self, range_: Range[int] | Range[float], words: Sequence[str] = ()) -> None:
        self.range = range_
        self._words = words

    def __call__(self, text: str) -> int | float | list[int] | list[float] | str:
        if text in self._words:
            return text
        try:
            return self.range.parsed(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None


def plot_path(text: str) -> Path:
    """An argparse type: a file that matplotlib can draw into, known before there is anything to draw.

    Raises:
        argparse.ArgumentTypeError: matplotlib is missing, or has no such format.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError as error:
        raise argparse.ArgumentTypeError("needs matplotlib: pip install 'torchrec_pss[examples]'") from error
    path, formats = Path(text), sorted(FigureCanvasAgg.get_supported_filetypes())
    if path.suffix and path.suffix[1:].lower() not in formats:
        raise argparse.ArgumentTypeError(f"must end in one of {', '.join(formats)}, got {text!r}")
    return path


class Parser(argparse.ArgumentParser):
    """argparse's, but a mistake is one line ``error: ...`` and exit status 2, without the usage of sixty flags."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        # argparse takes "-inf" and "-4,16" for options, and would not say what was given.
        self._negative_number_matcher = re.compile(r"-(\d|\.\d|inf|nan)", re.IGNORECASE)

    def error(self, message: str) -> NoReturn:
        """Ends the program."""
        named = re.sub(r"^argument (\S+): must", r"\1 must", message)
        print(f"error: {named}", file=sys.stderr)
        tell_launcher(f"error: {named}")
        raise SystemExit(_BAD_INPUT)


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults beside what each flag does, unless the text says them; examples as they are written."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        says = action.default is None or action.default is False or "default" in (action.help or "")
        return action.help if says else super()._get_help_string(action)


def command_parser(command: str, text: str) -> Parser:
    """Of ``torchrec-pss COMMAND``.

    Args:
        command: its name.
        text: of its module: the first line says what it does, lines that are indented are examples.
    """
    examples = [line for line in text.splitlines() if line.startswith("    ")]
    return Parser(
        prog=f"torchrec-pss {command}",
        description=text.strip().splitlines()[0],
        epilog="examples:\n" + "\n".join(line[2:] for line in examples),
        formatter_class=_Help,
    )


def add_number(parser: argparse._ActionsContainer, flag: str, words: Sequence[str] = (), **named: Any) -> None:
    """`add_argument` of a flag whose name is in `RANGES`.

    Args:
        parser: a parser, or a group of one.
        flag: ``--name``.
        words: that it may have instead of a number; they belong to ``choices``, too.
        named: of `add_argument`, but no ``type``.
    """
    parser.add_argument(flag, type=Number(RANGES[flag.removeprefix("--")], words), **named)
