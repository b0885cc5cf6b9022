"""A griffe extension: a public name in a docstring, in backticks, becomes a link to its entry."""

import re
import sys
from pathlib import Path
from typing import Any

import griffe

sys.path.insert(0, str(Path(__file__).parent))
from site_docstrings import BESIDES, PARTS, at, defined

_NAME = re.compile(r"(?<![`\[\w])`(\w+)`(?![`\]\w])")


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

        found.docstring.value = _NAME.sub(link, found.docstring.value)
    for member in found.members.values():
        if not member.is_alias:
            _rewrite(member, public)
