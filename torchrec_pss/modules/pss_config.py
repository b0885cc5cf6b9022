"""`PSSConfig`: what a user decides about the shared array."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torchrec_pss.modules.id_counts import IdCounts

HASHES = ("mix64", "robe")
LAYOUTS = ("auto", "plain")
HEADS = ("mlp", "dot")


@dataclass(frozen=True)
class PSSConfig:
    """Configuration of one shared array.

    Args:
        array_bytes: budget in bytes for everything that is learned or must be stored: the array, the projections of
            tables read narrower than their embedding_dim, and the keys of hot rows. Optimizer state is not counted.
        layout: "auto" picks what is None below from the tables, the budget and `counts`
            (torchrec_pss.modules.auto_layout says how); "plain" takes PSS's own choices, those in brackets.
        head: what follows the embeddings: "mlp" (interactions, an MLP) or "dot" (a dot product or attention's scores, where
            a row must have elements of its own to be told apart). Decides what "auto" chooses, and how projections start.
        block_size: Z, consecutive coordinates read from one hashed place; divides the shared coordinates of every shared
            table. [the largest of 4, 2, 1 that does, per table]
        hash: "mix64" (docs/hashing.md) or "robe" (the authors' released mapping, to read their checkpoints).
        seed: of the hash, any signed 64-bit integer. Part of a checkpoint's layout.
        sign: whether shared coordinates carry a random sign. Off for "robe". [True]
        exact: "auto" (small tables may be) or the names of the tables to keep exact, that is, with elements of their own
            for every row. "auto" takes the ids of every table to lie in ``[0, num_embeddings)``; give a list, for instance
            an empty one, where they are arbitrary.
        exact_fraction: share of the array that exact tables may take under ``exact="auto"``. [0.3]
        width: read width of the tables, one number or by table name; a table read at less than its
            embedding_dim gets a learned projection. [embedding_dim]
        prefix: exact coordinates a row of the shared tables before the hashed ones, one number or by table name. [0]
        hot: by table name, ids whose shared coordinates are their own elements instead. [none]
        segments: whether each table hashes into a slice of the shared region of its own, so that rows meet only rows of
            their table, instead of all tables into all of it. [False]
        bias: whether a projection has a bias: a learned vector of the table that every row's embedding includes. [False]
            "auto" takes True for ``head="mlp"``; say True before a plain dot product, where nothing else can
            learn that an item is popular.
        counts: by table name, how often ids occur; what "auto" chooses hot rows from.
        init_range: elements start uniform in ``[-init_range, init_range]``.

    Raises:
        ValueError: a value out of range, or a combination that means nothing.
    """

    array_bytes: int
    layout: str = "auto"
    head: str = "mlp"
    block_size: int | None = None
    hash: str = "mix64"
    seed: int = 0
    sign: bool | None = None
    exact: str | Sequence[str] = "auto"
    exact_fraction: float | None = None
    width: int | Mapping[str, int] | None = None
    prefix: int | Mapping[str, int] | None = None
    hot: Mapping[str, Sequence[int]] | None = None
    segments: bool | None = None
    bias: bool | None = None
    counts: Mapping[str, IdCounts] | None = None
    init_range: float = 0.05

    def __post_init__(self) -> None:
        if self.hash not in HASHES:
            raise ValueError(f"hash must be one of {HASHES}, got {self.hash!r}")
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout must be one of {LAYOUTS}, got {self.layout!r}")
        if self.head not in HEADS:
            raise ValueError(f"head must be one of {HEADS}, got {self.head!r}")
        if self.array_bytes <= 0:
            raise ValueError(f"array_bytes must be positive, got {self.array_bytes}")
        if self.block_size is not None and self.block_size < 1:
            raise ValueError(f"block_size must be at least 1, got {self.block_size}")
        if not -(1 << 63) <= self.seed < 1 << 63:
            raise ValueError(f"seed must be a signed 64-bit integer, got {self.seed}")
        if isinstance(self.exact, str) and self.exact != "auto":
            raise ValueError(f'exact must be "auto" or a list of table names, got {self.exact!r}')
        if self.exact_fraction is not None and not 0 <= self.exact_fraction <= 1:
            raise ValueError(f"exact_fraction must be in [0, 1], got {self.exact_fraction}")
        if self.init_range <= 0:
            raise ValueError(f"init_range must be positive, got {self.init_range}")
        if self.hash == "robe":
            given = self.width is not None or self.prefix not in (None, 0) or self.hot or self.segments or self.bias
            if given or self.exact not in ("auto", (), []):
                raise ValueError('hash="robe" has no exact tables, widths, prefixes, hot rows, segments or bias')
