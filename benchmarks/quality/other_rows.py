"""Criteo-format files of a generator that has nothing in common with `torchrec_pss.datasets.synthetic`, on whose rows the recipe was tuned.

Tables of very different sizes, each with a skew of its own, tokens and numbers that are missing, and a logit of

    bias + numbers + sum_t m(t, id_t) + sum_(t,u) .35 <v(t, id_t), v(u, id_u)>

over 14 pairs of tables or none, with a main effect m and a 3-vector v for every id, or for every hidden cluster of a table's ids.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torchrec_pss.datasets.rows import NUM_DENSE, NUM_SPARSE
from torchrec_pss.whole_file import write_text

_BIAS = -1.2
_PAIR_EFFECT, _VECTOR = 0.35, 3
_NUMBER_EFFECT = 0.15
_MISSING_TOKENS, _MISSING_NUMBERS = 0.03, (0.02, 0.4)


@dataclass(frozen=True)
class OtherRows:
    """A file's rows.

    Attributes:
        num_rows: of the file.
        num_ids: the least and the most ids of a table, log-uniform between.
        skew: the least and the largest exponent of a table's power law, uniform between.
        seed: of everything.
        clusters: whether ids of a hidden cluster, sqrt(ids) / 2 a table, have one effect; else each id its own.
        pairs: of tables whose products count; 0 leaves main effects alone.
    """

    num_rows: int
    num_ids: tuple[int, int]
    skew: tuple[float, float]
    seed: int
    clusters: bool = False
    pairs: int = 14


def write(rows: OtherRows, path: Path) -> None:
    """The file, tab-separated: a label, 13 numbers, 26 hexadecimal tokens."""
    write_text(path, "".join("\t".join(fields) + "\n" for fields in _lines(rows)))


def _lines(rows: OtherRows) -> Iterator[list[str]]:
    rng = np.random.default_rng(rows.seed)
    n = rows.num_rows
    numbers = np.exp(rng.normal(1.5, 1.2, (n, NUM_DENSE))).astype(int) - 1
    no_number = rng.random((n, NUM_DENSE)) < rng.uniform(*_MISSING_NUMBERS, NUM_DENSE)
    x = np.log1p(np.maximum(numbers, 0))
    x = np.where(no_number, 0, (x - x.mean(0)) / x.std(0))
    logits = _BIAS + x @ rng.normal(0, _NUMBER_EFFECT, NUM_DENSE) + 0.2 * np.abs(x[:, 0]) * np.sign(x[:, 3])

    num_ids = np.exp(rng.uniform(*np.log(rows.num_ids), NUM_SPARSE)).astype(int)
    tokens, vectors = [], []
    for rows_of_table, skew in zip(num_ids, rng.uniform(*rows.skew, NUM_SPARSE), strict=True):
        frequencies = 1 / np.arange(1, rows_of_table + 1) ** skew
        ids = rng.choice(rows_of_table, n, p=frequencies / frequencies.sum())
        tokens.append(rng.choice(1 << 32, rows_of_table, replace=False)[ids])
        main, vector = _effects(rng, rows_of_table, rows.clusters)
        logits += main[ids]
        vectors.append(vector[ids])
    for _ in range(rows.pairs):
        first, second = rng.choice(NUM_SPARSE, 2, replace=False)
        logits += _PAIR_EFFECT * (vectors[first] * vectors[second]).sum(1)
    labels = rng.random(n) < 1 / (1 + np.exp(-logits))
    no_token = rng.random((n, NUM_SPARSE)) < _MISSING_TOKENS
    for k in range(n):
        yield [
            str(int(labels[k])),
            *("" if no_number[k, i] else str(numbers[k, i]) for i in range(NUM_DENSE)),
            *("" if no_token[k, t] else f"{column[k]:08x}" for t, column in enumerate(tokens)),
        ]


def _effects(rng: np.random.Generator, num_ids: int, clusters: bool) -> tuple[np.ndarray, np.ndarray]:
    """Main effect ``[ids]`` and vector ``[ids, 3]`` of each id."""
    if not clusters:
        return rng.normal(0, 0.18, num_ids), rng.normal(0, 0.5, (num_ids, _VECTOR))
    number = max(2, int(num_ids**0.5) // 2)
    of_id = rng.integers(0, number, num_ids)
    return rng.normal(0, 0.25, number)[of_id], rng.normal(0, 0.6, (number, _VECTOR))[of_id]
