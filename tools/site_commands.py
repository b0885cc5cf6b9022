"""The page of command lines is made of the parsers themselves, so that no flag is missing on it and no default is old."""

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
_MARK = "<!-- all commands -->"


class _Captured(Exception):
    """A parser, in place of what its command would have done."""


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Puts all commands where a page has their mark."""
    if _MARK not in markdown:
        return markdown
    return markdown.replace(_MARK, "\n\n".join(_section(name, parser) for name, parser in parsers().items()))


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Of every command, by what is typed to start it."""
    sys.path[:0] = [str(ROOT), str(ROOT / "examples")]
    # Imported by a script, threads.py and torch read these; and nothing here is a rank of a launcher's.
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", "set")
    from torchrec_pss.commands import COMMANDS

    mains = {f"torchrec-pss {name}": f"torchrec_pss.{name}.__main__" for name in COMMANDS}
    with warnings.catch_warnings(action="ignore"):  # of what TorchRec and FBGEMM import
        found = {name: _captured(import_module(module).main) for name, module in mains.items()}
        found["train_criteo.py"] = import_module("criteo_flags").parser()
        found["train_interactions.py"] = _captured(import_module("train_interactions").main)
    return found


def _captured(main: Callable[[list[str]], object]) -> argparse.ArgumentParser:
    from torchrec_pss.flags import Parser

    def captured(self: argparse.ArgumentParser, *_: object) -> None:
        raise _Captured(self)

    with patch.object(Parser, "parse_args", captured):
        try:
            main([])
        except _Captured as parser:
            return parser.args[0]
    raise RuntimeError(f"{main} has no parser of torchrec_pss.flags")


def _section(name: str, parser: argparse.ArgumentParser) -> str:
    parts = [f"## {name}", _text(parser.description or "")]
    if parser.epilog:
        examples = [line.strip() for line in parser.epilog.splitlines() if line.startswith("  ")]
        parts.append("\n".join(["```", *examples, "```"]))
    for title, actions in _groups(parser):
        parts += [f"### {name.removesuffix('.py')}: {title}"] if title else []
        parts.append("\n".join(["| argument | value | default | |", "|---|---|---|---|", *map(_row, actions)]))
    return "\n\n".join(parts)


def _groups(parser: argparse.ArgumentParser) -> Iterator[tuple[str, list[argparse.Action]]]:
    """Arguments that belong together; those without a group of their own are one, and have no title."""
    plain: dict[str, list[argparse.Action]] = {"": []}
    for group in parser._action_groups:
        title = "" if group in (parser._positionals, parser._optionals) else group.title or ""
        actions = [a for a in group._group_actions if a.help != argparse.SUPPRESS and a.dest != "help"]
        plain.setdefault(title, []).extend(actions)
    return ((title, actions) for title, actions in plain.items() if actions)


def _row(action: argparse.Action) -> str:
    names = ", ".join(f"`{name}`{{.flag}}" for name in action.option_strings) or f"`{action.metavar or action.dest}`"
    default = "" if action.default in (None, False) or action.default == argparse.SUPPRESS else f"`{action.default}`"
    if action.required and action.option_strings:
        default = "required"
    help_ = (action.help or "") % {"default": action.default}
    return f"| {names} | {', '.join(_values(action))} | {default} | {_text(help_)} |"


def _values(action: argparse.Action) -> Iterator[str]:
    """What an argument may be."""
    from torchrec_pss.flags import Number, plot_path

    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        return
    if action.choices:
        yield from (f"`{choice}`" for choice in action.choices)
    elif isinstance(action.type, Number):
        range_ = action.type.range
        low, high = map(_end, (range_.low, range_.high))
        between = f"between {low} and {high}" if range_.open else f"{low} to {high}"
        yield ("bytes, or as 10MB" if range_.is_size else between) + (", several by commas" if range_.is_list else "")
    else:
        yield "path" if action.type in (Path, plot_path) or "path" in action.dest else "text"


def _end(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:.3g}"


def _text(plain: str) -> str:
    """Words of a help as Markdown."""
    for character in "\\|<*_":
        plain = plain.replace(character, f"\\{character}")
    return plain
