"""Criteo lines for tests, whose first token tells the row."""

import gzip
from pathlib import Path

import numpy as np

from torchrec_pss.datasets.rows import NUM_DENSE, NUM_SPARSE


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


def write_stage(folder: Path, name: str, rows: int, first: int = 0) -> None:
    """A stage of preprocessed arrays; each id is the number of its row, from ``first``."""
    np.save(folder / f"{name}_dense.npy", np.full((rows, NUM_DENSE), first, np.float32))
    np.save(folder / f"{name}_sparse.npy", np.arange(first, first + rows)[:, None].repeat(NUM_SPARSE, 1))
    np.save(folder / f"{name}_labels.npy", np.ones((rows, 1), np.int32))
