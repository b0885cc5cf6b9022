"""Blocks of click-log rows, how ranks divide them, and their form as a TorchRec `Batch`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from torchrec_pss.datasets.bags import Bags, join_bags

if TYPE_CHECKING:
    from torchrec.datasets.utils import Batch


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
        ids: int64 ``[F, n]``, one id a feature (column-major, as a KJT wants them); Criteo's have F = 26. With ``lengths``: ``[V]``, the bags of
            all features, one feature after the other.
        labels: float32 ``[n]``, 0 or 1.
        lengths: int32 ``[F, n]``, of each bag; None where all have one id.
        weights: float32 ``[V]``, of the ids; None where none has one.
        times: float64 ``[n]``, where a schema names a column of them.
    """

    dense: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    lengths: np.ndarray | None = None
    weights: np.ndarray | None = None
    times: np.ndarray | None = None

    @classmethod
    def of(
        cls, dense: np.ndarray, features: Sequence[Bags], labels: np.ndarray, times: np.ndarray | None = None
    ) -> "RowBlock":
        """Of each feature's bags, one feature or more."""
        if all(f.lengths is None and f.weights is None for f in features):
            return cls(dense, np.stack([f.ids for f in features]), labels, times=times)
        one = np.ones(len(labels), np.int32)
        weights = None
        if any(f.weights is not None for f in features):
            weights = np.concatenate(
                [np.ones(len(f.ids), np.float32) if f.weights is None else f.weights for f in features]
            )
        lengths = np.stack([one if f.lengths is None else f.lengths for f in features])
        return cls(dense, np.concatenate([f.ids for f in features]), labels, lengths, weights, times)

    @classmethod
    def joined(
        cls,
        dense: np.ndarray,
        ids: np.ndarray,
        bags: Sequence[Bags],
        labels: np.ndarray,
        times: np.ndarray | None = None,
    ) -> "RowBlock":
        """Of ids ``[F, n]``, one a feature, which are not copied where no ``bags`` follow."""
        if bags:
            return cls.of(dense, [*map(Bags, ids), *bags], labels, times)
        return cls(dense, ids, labels, times=times)

    def __len__(self) -> int:
        return len(self.labels)

    def features(self) -> list[Bags]:
        """Of each feature its bags."""
        if self.lengths is None:
            return [Bags(ids) for ids in self.ids]
        stops = self.lengths.sum(axis=1, dtype=np.int64).cumsum()[:-1]
        weights = [None] * len(self.lengths) if self.weights is None else np.split(self.weights, stops)
        return [Bags(*parts) for parts in zip(np.split(self.ids, stops), self.lengths, weights, strict=True)]

    def ids_by_feature(self) -> list[np.ndarray]:
        """int64, of each feature as many as its bags hold."""
        return [f.ids for f in self.features()]

    def take(self, rows: np.ndarray) -> "RowBlock":
        """Rows by their places, or those where a mask is true."""
        times = None if self.times is None else self.times[rows]
        if self.lengths is None:
            return RowBlock(self.dense[rows], self.ids[:, rows], self.labels[rows], times=times)
        return RowBlock.of(self.dense[rows], [f.take(rows) for f in self.features()], self.labels[rows], times)

    def mapped(self, rows_of: "RowsOf") -> "RowBlock":
        """The same with other ids."""
        found = rows_of(self.ids_by_feature())
        return replace(self, ids=np.stack(found) if self.lengths is None else np.concatenate(found))

    def batch(self, names: Sequence[str] = SPARSE_NAMES) -> "Batch":
        """As TorchRec's `Batch`, its features named so. Without dense values it has one that is 0: a DLRM wants some. An empty block becomes one row with `PADDING_LABEL`, which a loss and a metric must
        leave out: every rank of a step needs a batch, also when the rows do not go round."""
        from torchrec.datasets.utils import Batch  # those who only read rows need no TorchRec
        from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

        if len(self) == 0:
            number, weighted = len(names), self.weights is not None
            padding = RowBlock(
                np.zeros((1, self.dense.shape[1]), np.float32),
                np.zeros((number, 1), np.int64),
                np.full(1, PADDING_LABEL, np.float32),
                weights=np.ones(number, np.float32) if weighted else None,
            )
            return padding.batch(names)
        lengths = np.ones(len(names) * len(self), np.int32) if self.lengths is None else self.lengths.reshape(-1)
        return Batch(
            dense_features=torch.from_numpy(
                self.dense if self.dense.shape[1] else np.zeros((len(self), 1), np.float32)
            ),
            sparse_features=KeyedJaggedTensor(
                keys=list(names),
                values=torch.from_numpy(np.ascontiguousarray(self.ids).reshape(-1)),
                weights=None if self.weights is None else torch.from_numpy(self.weights),
                lengths=torch.from_numpy(lengths),
                stride=len(self),
            ),
            labels=torch.from_numpy(self.labels),
        )


# Of each feature's ids, others: int64 of int64, as many.
RowsOf = Callable[[Sequence[np.ndarray]], list[np.ndarray]]


def empty_block(
    num_dense: int = NUM_DENSE,
    num_sparse: int = NUM_SPARSE,
    bags: bool = False,
    weighted: bool = False,
    timed: bool = False,
) -> RowBlock:
    """Of no rows, as other blocks of such features are."""
    lengths, weights = np.zeros((num_sparse, 0), np.int32), np.zeros(0, np.float32)
    ids = np.zeros(0 if bags or weighted else (num_sparse, 0), np.int64)
    block = RowBlock(np.zeros((0, num_dense), np.float32), ids, np.zeros(0, np.float32))
    block.times = np.zeros(0) if timed else None
    return replace(block, lengths=lengths if bags or weighted else None, weights=weights if weighted else None)


def join_blocks(blocks: Sequence[RowBlock]) -> RowBlock:
    """The rows of all blocks, one or more, in order."""
    if len(blocks) == 1:
        return blocks[0]
    dense, labels = (np.concatenate([getattr(b, name) for b in blocks]) for name in ("dense", "labels"))
    times = None if blocks[0].times is None else np.concatenate([b.times for b in blocks])
    if blocks[0].lengths is None:
        return RowBlock(dense, np.concatenate([b.ids for b in blocks], axis=1), labels, times=times)
    return RowBlock.of(dense, list(map(join_bags, zip(*(b.features() for b in blocks), strict=True))), labels, times)


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
