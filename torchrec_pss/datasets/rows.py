"""Blocks of click-log rows, how ranks divide them, and their form as a TorchRec `Batch`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torchrec.datasets.utils import Batch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

NUM_DENSE = 13
NUM_SPARSE = 26
DENSE_NAMES = [f"int_{i}" for i in range(NUM_DENSE)]
SPARSE_NAMES = [f"cat_{i}" for i in range(NUM_SPARSE)]
PADDING_LABEL = -1.0

# Distinct values of C1 .. C26 in Kaggle's training file.
KAGGLE_NUM_EMBEDDINGS = (
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194,
    27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572,
)  # fmt: skip

# Rows of MLPerf's DLRM tables on Criteo-1TB, 204,184,588 in all.
MLPERF_NUM_EMBEDDINGS = (
    40000000, 39060, 17295, 7424, 20265, 3, 7122, 1543, 63, 40000000, 3067956, 405282, 10,
    2209, 11938, 155, 4, 976, 14, 40000000, 40000000, 40000000, 590152, 12973, 108, 36,
)  # fmt: skip


@dataclass
class RowBlock:
    """Consecutive rows of a click log.

    Attributes:
        dense: float32 ``[n, d]``, ready for the model; Criteo's have d = 13.
        ids: int64 ``[F, n]``, one id a feature (column-major, as a KJT wants them); Criteo's have F = 26.
        labels: float32 ``[n]``, 0 or 1.
    """

    dense: np.ndarray
    ids: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, names: Sequence[str] = SPARSE_NAMES) -> Batch:
        """As TorchRec's `Batch`, its features named so. Without dense values it has one that is 0: a DLRM wants some. An empty block becomes one row with `PADDING_LABEL`, which a loss and a metric must
        leave out: every rank of a step needs a batch, also when the rows do not go round."""
        if len(self) == 0:
            padding = RowBlock(
                np.zeros((1, self.dense.shape[1]), np.float32),
                np.zeros((len(self.ids), 1), np.int64),
                np.full(1, PADDING_LABEL, np.float32),
            )
            return padding.batch(names)
        return Batch(
            dense_features=torch.from_numpy(
                self.dense if self.dense.shape[1] else np.zeros((len(self), 1), np.float32)
            ),
            sparse_features=KeyedJaggedTensor(
                keys=list(names),
                values=torch.from_numpy(np.ascontiguousarray(self.ids).reshape(-1)),
                lengths=torch.ones(len(names) * len(self), dtype=torch.int32),
                stride=len(self),
            ),
            labels=torch.from_numpy(self.labels),
        )


def empty_block(num_dense: int = NUM_DENSE, num_sparse: int = NUM_SPARSE) -> RowBlock:
    return RowBlock(np.zeros((0, num_dense), np.float32), np.zeros((num_sparse, 0), np.int64), np.zeros(0, np.float32))


def join_blocks(blocks: Sequence[RowBlock]) -> RowBlock:
    """The rows of all blocks, one or more, in order."""
    if len(blocks) == 1:
        return blocks[0]
    return RowBlock(
        np.concatenate([b.dense for b in blocks]),
        np.concatenate([b.ids for b in blocks], axis=1),
        np.concatenate([b.labels for b in blocks]),
    )


class RowSource(Protocol):
    """Where rows come from: a generator or files. A row has a position, counted from 0."""

    def read(self, windows: Iterator[range]) -> Iterator[RowBlock]:
        """One block for each window of positions, in ascending order; rows that cannot be used are left out."""
        ...


def rank_windows(rows: range, batch_size: int, rank: int, world_size: int, first_step: int = 0) -> Iterator[range]:
    """The windows of ``rows`` that one rank reads, one a step.

    Step ``k`` covers ``world_size * batch_size`` consecutive rows, and rank ``r`` takes the r-th ``batch_size`` of them:
    no row is read twice or left out at any world size, and all ranks make the same number of steps (the last
    windows may be short or empty). ``first_step`` resumes.
    """
    for step in range(first_step, num_steps(rows, batch_size, world_size)):
        start = rows.start + (step * world_size + rank) * batch_size
        yield range(min(start, rows.stop), min(start + batch_size, rows.stop))


def num_steps(rows: range, batch_size: int, world_size: int) -> int:
    """Steps that it takes all ranks together to read ``rows`` once."""
    return -(-len(rows) // (batch_size * world_size))
