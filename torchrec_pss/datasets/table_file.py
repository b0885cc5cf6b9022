"""Entries of a table list as they are written: a JSON list of objects, or a CSV with a header."""

import csv
import json
from pathlib import Path
from typing import Any

from torchrec_pss.datasets.file_kinds import UTF8_MARK, regular_file, why_no_text

_LARGEST_FILE = 1 << 28  # bytes
_DELIMITERS = ",;\t"
_NEEDED = ("name", "rows")


class NumberText(str):
    """A number of a JSON file as it is written there: nothing is rounded before it is checked."""


def read_entries(file: Path) -> list[dict[str, Any]]:
    """A dict for each table, its fields in lower case. Values are text, `NumberText`, or what else JSON has.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no file, not UTF-8, or not such a list; names it, and the entry where it is one's. Or the first line of a CSV is no
            header; shows it.
    """
    try:
        size = regular_file(file, "table list").st_size
        if size > _LARGEST_FILE:
            raise ValueError(f"table list {file} has {size:,} bytes, more than {_LARGEST_FILE:,}")
        content = file.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"table list {file} is unreadable: {error}") from error
    reason = why_no_text(content[:4096])
    if reason:
        raise ValueError(f"table list {file} {reason}")
    try:
        text = content.removeprefix(UTF8_MARK).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"table list {file} is not UTF-8: {error}") from error
    is_json = file.suffix.lower() == ".json" or text.lstrip().startswith(("[", "{"))
    entries = _of_json(file, text) if is_json else _of_csv(file, text)
    if not entries:
        raise ValueError(f"table list {file} is neither a JSON list nor a CSV: no entries")
    return entries


def _of_json(file: Path, text: str) -> list[dict[str, Any]]:
    try:
        entries = json.loads(
            text, parse_int=NumberText, parse_float=NumberText, parse_constant=NumberText, object_pairs_hook=_once_each
        )
    except RecursionError as error:
        raise ValueError(f"table list {file} is no JSON list of tables: it is nested too deep") from error
    except ValueError as error:
        raise ValueError(f"table list {file} is no JSON list of tables: {error}") from error
    if not isinstance(entries, list):
        raise ValueError(f"table list {file} is no JSON list but {_shown(entries)}")
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict):
            raise ValueError(f"table list {file}, entry {number}: is no object but {_shown(entry)}")
    return entries


def _once_each(pairs: list[tuple[str, object]]) -> dict[str, Any]:
    found: dict[str, object] = {}
    for written, value in pairs:
        field = _field(written)
        if field in found:
            raise ValueError(f"an object has the field {field[:40]!r} twice")
        found[field] = value
    return found


def _field(written: str) -> str:
    """A field's name, which is the same in capitals."""
    return written.strip().lower()


def _of_csv(file: Path, text: str) -> list[dict[str, Any]]:
    lines = text.splitlines(keepends=True)
    head = next((line for line in lines if line.strip()), "")
    delimiter = max(_DELIMITERS, key=head.count)
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    rows = []
    try:
        for row in reader:
            if any(field.strip() for field in row):
                rows.append(row)
    except csv.Error as error:
        raise ValueError(f"table list {file}, line {reader.line_num}, entry {len(rows)}: {error}") from error
    if not rows:
        return []
    header = [_field(written) for written in rows[0]]
    if not set(_NEEDED) <= set(header):
        raise ValueError(
            f"table list {file}: the first line must be the header, with {' and '.join(_NEEDED)}; it is {head.strip()[:80]!r}"
        )
    for field in header:
        if field and header.count(field) > 1:
            raise ValueError(f"table list {file}: the header has the field {field[:40]!r} twice")
    for number, row in enumerate(rows[1:], start=1):
        if len(row) > len(header):
            raise ValueError(
                f"table list {file}, entry {number}: {len(row)} fields, but the header has {len(header)}: {row[-1][:40]!r}"
            )
    return [dict(zip(header, row, strict=False)) for row in rows[1:]]


def _shown(value: object) -> str:
    kind = "a number," if isinstance(value, NumberText) else f"a {type(value).__name__},"
    return f"{kind} {str(value)[:40]!r}"
