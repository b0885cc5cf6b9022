"""A click log with the shape of Criteo whose true probabilities are known.

A row has 13 standard normal dense values and 26 ids. The id of feature t follows a power law over the rows of table
t (in an order that says nothing about popularity). The label is drawn from a logistic model:

    logit = bias + dense effects + sum_t w_t m(t, id_t) + sum_(t,u) c_tu <x(t, id_t), x(u, id_u)>

with a latent main effect m and a latent 2-vector x for every row of every table. Nothing is stored: latents are hashes of
(seed, table, id), and row number k is a function of (seed, k) alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import tee

import numpy as np

from torchrec_pss.datasets.made_ahead import MadeAhead, spare_threads
from torchrec_pss.datasets.mixing import mix64
from torchrec_pss.datasets.rows import KAGGLE_NUM_EMBEDDINGS, NUM_DENSE, NUM_SPARSE, RowBlock

Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
_CHUNK = 4096  # rows generated at a time; part of the definition of row k
_PAIRS = 16  # interacting pairs of tables
_U16_MEAN = (2**16 - 1) / 2
_U16_STD = np.sqrt((2**32 - 1) / 12)


@dataclass(frozen=True)
class ClickLogConfig:
    """The distribution; rows of two generators with equal configs are equal.

    Attributes:
        seed: of everything, latents and rows.
        num_embeddings: rows of each of the 26 tables.
        skew: exponent of the power law: the k-th most frequent id of a table occurs in proportion to k^-skew.
        dense_scale, main_scale, pair_scale: standard deviations of the logit's three parts.
        bias: constant part of the logit.
    """

    seed: int = 0
    num_embeddings: Sequence[int] = field(default=KAGGLE_NUM_EMBEDDINGS)
    skew: float = 1.1
    dense_scale: float = 0.6
    main_scale: float = 1.1
    pair_scale: float = 0.7
    bias: float = -1.2

    def __post_init__(self) -> None:
        if len(self.num_embeddings) != NUM_SPARSE or min(self.num_embeddings) < 1:
            raise ValueError(f"num_embeddings must be {NUM_SPARSE} positive numbers, got {self.num_embeddings}")
        if self.skew <= 0:
            raise ValueError(f"skew must be positive, got {self.skew}")


class ClickLogGenerator:
    """Streams rows of a `ClickLogConfig`; a `RowSource`.

    The log has no end: any non-negative position can be read at once.
    """

    def __init__(self, config: ClickLogConfig) -> None:
        self.config = config
        rng = np.random.default_rng([config.seed, 0])
        self._keys = rng.integers(0, 1 << 63, NUM_SPARSE, dtype=np.uint64)[:, None]
        self._dense_weights = _unit(rng.standard_normal(NUM_DENSE)) * config.dense_scale
        self._main_weights = _unit(rng.uniform(0.5, 1.5, NUM_SPARSE)) * config.main_scale
        pairs = [rng.choice(NUM_SPARSE, 2, replace=False) for _ in range(_PAIRS)]
        self._first, self._second = np.array(pairs).T
        # Each pair has two products of unit variance.
        self._pair_weights = _unit(rng.uniform(0.5, 1.5, _PAIRS)) * config.pair_scale / np.sqrt(2)
        self._permutations = [_affine_permutation(rng, rows) for rows in config.num_embeddings]

    def read(self, windows: Iterator[range]) -> Iterator[RowBlock]:
        for dense, ids, labels, _ in self.read_rows(windows):
            yield RowBlock(dense, ids, labels)

    def read_rows(self, windows: Iterator[range]) -> Iterator[Rows]:
        """`rows` of each of the windows, which ascend: no chunk of rows is made twice for neighbours, and the next ones are made in
        threads where there are cores to spare (`spare_threads`)."""
        windows, asked = tee(windows)
        chunks = MadeAhead(self._chunk, map(_chunks_of, asked), spare_threads())
        for window, made in zip(windows, chunks, strict=True):
            yield _cut(window, made)

    def rows(self, window: range) -> Rows:
        """Dense float32 ``[n, 13]``, ids int64 ``[26, n]``, labels float32 ``[n]`` and logits float32 ``[n, 2]`` (of the
        true probability, and its dense part alone) of the rows at positions ``window``."""
        return _cut(window, [self._chunk(c) for c in _chunks_of(window)])

    def _chunk(self, number: int) -> Rows:
        rng = np.random.Generator(np.random.Philox(key=[self.config.seed % (1 << 64), number]))
        dense = rng.standard_normal((_CHUNK, NUM_DENSE), dtype=np.float32)
        uniforms = rng.random((NUM_SPARSE, _CHUNK))
        draws = rng.random(_CHUNK, dtype=np.float32)
        ids = np.empty((NUM_SPARSE, _CHUNK), np.int64)
        for t, rows in enumerate(self.config.num_embeddings):
            ranks = _power_law(uniforms[t], rows, self.config.skew)
            factor, shift = self._permutations[t]
            value = ranks * factor + shift
            ids[t] = value - value // rows * rows  # value % rows, but vectorised
        dense_logit = dense @ self._dense_weights.astype(np.float32)
        logit = dense_logit + self._sparse_logit(ids) + np.float32(self.config.bias)
        labels = (draws < 1 / (1 + np.exp(-logit))).astype(np.float32)
        return dense, ids, labels, np.stack([logit, dense_logit], axis=1)

    def _sparse_logit(self, ids: np.ndarray) -> np.ndarray:
        """Main effects and interactions; the four 16-bit parts of one hash are the latents of a row."""
        bits = mix64(ids.view(np.uint64) + self._keys)
        parts = bits.astype("<u8", copy=False).view("<u2").reshape(*bits.shape, 4).transpose(2, 0, 1).astype(np.float32)
        scale = np.float32(1 / _U16_STD)
        main = (parts[0] + parts[1] - np.float32(2 * _U16_MEAN)) * (scale / np.float32(np.sqrt(2)))
        logit = self._main_weights.astype(np.float32) @ main
        for part in parts[2:]:
            x = (part - np.float32(_U16_MEAN)) * scale
            logit += self._pair_weights.astype(np.float32) @ (x[self._first] * x[self._second])
        return logit


def _chunks_of(window: range) -> range:
    """The numbers of the chunks that its rows are in; of an empty one still a chunk, for the shapes."""
    return range(window.start // _CHUNK, -(-max(window.stop, window.start + 1) // _CHUNK))


def _cut(window: range, chunks: list[Rows]) -> Rows:
    """The rows of ``window``, of its chunks; copies."""
    skip = window.start % _CHUNK
    here = slice(skip, skip + len(window))
    dense, ids, labels, logits = zip(*chunks, strict=True)
    return (
        np.concatenate(dense)[here],
        np.concatenate(ids, axis=1)[:, here],
        np.concatenate(labels)[here],
        np.concatenate(logits)[here],
    )


def _unit(weights: np.ndarray) -> np.ndarray:
    return weights / np.linalg.norm(weights)


def _affine_permutation(rng: np.random.Generator, rows: int) -> tuple[int, int]:
    """(factor, shift) of a bijection of [0, rows), so that an id tells nothing about its frequency."""
    factor = int(rng.integers(1, max(rows, 2)))
    while np.gcd(factor, rows) != 1:
        factor += 1
    return factor, int(rng.integers(0, rows))


def _power_law(uniforms: np.ndarray, rows: int, skew: float) -> np.ndarray:
    """Ranks in [0, rows) from uniforms, by inverting the distribution function of x^-skew on [1, rows + 1)."""
    if abs(skew - 1) < 1e-6:
        x = np.exp(uniforms * np.log(rows + 1))
    else:
        x = np.exp(np.log(1 + uniforms * ((rows + 1) ** (1 - skew) - 1)) / (1 - skew))
    return np.minimum(x.astype(np.int64) - 1, rows - 1)
