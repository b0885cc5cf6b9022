"""Criteo-format files of dense logs: few fields of few ids, each read hundreds of times, and no numbers.

`Ratings`: a user rates an item; six more fields follow from the two. The logit is

    bias + b_user + b_item + <p_user, q_item>,

where each vector is a sum of its id's own and those of its fields. `Usage`: what a user chose, with where and when, beside two items
drawn evenly that were not chosen; a choice is made by

    softmax over items of popularity + <p_user, q_item> + sum over contexts of <c, r_item>,

so that users come back to the same items, and a label is hard to miss once the pairs are learned.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torchrec_pss.datasets.rows import NUM_DENSE, NUM_SPARSE
from torchrec_pss.whole_file import write_text


@dataclass(frozen=True)
class DenseRows:
    """A file's rows.

    Attributes:
        num_rows: of the file.
        users, items: ids of the two large fields.
        rank: of the products.
        seed: of everything.
    """

    num_rows: int
    users: int
    items: int
    rank: int
    seed: int = 0

    def fields(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids ``[rows, fields]`` and labels ``[rows]``."""
        raise NotImplementedError


@dataclass(frozen=True)
class Ratings(DenseRows):
    """Any pair of a user and an item, and whether it was liked."""

    users: int = 6000
    items: int = 3700
    rank: int = 8

    def fields(self) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(self.seed)
        user = _skewed(rng, self.num_rows, self.users, 0.6)
        item = _skewed(rng, self.num_rows, self.items, 0.8)
        of_user = [rng.integers(0, n, self.users) for n in (2, 7, 21, max(self.users // 2, 2))]
        of_item = [rng.integers(0, n, self.items) for n in (80, 300)]
        scale = self.rank**-0.25
        p = rng.normal(0, 0.6 * scale, (self.users, self.rank))
        q = rng.normal(0, 0.6 * scale, (self.items, self.rank))
        for values, vectors, spread in ((of_user, p, 0.35), (of_item, q, 0.45)):
            for field in values:
                vectors += rng.normal(0, spread * scale, (field.max() + 1, self.rank))[field]
        logits = 0.3 + rng.normal(0, 0.5, self.users)[user] + rng.normal(0, 0.8, self.items)[item]
        logits += (p[user] * q[item]).sum(1)
        labels = rng.random(self.num_rows) < 1 / (1 + np.exp(-logits))
        return np.stack([user, item, *(f[user] for f in of_user), *(f[item] for f in of_item)], 1), labels


@dataclass(frozen=True)
class Usage(DenseRows):
    """A third of the rows chosen."""

    users: int = 950
    items: int = 4000
    rank: int = 6

    def fields(self) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(self.seed)
        chosen = -(-self.num_rows // 3)
        user = _skewed(rng, chosen, self.users, 0.7)
        contexts = [_skewed(rng, chosen, n, 0.8) for n in (7, 7, 2, 3, 2, 9, 80, 230)]
        p, q = rng.normal(0, 1, (self.users, self.rank)), rng.normal(0, 1, (self.items, self.rank))
        popularity = rng.normal(0, 1.2, self.items)
        effects = [rng.normal(0, 0.25, (field.max() + 1, self.rank)) for field in contexts]
        item = np.empty(chosen, np.int64)
        for first in range(0, chosen, 4096):
            rows = slice(first, first + 4096)
            wanted = p[user[rows]] + sum(e[f[rows]] for e, f in zip(effects, contexts, strict=True))
            scores = popularity + wanted @ q.T + rng.gumbel(size=(len(wanted), self.items))
            item[rows] = scores.argmax(1)
        items = np.concatenate([item, rng.integers(0, self.items, 2 * chosen)])
        fields = np.stack([np.tile(user, 3), items, *(np.tile(f, 3) for f in contexts)], 1)
        order = rng.permutation(len(items))[: self.num_rows]
        return fields[order], order < chosen


def write(rows: DenseRows, path: Path) -> None:
    """The file, tab-separated: a label, 13 numbers that are missing, as many hexadecimal tokens as fields, and empty ones."""
    write_text(path, "".join(_lines(rows)))


def _lines(rows: DenseRows) -> Iterator[str]:
    fields, labels = rows.fields()
    rng = np.random.default_rng((rows.seed, 1))
    tokens = [
        np.array([f"{t:08x}" for t in rng.choice(1 << 32, column.max() + 1, replace=False)])[column]
        for column in fields.T
    ]
    before, after = "\t" * NUM_DENSE, "\t" * (NUM_SPARSE - len(tokens))
    for label, *row in zip(labels.astype(int), *tokens, strict=True):
        yield f"{label}{before}\t{'	'.join(row)}{after}\n"


def _skewed(rng: np.random.Generator, number: int, ids: int, exponent: float) -> np.ndarray:
    frequencies = 1 / np.arange(1, ids + 1) ** exponent
    return rng.choice(ids, number, p=frequencies / frequencies.sum())
