"""Criteo lines for tests, whose first token tells the row."""

import gzip
from pathlib import Path

import numpy as np


def line(row: int, delimiter: str = "\t") -> str:
    """A good line."""
    dense = ["" if j == 3 else str(row % 7 - 2 + j) for j in range(13)]
    tokens = [f"{row:08x}", *("" if c == 5 else f"{(row * 31 + c) % 1000:x}" for c in range(1, 26))]
    return delimiter.join([str(row % 2), *dense, *tokens])


def write(path: Path, lines: list[str], end: str = "\n") -> Path:
    text = "\n".join(lines) + end
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def write_rows(path: Path, rows: range) -> Path:
    return write(path, [line(r, "," if ".csv" in path.name else "\t") for r in rows])


def row_of(ids: np.ndarray) -> list[int]:
    """Rows by their ids of the first token."""
    return [int(bytes(np.int64(i).tobytes()).decode(), 16) for i in ids]
