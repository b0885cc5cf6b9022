"""Rivals that are no layout of the array: embeddings composed from several small tables.

Each is written from its paper's formula, as a module that maps ids ``[N]`` to embeddings ``[N, D]``.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface, EmbeddingCollectionInterface
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor, KeyedTensor

from torchrec_pss.ops.hashing import block_hashes, slots, table_key

_START = 0.05


class ComposedBags(EmbeddingBagCollectionInterface):
    """An EBC whose tables are such modules, for one id a bag."""

    def __init__(self, configs: list[EmbeddingBagConfig], tables: Sequence[nn.Module]) -> None:
        super().__init__()
        self._configs = configs
        self.tables = nn.ModuleList(tables)

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        ids = features.values().view(len(self._configs), -1)
        parts = [table(i) for table, i in zip(self.tables, ids, strict=True)]
        dims = [c.embedding_dim for c in self._configs]
        return KeyedTensor([c.feature_names[0] for c in self._configs], dims, torch.cat(parts, dim=1))

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        return self._configs

    def is_weighted(self) -> bool:
        return False

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")


class ComposedSequences(EmbeddingCollectionInterface):
    """An EC whose tables are such modules."""

    def __init__(self, configs: list[EmbeddingConfig], tables: Sequence[nn.Module]) -> None:
        super().__init__()
        self._configs = configs
        self.tables = nn.ModuleList(tables)

    def forward(self, features: KeyedJaggedTensor) -> dict[str, JaggedTensor]:
        table_of = {name: t for c, t in zip(self._configs, self.tables, strict=True) for name in c.feature_names}
        return {
            name: JaggedTensor(values=table_of[name](ids.values()), lengths=ids.lengths())
            for name, ids in features.to_dict().items()
        }

    def embedding_configs(self) -> list[EmbeddingConfig]:
        return self._configs

    def need_indices(self) -> bool:
        return False

    def embedding_dim(self) -> int:
        return self._configs[0].embedding_dim

    def embedding_names_by_table(self) -> list[list[str]]:
        return [c.feature_names for c in self._configs]


def _table(rows: int, width: int) -> nn.Embedding:
    table = nn.Embedding(rows, width)
    nn.init.uniform_(table.weight, -_START, _START)
    return table


class Quotient(nn.Module):
    """Quotient-remainder (Shi et al., KDD 2020): the product of a row by ``id // m`` and one by ``id mod m``."""

    def __init__(self, rows: int, dim: int, collisions: int) -> None:
        super().__init__()
        self._m = -(-rows // collisions)
        self.remainder = _table(self._m, dim)
        self.quotient = _table(-(-rows // self._m), dim)
        nn.init.uniform_(self.quotient.weight, 1 - _START, 1 + _START)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.remainder(ids % self._m) * self.quotient(ids // self._m)

    @staticmethod
    def rows_needed(rows: int, collisions: int) -> int:
        m = -(-rows // collisions)
        return m + -(-rows // m)


class DoubleHash(nn.Module):
    """Double hashing (Zhang et al., RecSys 2020): the sum of two rows of one table under two hashes."""

    def __init__(self, name: str, rows: int, capped: int, dim: int) -> None:
        super().__init__()
        self.table = _table(capped, dim)
        all_ids = torch.arange(rows)
        hashed = slots(block_hashes(table_key(name, 0), all_ids, 2), capped)
        self.register_buffer("_places", all_ids[:, None] if capped == rows else hashed, persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table(self._places[ids]).sum(1)


class Projected(nn.Module):
    """Mixed dimensions (Ginart et al., ISIT 2021): a table of its own width and a projection."""

    def __init__(self, rows: int, width: int, dim: int) -> None:
        super().__init__()
        self.table = _table(rows, width)
        self.projection = nn.Linear(width, dim, bias=False) if width < dim else nn.Identity()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.projection(self.table(ids))


class TensorTrain(nn.Module):
    """TT-Rec (Yin et al., MLSys 2021): three cores; row (i, j, k) is the product of their slices."""

    def __init__(self, rows: int, dim: int, rank: int) -> None:
        super().__init__()
        self._n, self._d = factors(rows), _exact_factors(dim)
        shapes = zip(self._n, (1, rank, rank), self._d, (rank, rank, 1), strict=True)
        # A sum of rank^2 products of three: each core's scale makes an element's deviation that of the other tables.
        scale = (_START / math.sqrt(3) / rank) ** (1 / 3)
        self.cores = nn.ParameterList([nn.Parameter(torch.randn(n, a, d, b) * scale) for n, a, d, b in shapes])

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        _, n2, n3 = self._n
        i, j, k = ids // (n2 * n3), ids // n3 % n2, ids % n3
        # Rows of one slice of the middle core together: gathered, a slice a row, it would be hundreds of MB a step.
        order = j.argsort(stable=True)
        first, last = self.cores[0][i[order], 0], self.cores[2][k[order], :, :, 0]
        groups = first.split(j.bincount(minlength=n2).tolist())
        slices = self.cores[1].unbind()
        products = [
            (group.flatten(0, 1) @ middle.flatten(1)).view(len(group), self._d[0] * self._d[1], last.shape[1])
            for group, middle in zip(groups, slices, strict=True)
        ]
        rows = torch.bmm(torch.cat(products), last).flatten(1)
        return rows[order.argsort()]

    @staticmethod
    def numel_needed(rows: int, dim: int, rank: int) -> int:
        n, d = factors(rows), _exact_factors(dim)
        return n[0] * d[0] * rank + n[1] * d[1] * rank * rank + n[2] * d[2] * rank


def factors(rows: int) -> tuple[int, int, int]:
    """Three numbers near the cube root whose product is at least ``rows``."""
    first = math.ceil(rows ** (1 / 3))
    second = math.ceil(math.sqrt(rows / first))
    return first, second, math.ceil(rows / (first * second))


def _exact_factors(dim: int) -> tuple[int, int, int]:
    triples = [(a, b, dim // a // b) for a in range(1, dim + 1) for b in range(1, dim + 1) if dim % (a * b) == 0]
    return min(triples, key=max)


class Clustered(nn.Module):
    """CCE (Tsang & Ahle, NeurIPS 2023), 4 columns: a row is the concatenation of sums of two rows; halfway, :meth:`cluster` makes the
    first pointer that of a k-means cluster of the row learnt so far, and the second table starts anew from zero.

    The pointers of clustered rows are not counted among its bytes (the paper does not).
    """

    COLUMNS = 4

    def __init__(self, name: str, rows: int, capped: int, dim: int) -> None:
        super().__init__()
        self._columns = self.COLUMNS if dim % self.COLUMNS == 0 else 1
        self._capped = capped
        self.tables = nn.ModuleList([_table(capped, dim // self._columns) for _ in range(2 * self._columns)])
        places = slots(block_hashes(table_key(name, 0), torch.arange(rows), 2 * self._columns), capped)
        self.register_buffer("_places", places, persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        places = self._places[ids]
        columns = range(self._columns)
        return torch.cat([self._column(c, places) for c in columns], dim=1)

    def _column(self, column: int, places: torch.Tensor) -> torch.Tensor:
        first, second = 2 * column, 2 * column + 1
        return self.tables[first](places[:, first]) + self.tables[second](places[:, second])

    @torch.no_grad()
    def cluster(self, generator: torch.Generator, iterations: int = 10, sample: int = 20_000) -> None:
        for column in range(self._columns):
            rows = self._column(column, self._places)
            chosen = torch.randperm(len(rows), generator=generator)[: max(sample, self._capped)]
            centres = rows[chosen[: self._capped]].clone()
            for _ in range(iterations):
                nearest = _nearest(rows[chosen], centres)
                sums = torch.zeros_like(centres).index_add_(0, nearest, rows[chosen])
                sizes = torch.bincount(nearest, minlength=len(centres))[:, None]
                centres = torch.where(sizes > 0, sums / sizes.clamp(min=1), centres)
            self._places[:, 2 * column] = _nearest(rows, centres)
            self.tables[2 * column].weight[: len(centres)] = centres
            self.tables[2 * column + 1].weight.zero_()


def _nearest(rows: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    squares = centres.square().sum(1)
    return torch.cat([(squares - 2 * part @ centres.T).argmin(1) for part in rows.split(4096)])


def cluster(embeddings: nn.Module, seed: int) -> None:
    """Clusters its `Clustered` tables, if there are any."""
    generator = torch.Generator().manual_seed(seed)
    for module in embeddings.modules():
        if isinstance(module, Clustered):
            module.cluster(generator)
