"""`PSSConfig`: what a user decides about the shared array."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

HASHES = ("mix64", "robe")


@dataclass(frozen=True)
class PSSConfig:
    """Configuration of one shared array.

    Args:
        array_bytes: budget in bytes for everything that is learned: the array and, where a table is
            read narrower than its embedding_dim, its projection. Optimizer state is not counted.
        block_size: Z, consecutive coordinates read from one hashed place; divides the shared
            coordinates of every shared table. None: the largest of 4, 2, 1 that does, per table.
        hash: "mix64" (docs/hashing.md) or "robe" (the authors' released mapping, to read their checkpoints).
        seed: of the hash, any signed 64-bit integer. Part of a checkpoint's layout.
        sign: whether shared coordinates carry a random sign. Ignored (off) for "robe".
        exact: "auto" (smallest tables first, see `exact_fraction`) or the names of the tables to keep
            exact, that is, with elements of their own for every row.
        exact_fraction: share of the array that "auto" may give to exact tables.
        width: read width of the shared tables, one number or by table name; a table read at less than its
            embedding_dim gets a learned projection. None: embedding_dim.
        prefix: exact coordinates a row of the shared tables before the hashed ones, one number or by table name.
        init_range: elements start uniform in ``[-init_range, init_range]``.

    Raises:
        ValueError: a value out of range.
    """

    array_bytes: int
    block_size: int | None = None
    hash: str = "mix64"
    seed: int = 0
    sign: bool = True
    exact: str | Sequence[str] = "auto"
    exact_fraction: float = 0.3
    width: int | Mapping[str, int] | None = None
    prefix: int | Mapping[str, int] = 0
    init_range: float = 0.05

    def __post_init__(self) -> None:
        if self.hash not in HASHES:
            raise ValueError(f"hash must be one of {HASHES}, got {self.hash!r}")
        if self.array_bytes <= 0:
            raise ValueError(f"array_bytes must be positive, got {self.array_bytes}")
        if self.block_size is not None and self.block_size < 1:
            raise ValueError(f"block_size must be at least 1, got {self.block_size}")
        if not -(1 << 63) <= self.seed < 1 << 63:
            raise ValueError(f"seed must be a signed 64-bit integer, got {self.seed}")
        if isinstance(self.exact, str) and self.exact != "auto":
            raise ValueError(f'exact must be "auto" or a list of table names, got {self.exact!r}')
        if not 0 <= self.exact_fraction <= 1:
            raise ValueError(f"exact_fraction must be in [0, 1], got {self.exact_fraction}")
        if self.init_range <= 0:
            raise ValueError(f"init_range must be positive, got {self.init_range}")
        if self.hash == "robe":
            given = self.width is not None or self.prefix != 0
            if given or self.exact not in ("auto", (), []):
                raise ValueError('hash="robe" has no exact tables, widths or prefixes')
