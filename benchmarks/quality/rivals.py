"""Every contestant at a budget of bytes. A builder takes tables, bytes, counts and a variant (a width or nothing), and
returns an EBC (for `EmbeddingConfig`s an EC) and the bytes of all that it learns; ValueError where it cannot be had at that budget. Those
that are layouts of the array take bits of an element too; `built` gives all of them few bits."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from benchmarks.quality.composed import (
    Clustered,
    ComposedBags,
    ComposedSequences,
    DoubleHash,
    Projected,
    Quotient,
    TensorTrain,
)
from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection, PSSEmbeddingCollection
from torchrec_pss.modules.allocation import cell_bytes, largest_fitting
from torchrec_pss.modules.id_counts import IdCounts
from torchrec_pss.modules.rival_layouts import capped_rows, exact_tables, narrow_width, row_hashing_width
from torchrec_pss.ops.quantize import key_bytes, quantize

Tables = list[EmbeddingBagConfig] | list[EmbeddingConfig]
Built = tuple[nn.Module, int]
Trials = tuple[tuple[float | None, float], ...]

FULL = 1.0  # the compression under which full tables stand, trained once for all rows of a table


def tables_of(rows: Sequence[int], dim: int) -> list[EmbeddingBagConfig]:
    return [
        EmbeddingBagConfig(name=f"t{i}", num_embeddings=n, embedding_dim=dim, feature_names=[f"f{i}"])
        for i, n in enumerate(rows)
    ]


class Folded(EmbeddingBagCollectionInterface):
    """Row hashing: ids modulo the capped tables' rows, one id a bag."""

    def __init__(self, ebc: PSSEmbeddingBagCollection) -> None:
        super().__init__()
        self.ebc = ebc
        self._rows = torch.tensor([t.num_embeddings for t in ebc.embedding_bag_configs()])[:, None]

    def forward(self, features: KeyedJaggedTensor):
        ids = features.values().view(len(self._rows), -1) % self._rows
        return self.ebc(KeyedJaggedTensor(features.keys(), ids.flatten(), lengths=features.lengths()))

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        return self.ebc.embedding_bag_configs()

    def is_weighted(self) -> bool:
        return False

    @property
    def device(self) -> torch.device:
        return self.ebc.device


def array(tables: Tables, config: PSSConfig) -> Built:
    """The layout of the array that ``config`` says."""
    collection = PSSEmbeddingBagCollection if _are_bags(tables) else PSSEmbeddingCollection
    embeddings = collection(tables, config=config)
    return embeddings, embeddings.layout.embedding_bytes


def _are_bags(tables: Tables) -> bool:
    return isinstance(tables[0], EmbeddingBagConfig)


def _head(tables: Tables) -> str:
    """Of the lab's models: those that take an EC have attention's dot products."""
    return "mlp" if _are_bags(tables) else "dot"


def pss(tables: Tables, array_bytes: int, counts: dict[str, IdCounts], variant, bits: int = 32) -> Built:
    return array(tables, PSSConfig(array_bytes=array_bytes, counts=counts, bits=bits, head=_head(tables)))


def full(tables: Tables, array_bytes: int, counts, variant) -> Built:
    dim = tables[0].embedding_dim
    return array(tables, exact_tables(tables, 1 << 60, dim))


def narrow(tables: Tables, array_bytes: int, counts, variant, bits: int = 32) -> Built:
    width = narrow_width(tables, array_bytes, bits)
    return array(tables, exact_tables(tables, array_bytes, width, head=_head(tables), bits=bits))


def row_hashing(tables: Tables, array_bytes: int, counts, width: int | None, bits: int = 32) -> Built:
    """``width`` None: that of `train_criteo.py`. An EC has capped tables, whose ids the model takes modulo their rows."""
    width = width or row_hashing_width(tables, array_bytes, bits=bits)
    rows = capped_rows(tables, array_bytes, width, bits)
    capped = [replace(t, num_embeddings=n) for t, n in zip(tables, rows, strict=True)]
    embeddings, size = array(capped, exact_tables(capped, array_bytes, width, head=_head(tables), bits=bits))
    return Folded(embeddings) if _are_bags(tables) else embeddings, size


def robe(tables: Tables, array_bytes: int, counts, block: int) -> Built:
    """As released: the authors' mapping, their initialisation's middle variant U(+-1/sqrt(D))."""
    config = PSSConfig(
        array_bytes=array_bytes, hash="robe", block_size=block, init_range=tables[0].embedding_dim ** -0.5
    )
    return array(tables, config)


def plain(tables: Tables, array_bytes: int, counts, block: int, bits: int = 32) -> Built:
    """One region for all tables, full width, signs: the paper's setup with our hash."""
    return array(tables, PSSConfig(array_bytes=array_bytes, layout="plain", block_size=block, exact=(), bits=bits))


def hot_and_hashed(
    tables: Tables, array_bytes: int, counts: dict[str, IdCounts], share: float, bits: int = 32
) -> Built:
    """CAFE (Zhang et al., SIGMOD 2024) with its hot ids known in advance: full rows for them, hashed rows for the others."""
    dim = tables[0].embedding_dim
    number = int(share * array_bytes / (float(cell_bytes(bits, 4)) * dim + key_bytes(8, bits < 32) / 8))
    threshold = sorted((c for known in counts.values() for c in known.counts.tolist()), reverse=True)[:number]
    least = threshold[-1] + 1 if len(threshold) == number else 1  # no ties beyond the budget
    hot = {name: known.ids[known.counts >= least] for name, known in counts.items()}
    config = PSSConfig(
        array_bytes=array_bytes, layout="plain", exact=(), block_size=dim, hot=hot, segments=True, sign=False, bits=bits
    )
    return array(tables, config)


def _composed(tables: Tables, modules: Sequence[nn.Module], array_bytes: int) -> Built:
    size = sum(p.numel() * 4 for m in modules for p in m.parameters())
    if size > array_bytes:
        raise ValueError(f"needs {size} bytes, more than {array_bytes}")
    return (ComposedBags if _are_bags(tables) else ComposedSequences)(tables, modules), size


def _cap(tables: Tables, array_bytes: int, bytes_of: Callable[[int], int]) -> int:
    cap = largest_fitting(0, max(t.num_embeddings for t in tables), lambda c: bytes_of(c) <= array_bytes)
    if cap == 0:
        raise ValueError(f"does not fit {array_bytes} bytes")
    return cap


def quotient_remainder(tables: Tables, array_bytes: int, counts, variant) -> Built:
    dim = tables[0].embedding_dim

    def rows(collisions: int) -> int:
        return sum(min(t.num_embeddings, Quotient.rows_needed(t.num_embeddings, collisions)) for t in tables)

    fitting = [c for c in range(2, 400) if rows(c) * dim * 4 <= array_bytes]
    if not fitting:
        raise ValueError("no number of collisions fits")
    c = fitting[0]
    modules = [
        Quotient(t.num_embeddings, dim, c)
        if Quotient.rows_needed(t.num_embeddings, c) < t.num_embeddings
        else Projected(t.num_embeddings, dim, dim)
        for t in tables
    ]
    return _composed(tables, modules, array_bytes)


def double_hashing(tables: Tables, array_bytes: int, counts, variant) -> Built:
    dim = tables[0].embedding_dim
    cap = _cap(tables, array_bytes, lambda c: sum(min(t.num_embeddings, c) for t in tables) * dim * 4)
    modules = [DoubleHash(t.name, t.num_embeddings, min(t.num_embeddings, cap), dim) for t in tables]
    return _composed(tables, modules, array_bytes)


def clustered(tables: Tables, array_bytes: int, counts, variant) -> Built:
    dim = tables[0].embedding_dim
    cap = _cap(tables, array_bytes, lambda c: 2 * sum(min(t.num_embeddings, c) for t in tables) * dim * 4)
    modules = [Clustered(t.name, t.num_embeddings, min(t.num_embeddings, cap), dim) for t in tables]
    return _composed(tables, modules, array_bytes)


def mixed_dimensions(tables: Tables, array_bytes: int, counts, variant) -> Built:
    """Widths in proportion to (rows of the smallest table / rows)^alpha, alpha the smallest that fits."""
    dim, least = tables[0].embedding_dim, min(t.num_embeddings for t in tables)

    def widths(alpha: float) -> list[int]:
        return [max(1, round(dim * (least / t.num_embeddings) ** alpha)) for t in tables]

    def size(w: list[int]) -> int:
        return 4 * sum(t.num_embeddings * k + (k * dim if k < dim else 0) for t, k in zip(tables, w, strict=True))

    alphas = [a / 100 for a in range(201)]
    chosen = next((widths(a) for a in alphas if size(widths(a)) <= array_bytes), None)
    if chosen is None:
        raise ValueError(f"no alpha up to {alphas[-1]:g} fits")
    modules = [Projected(t.num_embeddings, k, dim) for t, k in zip(tables, chosen, strict=True)]
    return _composed(tables, modules, array_bytes)


def tensor_train(tables: Tables, array_bytes: int, counts, variant) -> Built:
    """Tables of fewer than 200 rows stay full, as in TT-Rec."""
    dim = tables[0].embedding_dim

    def size(rank: int) -> int:
        return 4 * sum(
            t.num_embeddings * dim if t.num_embeddings < 200 else TensorTrain.numel_needed(t.num_embeddings, dim, rank)
            for t in tables
        )

    rank = largest_fitting(0, 64, lambda r: size(max(r, 1)) <= array_bytes)
    if rank == 0:
        raise ValueError("rank 1 does not fit")
    modules = [
        Projected(t.num_embeddings, dim, dim) if t.num_embeddings < 200 else TensorTrain(t.num_embeddings, dim, rank)
        for t in tables
    ]
    return _composed(tables, modules, array_bytes)


@dataclass(frozen=True)
class Contestant:
    """A builder, and the trials by which it is tuned: (variant, factor on the embeddings' learning rate)."""

    build: Callable[..., Built]
    trials: Trials

    @property
    def is_layout(self) -> bool:
        """Whether it is one of the array's, which knows few bits itself."""
        return self.build in _LAYOUTS

    def built(self, tables: Tables, array_bytes: int, counts: dict[str, IdCounts], variant, bits: int = 32) -> Built:
        """With so many bits an element, full tables apart: at as many stored bytes, to be trained and read within `read_in`."""
        if bits == 32 or self.build is full:
            return self.build(tables, array_bytes, counts, variant)
        if self.is_layout:
            return self.build(tables, array_bytes, counts, variant, bits=bits)
        cell = float(cell_bytes(bits, 4))
        embeddings, size = self.build(tables, int(array_bytes * 4 / cell), counts, variant)
        return embeddings, int(size * cell / 4)

    @contextmanager
    def read_in(self, embeddings: nn.Module, bits: int) -> Iterator[None]:
        """Within it all that is learned is read in so many bits, where that is not a layout's own doing; gradients go straight through."""
        parameters = [] if bits == 32 or self.is_layout or self.build is full else list(embeddings.parameters())
        trained = [p.data for p in parameters]
        for parameter, values in zip(parameters, trained, strict=True):
            parameter.data = quantize(values.flatten(), bits).view_as(values)
        try:
            yield
        finally:
            for parameter, values in zip(parameters, trained, strict=True):
                parameter.data = values


_LAYOUTS = (pss, narrow, row_hashing, plain, hot_and_hashed)
_RATES = tuple((None, f) for f in (1.0, 0.5, 2.0, 4.0))

CONTESTANTS: dict[str, Contestant] = {
    "pss": Contestant(pss, _RATES),
    "full": Contestant(full, _RATES),
    "narrow": Contestant(narrow, _RATES),
    "row hashing": Contestant(row_hashing, ((4, 1.0), (2, 1.0), (1, 1.0), (8, 1.0))),
    "ROBE": Contestant(robe, ((1, 1.0), (4, 1.0), (1, 0.5), (4, 2.0))),
    "PSS plain": Contestant(plain, ((1, 1.0), (4, 1.0), (1, 0.5), (1, 2.0))),
    "QR": Contestant(quotient_remainder, _RATES),
    "mixed dimensions": Contestant(mixed_dimensions, _RATES),
    "tensor train": Contestant(tensor_train, _RATES),
    "double hashing": Contestant(double_hashing, _RATES),
    "CCE": Contestant(clustered, _RATES),
    "CAFE": Contestant(hot_and_hashed, ((0.7, 1.0), (0.5, 1.0), (0.3, 1.0), (0.7, 0.5))),
}

UNTUNED_ROW_HASHING = "row hashing, untuned"
ALL = CONTESTANTS | {UNTUNED_ROW_HASHING: Contestant(row_hashing, ((None, 1.0),))}
