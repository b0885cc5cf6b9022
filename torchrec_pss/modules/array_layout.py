"""How one byte budget is divided among tables (docs/hashing.md, section 3).

A pure function of the configs: the same tables and the same `PSSConfig` give the same
addresses in any process, on any machine, at any world size.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import gcd

import torch
from torchrec.modules.embedding_configs import BaseEmbeddingConfig

from torchrec_pss.modules.pss_config import PSSConfig
from torchrec_pss.ops import FeatureColumn
from torchrec_pss.ops.hashing import table_key

FORMAT_VERSION = 1
ALIGNMENT = 16  # elements; exact regions start at multiples of it
PROJECTION_BYTES = 4
_MAX_SLOTS = (1 << 32) - 1


@dataclass(frozen=True)
class TableLayout:
    """One table's place in the array; the symbols are those of docs/hashing.md, section 1."""

    name: str
    key: int
    embedding_dim: int
    width: int
    prefix: int
    block: int
    slots: int
    rows: int  # as configured; part of the layout only where it moves an address
    base: int

    @property
    def is_exact(self) -> bool:
        return self.prefix == self.width

    @property
    def is_projected(self) -> bool:
        return self.width < self.embedding_dim

    def feature_row(self) -> dict[FeatureColumn, int]:
        values = (self.key, self.rows, self.width, self.prefix, self.base, self.block, self.slots)
        return dict(zip(FeatureColumn, values, strict=True))


@dataclass(frozen=True)
class ArrayLayout:
    """The whole array: its size and its tables, in the order of the configs."""

    hash: str
    seed: int
    sign: bool
    numel: int
    shared_numel: int
    itemsize: int
    tables: tuple[TableLayout, ...]

    @property
    def projection_bytes(self) -> int:
        return sum(PROJECTION_BYTES * t.width * t.embedding_dim for t in self.tables if t.is_projected)

    @property
    def embedding_bytes(self) -> int:
        """Bytes of everything learned: the array and the projections."""
        return self.numel * self.itemsize + self.projection_bytes

    @property
    def full_embedding_bytes(self) -> int:
        """Bytes of the tables that the array stands for, at the array's data type."""
        return sum(t.rows * t.embedding_dim for t in self.tables) * self.itemsize

    def fingerprint(self) -> dict:
        """What a checkpoint must agree in, JSON-ready and independent of table order."""
        tables = {}
        for t in sorted(self.tables, key=lambda t: t.name):
            entry = {k: v for k, v in asdict(t).items() if k not in ("name", "rows", "base")}
            if t.prefix > 0 or self.hash == "robe":
                entry |= {"rows": t.rows, "base": t.base}
            tables[t.name] = entry
        return {
            "format_version": FORMAT_VERSION,
            "hash": self.hash,
            "seed": self.seed,
            "sign": self.sign,
            "numel": self.numel,
            "shared_numel": self.shared_numel,
            "tables": tables,
        }

    def __str__(self) -> str:
        """The allocation as a table, one line a table."""
        full = self.full_embedding_bytes
        lines = [
            f"array of {self.numel:,} elements ({self.numel * self.itemsize:,} bytes), {self.shared_numel:,} shared; "
            f"projections {self.projection_bytes:,} bytes; "
            f"full tables {full:,} bytes, {full / self.embedding_bytes:,.1f}x",
            f"{'table':<20} {'kind':<8} {'rows':>15} {'dim':>5} {'width':>5} {'prefix':>6} {'Z':>3} "
            f"{'first element':>14} {'own elements':>13}",
        ]
        for t in self.tables:
            kind = "exact" if t.is_exact else "prefix" if t.prefix else "shared"
            base = f"{t.base:,}" if t.prefix else "hashed"
            own = t.rows * t.prefix
            block = "-" if t.is_exact else t.block
            lines.append(
                f"{t.name:<20} {kind:<8} {t.rows:>15,} {t.embedding_dim:>5} {t.width:>5} {t.prefix:>6} {block:>3} "
                f"{base:>14} {own:>13,}"
            )
        return "\n".join(lines)


def describe_difference(saved: Mapping, wanted: Mapping) -> str | None:
    """Names the first difference between two fingerprints; None where they agree."""
    for field in ("format_version", "hash", "seed", "sign"):
        if saved.get(field) != wanted[field]:
            return f"{field} is {saved.get(field)!r} in the checkpoint and {wanted[field]!r} here"
    old, new = saved["tables"], wanted["tables"]
    for name in sorted(old.keys() | new.keys()):
        if name not in new:
            return f"table {name!r} is in the checkpoint but not here"
        if name not in old:
            return f"table {name!r} is here but not in the checkpoint"
    # Sizes before places: a changed array size moves slots and bases everywhere.
    for field in ("embedding_dim", "width", "prefix", "block", "key", "rows"):
        for name, entry in new.items():
            if old[name].get(field) != entry.get(field):
                return (
                    f"table {name!r}: {field} is {old[name].get(field)} in the checkpoint and {entry.get(field)} here"
                )
    for field in ("numel", "shared_numel"):
        if saved[field] != wanted[field]:
            return f"the array's {field} is {saved[field]} in the checkpoint and {wanted[field]} here"
    return None if old == new else "the tables' places in the array differ"


def encode_fingerprint(fingerprint: Mapping) -> torch.Tensor:
    """Canonical JSON as a uint8 tensor: loads with ``weights_only`` and from any tensor format."""
    text = json.dumps(fingerprint, sort_keys=True, separators=(",", ":"))
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def decode_fingerprint(encoded: torch.Tensor) -> dict:
    return json.loads(bytes(encoded.cpu().tolist()))


def aligned(numel: int) -> int:
    return -(-numel // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True)
class _Shape:
    """A table's width, prefix and block, before it has a place."""

    config: BaseEmbeddingConfig
    width: int
    prefix: int
    block: int

    @property
    def own_numel(self) -> int:
        return aligned(self.config.num_embeddings * self.prefix)

    @property
    def projection_numel(self) -> int:
        dim = self.config.embedding_dim
        return self.width * dim if self.width < dim else 0


def allocate(tables: Sequence[BaseEmbeddingConfig], config: PSSConfig, itemsize: int) -> ArrayLayout:
    """Divides ``config.array_bytes`` among the tables.

    Args:
        tables: TorchRec's embedding configs; names are unique, only shapes are read.
        config: the budget and the choices.
        itemsize: bytes an array element.

    Raises:
        ValueError: duplicate or unknown table names, a block size that does not divide, a width or prefix out of
            range, or a budget too small, with the smallest that works.
    """
    _check_tables(tables, config)
    if config.hash == "robe":
        return _allocate_robe(tables, config, itemsize)
    exact = _exact_names(tables, config, itemsize)
    shapes = [_exact_shape(t, config) if t.name in exact else _shared_shape(t, config) for t in tables]

    budget = _array_numel(config.array_bytes, shapes, itemsize)
    own = sum(shape.own_numel for shape in shapes)
    least = _least_shared(shapes)
    shared = budget - own if least else 0
    if shared < least or own > budget:
        smallest = (own + least) * itemsize + PROJECTION_BYTES * sum(s.projection_numel for s in shapes)
        raise ValueError(
            f"array_bytes = {config.array_bytes} is too small for {_names(shapes)}: the smallest budget that works "
            f"for this choice of exact tables, widths and prefixes is {smallest} bytes"
        )
    bases = {}
    next_base = shared
    for shape in sorted(shapes, key=lambda s: s.config.name):
        bases[shape.config.name] = next_base
        next_base += shape.own_numel
    layouts = [_place(shape, config, shared, bases[shape.config.name]) for shape in shapes]
    return ArrayLayout("mix64", config.seed, config.sign, shared + own, shared, itemsize, tuple(layouts))


def _check_tables(tables: Sequence[BaseEmbeddingConfig], config: PSSConfig) -> None:
    seen = set()
    for table in tables:
        if table.name in seen:
            raise ValueError(f"Duplicate table name {table.name}")
        seen.add(table.name)
        if table.embedding_dim < 1 or table.num_embeddings < 1:
            raise ValueError(
                f"table {table.name!r}: embedding_dim and num_embeddings must be at least 1, got "
                f"{table.embedding_dim} and {table.num_embeddings}"
            )
    if not tables:
        raise ValueError("at least one table is needed")
    for field in ("exact", "width", "prefix"):
        value = getattr(config, field)
        named = value if isinstance(value, Mapping) or (field == "exact" and value != "auto") else ()
        for name in named:
            if name not in seen:
                raise ValueError(f"{field} names table {name!r}, which is not among {sorted(seen)}")


def _by_name(value: int | Mapping[str, int] | None, name: str, default: int) -> int:
    if isinstance(value, Mapping):
        return value.get(name, default)
    return default if value is None else value


def _exact_shape(table: BaseEmbeddingConfig, config: PSSConfig) -> _Shape:
    dim = table.embedding_dim
    named = config.width if isinstance(config.width, Mapping) else None
    width = _by_name(named, table.name, dim)
    if not 1 <= width <= dim:
        raise ValueError(f"table {table.name!r}: width must be in [1, embedding_dim = {dim}], got {width}")
    return _Shape(table, width, width, 1)


def _shared_shape(table: BaseEmbeddingConfig, config: PSSConfig) -> _Shape:
    dim = table.embedding_dim
    width = _by_name(config.width, table.name, dim)
    if isinstance(config.width, int):
        width = min(width, dim)
    if not 1 <= width <= dim:
        raise ValueError(f"table {table.name!r}: width must be in [1, embedding_dim = {dim}], got {width}")
    prefix = _by_name(config.prefix, table.name, 0)
    if not 0 <= prefix <= width:
        raise ValueError(f"table {table.name!r}: prefix must be in [0, width = {width}], got {prefix}")
    shared = width - prefix
    block = config.block_size or gcd(shared, 4) or 1
    if shared % block:
        raise ValueError(
            f"table {table.name!r}: block_size {block} does not divide its {shared} shared coordinates; "
            f"{gcd(shared, block)} does"
        )
    return _Shape(table, width, prefix, block if shared else 1)


def _has_own_shape(table: BaseEmbeddingConfig, config: PSSConfig) -> bool:
    return any(isinstance(v, Mapping) and table.name in v for v in (config.width, config.prefix))


def _exact_names(tables: Sequence[BaseEmbeddingConfig], config: PSSConfig, itemsize: int) -> set[str]:
    if config.exact != "auto":
        return set(config.exact)
    candidates = [t for t in tables if not _has_own_shape(t, config)]
    fixed = [_shared_shape(t, config) for t in tables if _has_own_shape(t, config)]
    everything = fixed + [_exact_shape(t, config) for t in candidates]
    needed = sum(s.own_numel for s in everything) + _least_shared(fixed)
    if needed <= _array_numel(config.array_bytes, everything, itemsize):
        return {t.name for t in candidates}
    shapes = [_shared_shape(t, config) for t in tables]
    numel = _array_numel(config.array_bytes, shapes, itemsize)
    left = numel - sum(s.own_numel for s in shapes) - _least_shared(shapes)
    room = min(config.exact_fraction * numel, left)
    names, used = set(), 0
    for table in sorted(candidates, key=lambda t: (t.num_embeddings * t.embedding_dim, t.name)):
        used += aligned(table.num_embeddings * table.embedding_dim)
        if used > room:
            break
        names.add(table.name)
    return names


def _least_shared(shapes: Sequence[_Shape]) -> int:
    """The smallest shared region that holds one row of every table with shared coordinates."""
    widest = max((s.width - s.prefix for s in shapes), default=0)
    return aligned(widest)


def _array_numel(array_bytes: int, shapes: Sequence[_Shape], itemsize: int) -> int:
    left = array_bytes - PROJECTION_BYTES * sum(s.projection_numel for s in shapes)
    return max(left, 0) // itemsize // ALIGNMENT * ALIGNMENT


def _place(shape: _Shape, config: PSSConfig, shared: int, base: int) -> TableLayout:
    table = shape.config
    exact = shape.prefix == shape.width
    slots = 0 if exact else shared // shape.block
    if slots > _MAX_SLOTS:
        raise ValueError(f"table {table.name!r}: {slots} slots; the format holds at most {_MAX_SLOTS}")
    return TableLayout(
        name=table.name,
        key=table_key(table.name, config.seed),
        embedding_dim=table.embedding_dim,
        width=shape.width,
        prefix=shape.prefix,
        block=shape.block,
        slots=slots,
        rows=table.num_embeddings,
        base=base if shape.prefix else 0,
    )


def _allocate_robe(tables: Sequence[BaseEmbeddingConfig], config: PSSConfig, itemsize: int) -> ArrayLayout:
    numel = config.array_bytes // itemsize
    block = config.block_size
    if block is None:
        raise ValueError('hash="robe" needs the block_size of the checkpoint')
    for table in tables:
        if table.embedding_dim % block:
            raise ValueError(
                f"table {table.name!r}: block_size {block} does not divide embedding_dim {table.embedding_dim}; "
                f"{gcd(block, table.embedding_dim)} does"
            )
    if numel < block:
        raise ValueError(f"array_bytes = {config.array_bytes} is too small: one block needs {block * itemsize} bytes")
    layouts = []
    first_row = 0
    for table in tables:
        dim = table.embedding_dim
        layouts.append(
            TableLayout(table.name, first_row, dim, dim, 0, block, numel - block + 1, table.num_embeddings, 0)
        )
        first_row += table.num_embeddings
    if first_row >= 1 << 32:
        raise ValueError(f'hash="robe" holds fewer than 2^32 rows in all, got {first_row}')
    return ArrayLayout("robe", 0, False, numel, numel, itemsize, tuple(layouts))


def _names(shapes: Sequence[_Shape]) -> str:
    names = [s.config.name for s in shapes]
    return f"table {names[0]!r}" if len(names) == 1 else f"{len(names)} tables ({names[0]!r} .. {names[-1]!r})"
