"""`guess`: a schema for Parquet, or text with a header, from a look at its first rows; for a person to correct."""

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from torchrec_pss.datasets.column_checks import odd_columns
from torchrec_pss.datasets.criteo_dialect import first_lines, header_of
from torchrec_pss.datasets.criteo_lines import split_line
from torchrec_pss.datasets.label_values import advice
from torchrec_pss.datasets.locations import AnyPath, Location, location
from torchrec_pss.datasets.parquet_files import first_columns, is_parquet, partition_keys
from torchrec_pss.datasets.table_list import check_name

_LINES = 20_000
_LABELS = ("label", "click", "clicked", "is_click", "target", "y", "conversion", "converted", "purchase")
_GRADES = ("rating", "ratings", "stars", "score", "grade")  # labels of other tasks
_NUMBER = re.compile(rb"-?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_COUNTED = re.compile(
    r"^i\d+$|^int_|count|^num_|_num$|price|amount|age$|score|rate$|ratio|duration|length", re.IGNORECASE
)
_TIME = re.compile(r"(^|_)(hour|time|date|day|timestamp|ts)($|_)", re.IGNORECASE)
_DATE = re.compile(rb"\d{4}[-/.]\d\d[-/.]\d\d")
_ONE_A_ROW = 0.95  # of the rows, distinct values: it names rows
_OWN = "left out: nearly every row has its own"
_SEPARATORS = (b"|", b";", b",", b"^")
_OFTEN = 0.2  # of the values, that hold one


@dataclass(frozen=True)
class Seen:
    """What a column showed. ``role``: "label", "dense", "sparse", "bags", or why it is left out. ``separator``: of bags in text. ``warning``: what is
    wrong with it, or nothing."""

    name: str
    role: str
    distinct: int
    empty: float
    separator: str = ""
    warning: str = ""


def guess(path: AnyPath, label: str | None = None) -> tuple[list[Seen], int]:
    """Of each column, and of how many rows.

    Raises:
        FileNotFoundError, ValueError: see `Dialect`; a column that is there twice; no column of 0 and 1, or several and none is named as labels
            are; no column to embed; names them.
    """
    path = location(path)
    found: dict[str, Any] = first_columns(path, _LINES) if is_parquet(path) else _columns_of_text(path)
    lists = {name: found.pop(name) for name in list(found) if any(isinstance(v, list) for v in found[name])}
    columns: dict[str, list[bytes]] = found
    label = label or _label_of(path, columns)
    if label not in columns:
        raise ValueError(f"data file {path} has no column {label!r}; there are {', '.join(columns)}")
    other = set(columns[label]) - {b"0", b"1"}
    if other:
        shown = min(other).decode("utf-8", "replace")[:40]
        raise ValueError(
            f"data file {path}: the label {label!r} is {shown!r} somewhere, and must be 0 or 1: {advice(set(columns[label]))}"
        )
    seen = [_seen(name, column, name == label) for name, column in columns.items()]
    seen += [_seen_lists(name, column) for name, column in lists.items()]
    keys = partition_keys(path) if is_parquet(path) else []
    seen += [
        Seen(
            key,
            f"left out: it divides the folder, and may divide the rows, split: {{column: {key}, val: [...], test: [...]}}",
            1,
            0.0,
        )
        for key in keys
    ]
    if not any(s.role in ("sparse", "bags") for s in seen):
        raise ValueError(f"data file {path}: no column looks like tokens or ids, and there is nothing to embed")
    warnings = _warnings(seen, columns, label)
    return [replace(s, warning=warnings.get(s.name, "")) for s in seen], len(columns[label])


def _warnings(seen: list[Seen], columns: dict[str, list[bytes]], label: str) -> dict[str, str]:
    """By column, see `odd_columns`; of those that are left out, whether they have one value."""
    labels = np.array([value == b"1" for value in columns[label]])
    dense = {s.name: np.array([float(v or 0) for v in columns[s.name]]) for s in seen if s.role == "dense"}
    constant = [s.name for s in seen if s.role != "label" and s.distinct < 2 and s.name in columns]
    sparse = {name: _codes(columns[name]) for name in [s.name for s in seen if s.role == "sparse"] + constant}
    return {odd.name: str(odd) for odd in odd_columns(labels, dense, sparse)}


def _codes(tokens: list[bytes]) -> np.ndarray:
    """A number for each distinct token: as an array they would all be as long as the longest."""
    codes: dict[bytes, int] = {}
    return np.array([codes.setdefault(token, len(codes)) for token in tokens])


def _columns_of_text(path: Location) -> dict[str, list[bytes]]:
    lines = first_lines(path, _LINES + 1)
    delimiter, names = header_of(path, lines)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"data file {path}: the column {twice!r} is there twice")
    rows = [split_line(line, delimiter, len(names)) for line in lines[1:] if line.strip()]
    rows = [row for row in rows if len(row) == len(names)]
    if not rows:
        raise ValueError(f"data file {path} has no line of as many fields as its header, {len(names)}")
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def _label_of(path: Location, columns: dict[str, list[bytes]]) -> str:
    may = [name for name, column in columns.items() if set(column) == {b"0", b"1"}]
    named = [name for wanted in _LABELS for name in may if name.lower() == wanted]
    if named:
        return named[0]
    # One that is named so, and of another kind, is rather meant than some flag.
    other = [
        name for wanted in _LABELS for name in columns if name.lower() == wanted and set(columns[name]) - {b"0", b"1"}
    ]
    if len(may) == 1 and not other:
        return may[0]
    found = f"{', '.join(may)} {'are' if len(may) > 1 else 'is'}" if may else "no column is"
    other += [name for name in columns if name.lower() in _GRADES and not may]
    if other:
        raise ValueError(
            f"data file {path}: {found} 0 and 1 in its first lines, and {other[0]!r} is named as labels are: "
            f"{advice(set(columns[other[0]]))}, or --label says which"
        )
    raise ValueError(
        f"data file {path}: {found} 0 and 1 in its first lines, and none is named as labels are: --label says which"
    )


def _seen(name: str, column: list[bytes], is_label: bool) -> Seen:
    values = set(column)
    role = "label" if is_label else _role(name, values, len(column))
    separator = _separator(values) if role == "sparse" or role.startswith(_OWN) else None
    if separator is not None:
        pieces = [piece for value in column for piece in value.split(separator) if piece]
        role, values = _role_of_lists(name, set(pieces), len(pieces)), set(pieces)
    return Seen(name, role, len(values), column.count(b"") / len(column), (separator or b"").decode())


def _seen_lists(name: str, column: list[list[bytes]]) -> Seen:
    values = {value for row in column for value in row}
    role = _role_of_lists(name, values, sum(map(len, column)))
    return Seen(name, role, len(values), column.count([]) / len(column))


def _role_of_lists(name: str, values: set[bytes], number: int) -> str:
    role = _role(name, values, number)
    if role == "dense":
        return f"left out: lists of numbers; are they weights of a bag, bags: {{...: {{weights: {name}}}}}"
    return "bags" if role == "sparse" or role.startswith(_OWN) else role


def _separator(values: set[bytes]) -> bytes | None:
    """What divides a good part of the values into pieces of which there are fewer than of them."""
    filled = values - {b""}
    for separator in _SEPARATORS:
        pieces = [value.split(separator) for value in filled]
        several = sum(len(p) > 1 for p in pieces)
        if several >= _OFTEN * len(filled) and len({piece for p in pieces for piece in p}) < len(filled):
            return separator
    return None


def _role(name: str, values: set[bytes], rows: int) -> str:
    filled = values - {b""}
    if len(values) < 2:
        return "left out: it has one value"
    if _TIME.search(name) or all(_DATE.match(value) for value in filled):
        return "left out: it is a time, and later ones are new"
    numbers = all(len(value) < 64 and _NUMBER.fullmatch(value) for value in filled)
    fractions = numbers and any(not value.lstrip(b"-").isdigit() for value in filled)
    if fractions or (numbers and _COUNTED.search(name)):
        return "dense"
    if len(values) >= max(_ONE_A_ROW * rows, 2) and rows >= 100:
        return _OWN
    try:
        check_name(f"t_{name}")
    except ValueError as error:
        return f"left out: {error}; rename it in the file"
    return "sparse"


def as_yaml(seen: list[Seen], rows: int, path: Location) -> str:
    """A file that `Schema.read` reads, with what was seen as comments."""
    of = {role: [s for s in seen if s.role == role] for role in ("label", "dense", "sparse", "bags")}

    def comment(s: Seen) -> str:
        empty = f", {s.empty:.0%} empty" if s.empty else ""
        return f"  # {s.distinct:,} values{empty}" + (f". Warning: {s.warning}" if s.warning else "")

    lines = [
        f"# Guessed from the first {rows:,} rows of {path.name}: look it through.",
        f"label: {_quoted(of['label'][0].name)}",
        "dense:  # numbers; log: sign(x) log(1 + |x|), or none",
        *(f"  {_quoted(s.name)}: log{comment(s)}" for s in of["dense"]),
        "sparse:  # tokens or ids: a table each",
        *(f"  - {_quoted(s.name)}{comment(s)}" for s in of["sparse"]),
    ]  # fmt: skip
    if not of["dense"]:
        lines[2] = "dense: {}"
    if not of["sparse"]:
        lines.remove("sparse:  # tokens or ids: a table each")
    if of["bags"]:
        lines.append("bags:  # several of them a row")
        lines += [f"  {_quoted(s.name)}: {_of_bag(s)}{comment(s)}" for s in of["bags"]]
    left_out = [s for s in seen if s.role not in of]
    lines += [f"# {_printable(s.name)}: {s.role} ({s.distinct:,} of {rows:,})" for s in left_out]
    return "\n".join(lines) + "\n"


def _of_bag(seen: Seen) -> str:
    return f"{{separator: '{seen.separator}'}}" if seen.separator else "{}"


def _printable(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name)


def _quoted(name: str) -> str:
    """YAML reads some words as other than text: y, no, 1."""
    return name if re.fullmatch(r"[A-Za-z_]\w*", name) and name.lower() not in ("y", "n", "yes", "no", "on", "off", "true", "false", "null") else f"'{name.replace(chr(39), chr(39) * 2)}'"  # fmt: skip
