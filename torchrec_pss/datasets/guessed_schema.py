"""`guess`: a schema for Parquet, or text with a header, from a look at its first rows; for a person to correct."""

import re
from dataclasses import dataclass
from pathlib import Path

from torchrec_pss.datasets.criteo_dialect import first_lines, header_of
from torchrec_pss.datasets.criteo_lines import split_line
from torchrec_pss.datasets.locations import location
from torchrec_pss.datasets.parquet_rows import first_columns, is_parquet
from torchrec_pss.datasets.table_list import check_name

_LINES = 20_000
_LABELS = ("label", "click", "clicked", "is_click", "target", "y", "conversion", "converted", "purchase")
_NUMBER = re.compile(rb"-?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_COUNTED = re.compile(
    r"^i\d+$|^int_|count|^num_|_num$|price|amount|age$|score|rate$|ratio|duration|length", re.IGNORECASE
)
_TIME = re.compile(r"(^|_)(hour|time|date|day|timestamp|ts)($|_)", re.IGNORECASE)
_DATE = re.compile(rb"\d{4}[-/.]\d\d[-/.]\d\d")
_ONE_A_ROW = 0.95  # of the rows, distinct values: it names rows


@dataclass(frozen=True)
class Seen:
    """What a column showed. ``role``: "label", "dense", "sparse", or why it is left out."""

    name: str
    role: str
    distinct: int
    empty: float


def guess(path: str | Path, label: str | None = None) -> tuple[list[Seen], int]:
    """Of each column, and of how many rows.

    Raises:
        FileNotFoundError, ValueError: see `Dialect`; a column that is there twice; no column of 0 and 1, or several and none is named as labels
            are; no column to embed; names them.
    """
    path = location(path)
    columns = first_columns(path, _LINES) if is_parquet(path) else _columns_of_text(path)
    label = label or _label_of(path, columns)
    if label not in columns:
        raise ValueError(f"data file {path} has no column {label!r}; there are {', '.join(columns)}")
    other = set(columns[label]) - {b"0", b"1"}
    if other:
        shown = min(other).decode("utf-8", "replace")[:40]
        raise ValueError(f"data file {path}: the label {label!r} is {shown!r} somewhere, and must be 0 or 1")
    seen = [_seen(name, column, name == label) for name, column in columns.items()]
    if not any(s.role == "sparse" for s in seen):
        raise ValueError(f"data file {path}: no column looks like tokens or ids, and there is nothing to embed")
    return seen, len(columns[label])


def _columns_of_text(path: Path) -> dict[str, list[bytes]]:
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


def _label_of(path: Path, columns: dict[str, list[bytes]]) -> str:
    may = [name for name, column in columns.items() if set(column) == {b"0", b"1"}]
    named = [name for wanted in _LABELS for name in may if name.lower() == wanted]
    if named or len(may) == 1:
        return (named or may)[0]
    found = f"{', '.join(may)} are" if may else "no column is"
    raise ValueError(
        f"data file {path}: {found} 0 and 1 in its first lines, and none is named as labels are: --label says which"
    )


def _seen(name: str, column: list[bytes], is_label: bool) -> Seen:
    values = set(column)
    role = "label" if is_label else _role(name, values, len(column))
    return Seen(name, role, len(values), column.count(b"") / len(column))


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
        return "left out: nearly every row has its own"
    try:
        check_name(f"t_{name}")
    except ValueError as error:
        return f"left out: {error}; rename it in the file"
    return "sparse"


def as_yaml(seen: list[Seen], rows: int, path: Path) -> str:
    """A file that `Schema.read` reads, with what was seen as comments."""
    of = {role: [s for s in seen if s.role == role] for role in ("label", "dense", "sparse")}

    def comment(s: Seen) -> str:
        return f"  # {s.distinct:,} values" + (f", {s.empty:.0%} empty" if s.empty else "")

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
    left_out = [s for s in seen if s.role not in of]
    lines += [f"# {_printable(s.name)}: {s.role} ({s.distinct:,} of {rows:,})" for s in left_out]
    return "\n".join(lines) + "\n"


def _printable(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name)


def _quoted(name: str) -> str:
    """YAML reads some words as other than text: y, no, 1."""
    return name if re.fullmatch(r"[A-Za-z_]\w*", name) and name.lower() not in ("y", "n", "yes", "no", "on", "off", "true", "false", "null") else f"'{name.replace(chr(39), chr(39) * 2)}'"  # fmt: skip
