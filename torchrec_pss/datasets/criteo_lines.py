"""Parsing lines of the Criteo display-advertising logs, many at a time.

Fields: label, I1..I13, C1..C26. Tab-separated without a header (Kaggle, Criteo-1TB days) or comma-separated with
one. A missing value is an empty field.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from torchrec_pss.datasets.rows import NUM_DENSE, NUM_SPARSE, RowBlock, join_blocks

NUM_FIELDS = 1 + NUM_DENSE + NUM_SPARSE
MISSING_ID = 0
_INT64 = np.dtype("<i8")


@dataclass
class BadLine:
    """A line that was left out: its place among the lines given, and why."""

    position: int
    reason: str


def parse_lines(lines: list[bytes], delimiter: bytes) -> tuple[RowBlock, list[BadLine]]:
    """Parses lines into rows; lines that are not rows are left out and reported.

    Dense values x become ``sign(x) log(1 + |x|)``, missing ones 0. Tokens become ids, see `token_ids`.
    """
    bad: list[BadLine] = []
    fields = [line.rstrip(b"\r\n").split(delimiter) for line in lines]
    if any(len(row) != NUM_FIELDS for row in fields):
        fields, positions = _right_length(fields, bad)
    else:
        positions = list(range(len(fields)))
    try:
        numbers = _numbers([row[: 1 + NUM_DENSE] for row in fields])
    except ValueError:
        fields = _numeric(fields, positions, bad)
        numbers = _numbers([row[: 1 + NUM_DENSE] for row in fields])
    if not fields:
        return join_blocks([]), bad
    labels = numbers[:, 0].astype(np.float32)
    raw = numbers[:, 1:]
    dense = (np.sign(raw) * np.log1p(np.abs(raw))).astype(np.float32)
    ids = np.stack([token_ids([row[1 + NUM_DENSE + c] for row in fields]) for c in range(NUM_SPARSE)])
    bad.sort(key=lambda line: line.position)
    return RowBlock(dense, ids, labels), bad


def token_ids(tokens: list[bytes]) -> np.ndarray:
    """int64 ids of tokens. A token of at most 8 bytes is its own bytes, little-endian and zero-padded, so that distinct
    tokens have distinct ids; a longer one is hashed (BLAKE2b, 8 bytes). The empty token, a missing value, is 0."""
    packed = np.array(tokens, dtype=bytes)
    if packed.dtype.itemsize <= 8:
        return packed.astype("S8").view(_INT64)
    short = [t if len(t) <= 8 else hashlib.blake2b(t, digest_size=8).digest() for t in tokens]
    return np.array([int.from_bytes(t, "little", signed=len(t) == 8) for t in short], dtype=np.int64)


def _numbers(columns: list[list[bytes]]) -> np.ndarray:
    """Label and dense fields as float64 ``[n, 14]``; raises ValueError where one is not a finite number or not a label."""
    if not columns:
        return np.zeros((0, 1 + NUM_DENSE))
    numbers = np.array([[field or b"0" for field in row] for row in columns], dtype=bytes).astype(np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError("not a finite number")
    if any(row[0] not in (b"0", b"1") for row in columns):
        raise ValueError("label is not 0 or 1")
    return numbers


def _right_length(fields: list[list[bytes]], bad: list[BadLine]) -> tuple[list[list[bytes]], list[int]]:
    positions = []
    for position, row in enumerate(fields):
        if len(row) == NUM_FIELDS:
            positions.append(position)
        else:
            bad.append(BadLine(position, f"{len(row)} fields instead of {NUM_FIELDS}"))
    return [fields[p] for p in positions], positions


def _numeric(fields: list[list[bytes]], positions: list[int], bad: list[BadLine]) -> list[list[bytes]]:
    """The slow path: finds the lines whose label or dense fields are no numbers."""
    good = []
    for i, row in enumerate(fields):
        reason = _reason(row)
        if reason is None:
            good.append(i)
        else:
            bad.append(BadLine(positions[i], reason))
    return [fields[i] for i in good]


def _reason(row: list[bytes]) -> str | None:
    if row[0] not in (b"0", b"1"):
        return f"label is {_shown(row[0])}, not 0 or 1"
    for i, value in enumerate(row[1 : 1 + NUM_DENSE], start=1):
        try:
            _numbers([[b"0", value]])
        except ValueError:
            return f"I{i} is {_shown(value)}, not a finite number"
    return None


def _shown(field: bytes) -> str:
    return repr(field[:40].decode("utf-8", "replace"))
