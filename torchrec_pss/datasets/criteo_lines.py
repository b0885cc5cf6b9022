"""Parsing lines of click logs, many at a time.

Of Criteo's the fields are label, I1..I13, C1..C26, tab-separated without a header (Kaggle, Criteo-1TB days) or comma-separated with
one; other logs have other `Columns`. A missing value is an empty field. Memory is bounded by the bytes of the lines given.
"""

import hashlib
from dataclasses import dataclass
from itertools import chain
from typing import cast

import numpy as np

from torchrec_pss.datasets.bags import Bags
from torchrec_pss.datasets.columns import CRITEO, Columns, dense_values
from torchrec_pss.datasets.line_stream import LONGEST_LINE, CutLine
from torchrec_pss.datasets.rows import RowBlock

NUM_FIELDS = CRITEO.number
MISSING_ID = 0
_INT64 = np.dtype("<i8")
_LONG_LINE = 512  # bytes; in a shorter one no field is so long that padding others to it matters
_LONG_NUMBER = 64
_ALONE = Columns(2, 0, (1,), (), (), (0,))  # a label and a number


@dataclass
class BadLine:
    """A line that was left out: its place among the lines given, and why."""

    position: int
    reason: str


def parse_lines(lines: list[bytes], delimiter: bytes, columns: Columns = CRITEO) -> tuple[RowBlock, list[BadLine]]:
    """Parses lines into rows; lines that are not rows are left out and reported.

    Dense values x become ``sign(x) log(1 + |x|)``, missing ones 0. Tokens become ids, see `token_ids`; of a bag those that are not empty.
    """
    bad: list[BadLine] = []
    may_be_long = max(map(len, lines), default=0) > _LONG_LINE
    if b'"' in b"".join(lines):
        fields = [split_line(line, delimiter, columns.number) for line in lines]
    elif may_be_long:
        fields = [line.rstrip(b"\r\n").split(delimiter, columns.number) for line in lines]
    else:
        fields = [line.rstrip(b"\r\n").split(delimiter) for line in lines]
    if any(len(row) != columns.number for row in fields):
        fields, positions = _right_length(lines, fields, delimiter, columns.number, bad)
    else:
        positions = list(range(len(fields)))
    try:
        numbers, bags = _numbers(fields, columns, may_be_long), _bags(fields, columns)
    except ValueError:
        fields = _numeric(fields, positions, columns, bad)
        numbers, bags = _numbers(fields, columns, may_be_long), _bags(fields, columns)
    bad.sort(key=lambda line: line.position)
    if not fields:
        return columns.nothing, bad
    labels = numbers[:, 0].astype(np.float32)
    tokens = [[row[place] for row in fields] for place in columns.sparse]
    ids = None if may_be_long or not tokens else _own_bytes(list(chain.from_iterable(tokens)))
    if ids is None:
        ids = np.array([token_ids(column) for column in tokens], np.int64)
    return columns.block(numbers[:, 1:], ids.reshape(len(tokens), len(fields)), bags, labels), bad


def _bags(fields: list[list[bytes]], columns: Columns) -> list[Bags]:
    """
    Raises:
        ValueError: a bag has more or fewer weights than ids, or one that is no finite number; says which.
    """
    found = []
    for bag in columns.bags:
        tokens = [_pieces(row[bag.ids], bag.separator) for row in fields]
        lengths = np.array([len(t) for t in tokens], np.int32)
        ids = token_ids(list(chain.from_iterable(tokens)))
        weights = None
        if bag.weights is not None:
            numbers = [_pieces(row[bag.weights], bag.separator) for row in fields]
            for length, of_row in zip(lengths.tolist(), numbers, strict=True):
                if length != len(of_row):
                    name, weighed_by = bag.names
                    raise ValueError(f"{name} has {length} ids, and {weighed_by} {len(of_row)} weights")
            weights = np.array([_weight(number, bag.names[1]) for of_row in numbers for number in of_row], np.float32)
        found.append(Bags(ids, lengths, weights))
    return found


def _pieces(field: bytes, separator: bytes) -> list[bytes]:
    return [piece for piece in field.split(separator) if piece]


def _weight(number: bytes, name: str) -> np.float32:
    try:
        with np.errstate(over="ignore"):
            found = np.float32(_numbers([[b"0", number]], _ALONE)[0, 1])
        if np.isfinite(found):
            return found
    except ValueError:
        pass
    raise ValueError(f"{name} has {_shown(number)}, not a finite number")


def split_line(line: bytes, delimiter: bytes, number: int = NUM_FIELDS) -> list[bytes]:
    """Fields of a line, one more than ``number`` of them at most. Quotes around a field are no part of it, and two of them
    within are one.

    A comma within quotes divides nothing. In tab-separated lines a quote that is not closed is a character like others; in
    comma-separated ones the line has one field then, since nobody can tell where the quote ends.
    """
    line = line.rstrip(b"\r\n")
    fields = line.split(delimiter, number)
    if b'"' not in line:
        return fields
    unquoted = [_unquoted(field) for field in fields]
    if len(fields) == number and None not in unquoted:
        return cast("list[bytes]", unquoted)
    parts = _quote_aware(line, delimiter, number)
    if parts is not None and (len(parts) == number or delimiter == b","):
        return parts
    if delimiter == b",":
        return [line]
    return [field if whole is None else whole for field, whole in zip(fields, unquoted, strict=True)]


def _unquoted(field: bytes) -> bytes | None:
    """A field without the quotes around it; None where they are not closed, or something follows."""
    if not field.startswith(b'"'):
        return field
    inner = field[1:-1]
    if len(field) < 2 or not field.endswith(b'"') or b'"' in inner.replace(b'""', b""):
        return None
    return inner.replace(b'""', b'"')


def _quote_aware(line: bytes, delimiter: bytes, number: int) -> list[bytes] | None:
    """Fields where delimiters within quotes divide nothing; None where a quote is not closed, or something follows it."""
    parts: list[bytes] = []
    at = 0
    while True:
        if line.startswith(b'"', at):
            end = _closing_quote(line, at + 1)
            if end < 0 or (end + 1 < len(line) and not line.startswith(delimiter, end + 1)):
                return None
            parts.append(line[at + 1 : end].replace(b'""', b'"'))
            at = end + 1
        else:
            end = line.find(delimiter, at)
            end = len(line) if end < 0 else end
            parts.append(line[at:end])
            at = end
        if at >= len(line) or len(parts) > number:
            return parts
        at += 1


def _closing_quote(line: bytes, at: int) -> int:
    while True:
        at = line.find(b'"', at)
        if at < 0 or not line.startswith(b'""', at):
            return at
        at += 2


def token_ids(tokens: list[bytes]) -> np.ndarray:
    """int64 ids of tokens. A token of at most 8 bytes is its own bytes, little-endian and zero-padded, so that distinct
    tokens have distinct ids; a longer one is hashed (BLAKE2b, 8 bytes). The empty token, a missing value, is 0."""
    ids = _own_bytes(tokens) if tokens and len(tokens[0]) <= 8 else None  # of long ones all are, as a rule
    if ids is not None:
        return ids
    if not tokens:
        return np.zeros(0, np.int64)
    short = [t if len(t) <= 8 else hashlib.blake2b(t, digest_size=8).digest() for t in tokens]
    return np.array([int.from_bytes(t, "little", signed=len(t) == 8) for t in short], dtype=np.int64)


def _own_bytes(tokens: list[bytes]) -> np.ndarray | None:
    """Ids of tokens that all are their own bytes; None where one is longer than 8, or has a byte that is 0."""
    packed = np.array(tokens, dtype="S8")  # by itself numpy would pad every token to the longest
    whole = np.count_nonzero(packed.view(np.uint8)) == len(b"".join(tokens))
    return packed.view(_INT64) if whole else None


def _numbers(rows: list[list[bytes]], columns: Columns, may_be_long: bool = True) -> np.ndarray:
    """Label and numbers as float64 ``[n, 1 + numbers]``; raises ValueError where one is not a finite number or not a label."""
    if not rows:
        return np.zeros((0, 1 + len(columns.numbers)))
    fields = [
        [row[columns.label], *(row[place] or columns.missing(place) for place in columns.numbers)] for row in rows
    ]
    if any(row[0] not in (b"0", b"1") for row in fields):
        raise ValueError("label is not 0 or 1")
    # numpy pads every field to the longest.
    long = _without_long_numbers(fields) if may_be_long else []
    numbers = np.array(fields, dtype=bytes).astype(np.float64)
    for row, column, value in long:
        numbers[row, column] = value
    if not (np.isfinite(numbers).all() and np.isfinite(dense_values(numbers[:, 1:], columns.plain)).all()):
        raise ValueError("not a finite number")
    return numbers


def _without_long_numbers(columns: list[list[bytes]]) -> list[tuple[int, int, float]]:
    """Puts 0 where a field has more bytes than a number needs; row, column and value of those."""
    if max(map(len, chain.from_iterable(columns))) <= _LONG_NUMBER:
        return []
    long = []
    for i, row in enumerate(columns):
        for j, field in enumerate(row):
            if len(field) > _LONG_NUMBER:
                # float: numpy would take 131 bytes a digit. It reads the same but for zero bytes at the end.
                long.append((i, j, float(field.rstrip(b"\0"))))
                row[j] = b"0"
    return long


def _right_length(
    lines: list[bytes], fields: list[list[bytes]], delimiter: bytes, number: int, bad: list[BadLine]
) -> tuple[list[list[bytes]], list[int]]:
    positions = []
    for position, row in enumerate(fields):
        if len(row) == number:
            positions.append(position)
        else:
            bad.append(BadLine(position, _wrong_length(lines[position], row, delimiter, number)))
    return [fields[p] for p in positions], positions


def _numeric(
    fields: list[list[bytes]], positions: list[int], columns: Columns, bad: list[BadLine]
) -> list[list[bytes]]:
    """The slow path: finds the lines whose label or dense fields are no numbers."""
    good = []
    for i, row in enumerate(fields):
        reason = _reason(row, columns)
        if reason is None:
            good.append(i)
        else:
            bad.append(BadLine(positions[i], reason))
    return [fields[i] for i in good]


def _reason(row: list[bytes], columns: Columns) -> str | None:
    label, *names = columns.names
    if row[columns.label] not in (b"0", b"1"):
        return f"{label} is {_shown(row[columns.label])}, not 0 or 1"
    for number, (name, place) in enumerate(zip(names, columns.numbers, strict=True)):
        alone = Columns(2, 0, (1,), (), (), (0,) if number in columns.plain else ())
        try:
            _numbers([[b"0", row[place] or columns.missing(place)]], alone)
        except ValueError:
            return f"{name} is {_shown(row[place])}, not a finite number"
    try:
        _bags([row], columns)
    except ValueError as error:
        return str(error)
    return None


def _wrong_length(line: bytes, row: list[bytes], delimiter: bytes, number: int) -> str:
    if isinstance(line, CutLine):
        return f"a line of {line.length:,} bytes, more than {LONGEST_LINE:,}"
    if delimiter == b"," and b'"' in line:
        if _quote_aware(line.rstrip(b"\r\n"), delimiter, number) is None:
            return "a quote is not closed, or something follows it"
        return f"{len(row) if len(row) < number else f'more than {number}'} fields instead of {number}"
    return f"{line.count(delimiter) + 1} fields instead of {number}"


def _shown(field: bytes) -> str:
    return repr(field[:40].decode("utf-8", "replace"))
