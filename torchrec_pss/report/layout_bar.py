"""`drawn_layout`: the array as a bar, with a lane for each table that shows which part of it the table reads; as SVG."""

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torchrec_pss import json_fields as fields

# What a part of the array is to the table that reads it; also the class of its rectangles.
KINDS = {
    "exact": "exact: every row has elements of its own",
    "prefix": "prefix: the first coordinates of every row",
    "hot": "hot: rows that are read often, each with elements of its own",
    "shared": "shared: hashed, rows meet here",
}
COLORS = {"exact": "#0072b2", "prefix": "#56b4e9", "hot": "#e69f00", "shared": "#009e73"}  # Okabe and Ito's
_NAMES = 30  # percent of the width
_LANE, _BAR = 18, 34  # pixels of height
_THINNEST = 0.4  # percent of the width, to be seen

_table = fields.fields(others=lambda value, place: None, width=fields.count, prefix=fields.count)
_places = fields.present(**dict.fromkeys(("first", "block", "slots", "rows", "base", "hot_rows", "hot_base"), fields.count))  # fmt: skip
_check = fields.fields(
    others=lambda value, place: None, numel=fields.count, shared_numel=fields.count, tables=fields.values(_table)
)


def check(value: object, place: str) -> None:
    """A fingerprint as `ArrayLayout.fingerprint` makes it, in what is drawn of it; a check of `torchrec_pss.json_fields`."""
    _check(value, place)
    assert isinstance(value, dict)  # it would not have passed
    for name, table in value["tables"].items():
        _places(table, f"{place}.tables.{name}")


@dataclass(frozen=True)
class Place:
    """Elements ``[first, stop)`` of the array that a table reads, and what they are to it (a key of `KINDS`)."""

    kind: str
    first: int
    stop: int


def places(table: Mapping[str, Any], shared_numel: int) -> list[Place]:
    """Where a table is, from its entry in a fingerprint; in ascending order, and empty places left out."""
    width, prefix = table["width"], table["prefix"]
    found = []
    if prefix < width:
        first, numel = table.get("first", 0), table.get("slots", 0) * table.get("block", 0)
        # Without slices, and for "robe", the region is all that is shared.
        found.append(Place("shared", first, min(first + numel, shared_numel) if numel else shared_numel))
    if prefix:
        base = table.get("base", 0)
        found.append(Place("exact" if prefix == width else "prefix", base, base + table.get("rows", 0) * prefix))
    if table.get("hot_rows"):
        base = table.get("hot_base", 0)
        found.append(Place("hot", base, base + table["hot_rows"] * (width - prefix)))
    return sorted((p for p in found if p.stop > p.first), key=lambda p: p.first)


def kinds_of(layout: Mapping[str, Any]) -> list[str]:
    """The keys of `KINDS` that a layout has, in their order."""
    found = {p.kind for table in layout["tables"].values() for p in places(table, layout["shared_numel"])}
    return [kind for kind in KINDS if kind in found]


def drawn_layout(layout: Mapping[str, Any], width: str = "100%") -> str:
    """A layout as SVG: on top the whole array, below it a lane a table, in the order of where they begin.

    Args:
        layout: `ArrayLayout.fingerprint`'s, or ``layout`` of a run's results.json.
        width: of the drawing; all places are shares of it, and text keeps its size.

    Returns:
        An ``<svg>`` element without scripts or links. Text has the color of the CSS variable ``--ink`` where the page has one.
    """
    numel = max(layout["numel"], 1)
    tables = {name: places(table, layout["shared_numel"]) for name, table in layout["tables"].items()}
    ordered = sorted(tables, key=lambda name: min((p.first for p in tables[name]), default=0))
    height = _BAR + _LANE * len(ordered) + 22
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="layout" shape-rendering="crispEdges" role="img" aria-label="the array and its tables" width="{width}" height="{height}">',
        "<style>" + "".join(f".layout .{k}{{fill:{c}}}" for k, c in COLORS.items()),
        ".layout text{font:12px sans-serif;fill:var(--ink,#777)}.layout .all{fill:#8884}</style>",
        f'<text x="0" y="15">{layout["numel"]:,} elements</text>',
        _rectangle("all", "", 0, layout["numel"], numel, 0, 20, least=0),
    ]
    # Of what many tables share, one rectangle on top.
    for place in dict.fromkeys(p for of_table in tables.values() for p in of_table):
        parts.append(_rectangle(place.kind, "", place.first, place.stop, numel, 0, 20, least=0))
    for lane, name in enumerate(ordered):
        top = _BAR + lane * _LANE
        parts.append(f"<g><title>{html.escape(_told(name, tables[name]))}</title>")
        parts.append(f'<text x="0" y="{top + 12}">{html.escape(_short(name))}</text>')
        parts.append(_rectangle("all", "", 0, layout["numel"], numel, top + 7, 2, least=0))
        parts += [_rectangle(p.kind, name, p.first, p.stop, numel, top + 2, 12) for p in tables[name]]
        parts.append("</g>")
    bottom = height - 6
    parts.append(f'<text x="{_NAMES}%" y="{bottom}">first element</text>')
    parts.append(f'<text x="100%" y="{bottom}" text-anchor="end">last</text></svg>')
    return "\n".join(parts)


def _rectangle(
    kind: str, table: str, first: int, stop: int, numel: int, top: int, height: int, least: float = _THINNEST
) -> str:
    scale = (100 - _NAMES) / numel
    width = max((stop - first) * scale, least)
    x = min(_NAMES + first * scale, 100 - width)
    told = f' data-table="{html.escape(table)}"' if table else ""
    return f'<rect class="{kind}"{told} x="{x:.4g}%" y="{top}" width="{width:.4g}%" height="{height}"/>'


def _told(name: str, of_table: list[Place]) -> str:
    return f"{name}: " + "; ".join(f"{p.kind}, elements {p.first:,} to {p.stop - 1:,}" for p in of_table)


def _short(name: str, most: int = 14) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
