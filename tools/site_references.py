"""A griffe extension: a public name in a docstring, in backticks, becomes a link to its entry; arguments that share a line have one each."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

sys.path.insert(0, str(Path(__file__).parent))
from site_docstrings import BESIDES, PARTS, at, defined

_NAME = re.compile(r"(?<![`\[\w])`(\w+)`(?![`\]\w])")

_SECTION = re.compile(r"(\s*)(Args|Attributes|Raises):$")
_SHARED = re.compile(r"(\s+)((?:\*{0,2}\w+, )+\*{0,2}\w+): ")


class References(griffe.Extension):
    """For mkdocstrings, which the site's build hands the package to."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Rewrites the docstrings of a package."""
        if pkg.path == "torchrec_pss":
            _rewrite(pkg, _public(pkg))


def _public(package: griffe.Module) -> dict[str, str]:
    """Where names have their entries; of two that are equal, the first part's."""
    found: dict[str, str] = {}
    for part in PARTS:
        for name in map(str, at(package, part).exports or ()):
            found.setdefault(name, defined(package, f"{part}.{name}"))
    besides = (f"{package.path}.{path}" for paths in BESIDES.values() for path in paths)
    return {path.rpartition(".")[2]: path for path in besides} | found


def _rewrite(found: griffe.Object, public: dict[str, str]) -> None:
    if found.docstring:
        own = found.path

        def link(match: re.Match) -> str:
            path = public.get(match[1])
            return match[0] if path is None or own == path or own.startswith(f"{path}.") else f"[{match[0]}][{path}]"

        found.docstring.value = "\n".join(_one_each(_NAME.sub(link, found.docstring.value).split("\n")))
    for member in found.members.values():
        if not member.is_alias:
            _rewrite(member, public)


def _one_each(lines: list[str]) -> Iterator[str]:
    """Lines of a docstring with ``a, b: text`` in its sections written as ``a: text`` and ``b: text``."""
    section = None
    while lines:
        line = lines.pop(0)
        if begins := _SECTION.match(line):
            section = len(begins[1])
        elif line.strip() and section is not None and _indent(line) <= section:
            section = None
        shared = _SHARED.match(line) if section is not None else None
        if shared is None:
            yield line
            continue
        rest = []
        while lines and lines[0].strip() and _indent(lines[0]) > len(shared[1]):
            rest.append(lines.pop(0))
        for name in shared[2].split(", "):
            yield from (f"{shared[1]}{name}: {line[shared.end() :]}", *rest)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
