"""How one byte budget is divided among tables (docs/how/hashing.md, section 3).

A pure function of the configs: the same tables and the same `PSSConfig` give the same
addresses in any process, on any machine, at any world size.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from math import gcd
from typing import TypeVar

import numpy as np
import torch

from torchrec_pss.modules.array_layout import ArrayLayout, TableLayout
from torchrec_pss.modules.pss_config import PSSConfig
from torchrec_pss.modules.table_config import TableConfig
from torchrec_pss.ops.hashing import hot_keys_of, table_key
from torchrec_pss.ops.quantize import element_bytes, kept_keys, key_bytes, projection_bytes, stored_bytes

ALIGNMENT = 16  # elements; exact, prefix and hot regions and slices start at multiples of it
_MAX_SLOTS = (1 << 32) - 1
_EXACT_FRACTION = 0.3
_Numel = TypeVar("_Numel", int, np.ndarray)


def aligned(numel: _Numel) -> _Numel:
    return -(-numel // ALIGNMENT) * ALIGNMENT


def cell_bytes(bits: int, itemsize: int) -> int | Fraction:
    """Stored bytes of an element, its part of a scale included; ``itemsize`` where it is stored as it is trained."""
    return itemsize if bits == 32 else element_bytes(bits)


def largest_fitting(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """The largest number in ``[low, high]`` that fits, where all below it do; ``low`` is taken to fit."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


@dataclass(frozen=True)
class _Shape:
    """A table's width, prefix, block and hot rows, before it has a place."""

    config: TableConfig
    width: int
    prefix: int
    block: int
    hot_keys: torch.Tensor
    bias: bool
    hot_drop: int = 0

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def shared_width(self) -> int:
        return self.width - self.prefix

    @property
    def prefix_numel(self) -> int:
        return aligned(self.config.num_embeddings * self.prefix)

    @property
    def hot_numel(self) -> int:
        return aligned(len(self.hot_keys) * self.shared_width)

    @property
    def own_numel(self) -> int:
        return self.prefix_numel + self.hot_numel

    @property
    def projection_numel(self) -> int:
        dim = self.config.embedding_dim
        return (self.width + self.bias) * dim if self.width < dim else 0

    def slice_numel(self, cap: int) -> int:
        """Elements of the table's slice when no slice holds more than ``cap`` rows."""
        cold = max(self.config.num_embeddings - len(self.hot_keys), 1)
        return aligned(min(cold, cap) * self.shared_width)


def allocate(tables: Sequence[TableConfig], config: PSSConfig, itemsize: int) -> ArrayLayout:
    """Divides ``config.array_bytes`` among the tables. What ``layout="auto"`` leaves open must have been chosen before
    (`torchrec_pss.modules.auto_layout.choose`); None means the plain layout's choice.

    Args:
        tables: TorchRec's embedding configs; names are unique, only shapes are read.
        config: the budget and the choices.
        itemsize: bytes of an element while it is trained.

    Raises:
        ValueError: duplicate or unknown table names, a block size that does not divide, a width or prefix out of
            range, hot rows of an exact table, or a budget too small, with the smallest that works.
    """
    check_tables(tables, config)
    if config.hash == "robe":
        return _allocate_robe(tables, config, itemsize)
    exact = _exact_names(tables, config, itemsize)
    shapes = [_exact_shape(t, config) if t.name in exact else _shared_shape(t, config) for t in tables]

    budget = _array_numel(config, shapes, itemsize)
    own = sum(shape.own_numel for shape in shapes)
    least = _least_shared(shapes, config)
    shared = budget - own if least else 0
    if shared < least or own > budget:
        smallest = stored_bytes(own + least, config.element_bits, itemsize) + _bytes_beside(shapes, config)
        raise ValueError(
            f"array_bytes = {config.array_bytes} is too small for {_names(shapes)}: the smallest budget that works "
            f"for this choice of exact tables, widths, prefixes and hot rows is {smallest} bytes"
        )
    slices = {s.name: (0, shared) for s in shapes}
    by_name = sorted(shapes, key=lambda s: s.name)
    if config.has_slices and least:
        slices = _slices(by_name, shared, config.slices or {})
        shared = sum(numel for _, numel in slices.values())
    bases = _consecutive(shared, {s.name: s.prefix_numel for s in by_name})
    hot_first = shared + sum(s.prefix_numel for s in shapes)
    hot_bases = _consecutive(hot_first, {s.name: s.hot_numel for s in by_name})
    hot_begins = _consecutive(0, {s.name: len(s.hot_keys) for s in by_name})
    layouts = [_place(s, config, slices[s.name], bases[s.name], hot_begins[s.name], hot_bases[s.name]) for s in shapes]
    sign = config.sign is not False
    hot_keys = torch.cat([s.hot_keys for s in by_name])
    return ArrayLayout(
        "mix64",
        config.seed,
        sign,
        shared + own,
        shared,
        itemsize,
        tuple(layouts),
        hot_keys,
        config.element_bits,
        config.has_short_keys,
    )


def check_tables(tables: Sequence[TableConfig], config: PSSConfig) -> None:
    """Raises ValueError for duplicate names, empty tables, and choices that name tables which are not there."""
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
    for field in ("exact", "width", "prefix", "hot", "slices", "counts"):
        value = getattr(config, field)
        named = value if isinstance(value, Mapping) or (field == "exact" and value != "auto") else ()
        for name in named:
            if name not in seen:
                raise ValueError(f"{field} names table {name!r}, which is not among {sorted(seen)}")
    if config.exact == "auto":
        for table in tables:
            if config.counts and table.name in config.counts:
                _check_ids(table, "counted", config.counts[table.name].ids)
            if config.hot and table.name in config.hot:
                _check_ids(table, "hot", config.hot[table.name])


def _check_ids(table: TableConfig, kind: str, ids: Sequence[int] | np.ndarray | torch.Tensor) -> None:
    found = torch.as_tensor(ids, dtype=torch.int64)
    bad = found[(found < 0) | (found >= table.num_embeddings)]
    if bad.numel():
        raise ValueError(f"table {table.name!r}: {kind} id {int(bad[0])} is out of range [0, {table.num_embeddings})")


def _consecutive(first: int, sizes: Mapping[str, int]) -> dict[str, int]:
    return dict(zip(sizes, accumulate(sizes.values(), initial=first), strict=False))


def _slices(shapes: Sequence[_Shape], numel: int, given: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """(first element, elements) of each table's slice of the shared region: those ``given``, and of what they leave, all rows of small
    tables, and one cap of rows for the others, the largest that fits."""
    sizes = {s.name: aligned(given[s.name]) if s.name in given and s.shared_width else 0 for s in shapes}
    sharing = [s for s in shapes if s.shared_width and s.name not in given]
    if sharing:
        most, numel = max(s.config.num_embeddings for s in sharing), numel - sum(sizes.values())
        cap = largest_fitting(1, most, lambda c: sum(s.slice_numel(c) for s in sharing) <= numel)
        sizes |= {s.name: s.slice_numel(cap) for s in sharing}
    firsts = _consecutive(0, sizes)
    return {name: (firsts[name], sizes[name]) for name in sizes}


def _by_name(value: int | Mapping[str, int] | None, name: str, default: int) -> int:
    if isinstance(value, Mapping):
        return value.get(name, default)
    return default if value is None else value


def _width(table: TableConfig, config: PSSConfig, named_only: bool) -> int:
    dim = table.embedding_dim
    if isinstance(config.width, int):
        return dim if named_only else max(min(config.width, dim), 1)
    width = _by_name(config.width, table.name, dim)
    if not 1 <= width <= dim:
        raise ValueError(f"table {table.name!r}: width must be in [1, embedding_dim = {dim}], got {width}")
    return width


def _exact_shape(table: TableConfig, config: PSSConfig) -> _Shape:
    if config.hot and len(config.hot.get(table.name, ())):
        raise ValueError(f"table {table.name!r} is exact: it has no use for hot rows")
    if table.name in (config.slices or {}):
        raise ValueError(f"table {table.name!r} is exact: it has no use for a slice")
    width = _width(table, config, named_only=True)
    return _Shape(table, width, width, 1, _no_keys(), bool(config.bias))


def _shared_shape(table: TableConfig, config: PSSConfig) -> _Shape:
    width = _width(table, config, named_only=False)
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
    hot, drop = _hot_keys(table, config, prefix) if shared else (_no_keys(), 0)
    return _Shape(table, width, prefix, block if shared else 1, hot, bool(config.bias), drop)


def _no_keys() -> torch.Tensor:
    return torch.zeros(0, dtype=torch.int32)


def _hot_keys(table: TableConfig, config: PSSConfig, prefix: int) -> tuple[torch.Tensor, int]:
    """Keys of the table's hot rows, ascending, and the lower bits that they are without; two ids of one key (odds 2^-32 a pair, of short
    keys more) share a row."""
    ids = torch.as_tensor((config.hot or {}).get(table.name, ()), dtype=torch.int64)
    if prefix:
        _check_ids(table, "hot", ids)
    return kept_keys(hot_keys_of(table_key(table.name, config.seed), ids), config.has_short_keys)


def _has_own_shape(table: TableConfig, config: PSSConfig) -> bool:
    return any(
        isinstance(v, Mapping) and table.name in v for v in (config.width, config.prefix, config.hot, config.slices)
    )


def _exact_names(tables: Sequence[TableConfig], config: PSSConfig, itemsize: int) -> set[str]:
    if config.exact != "auto":
        return set(config.exact)
    candidates = [t for t in tables if not _has_own_shape(t, config)]
    fixed = [_shared_shape(t, config) for t in tables if _has_own_shape(t, config)]
    everything = fixed + [_exact_shape(t, config) for t in candidates]
    needed = sum(s.own_numel for s in everything) + _least_shared(fixed, config)
    if needed <= _array_numel(config, everything, itemsize):
        return {t.name for t in candidates}
    shapes = [_shared_shape(t, config) for t in tables]
    numel = _array_numel(config, shapes, itemsize)
    left = numel - sum(s.own_numel for s in shapes) - _least_shared(shapes, config)
    fraction = _EXACT_FRACTION if config.exact_fraction is None else config.exact_fraction
    room = min(fraction * numel, left)
    names, used = set(), 0
    for table in sorted(candidates, key=lambda t: (t.num_embeddings * t.embedding_dim, t.name)):
        used += aligned(table.num_embeddings * table.embedding_dim)
        if used > room:
            break
        names.add(table.name)
    return names


def _least_shared(shapes: Sequence[_Shape], config: PSSConfig) -> int:
    """The smallest shared region: one row of the widest table, or with slices those given, and one row of every other table."""
    if config.has_slices:
        given = config.slices or {}
        return sum(aligned(given.get(s.name, s.shared_width)) for s in shapes if s.shared_width)
    return aligned(max((s.shared_width for s in shapes), default=0))


def _array_numel(config: PSSConfig, shapes: Sequence[_Shape], itemsize: int) -> int:
    left = max(config.array_bytes - _bytes_beside(shapes, config), 0)
    numel = int(left // cell_bytes(config.element_bits, itemsize)) // ALIGNMENT * ALIGNMENT
    return (
        numel if stored_bytes(numel, config.element_bits, itemsize) <= left else numel - ALIGNMENT
    )  # the last scale is of fewer elements


def _bytes_beside(shapes: Sequence[_Shape], config: PSSConfig) -> int:
    """Of what is not in the array: projections and hot keys."""
    keys, numel = sum(len(s.hot_keys) for s in shapes), sum(s.projection_numel for s in shapes)
    return projection_bytes(numel, config.element_bits) + key_bytes(keys, config.has_short_keys)


def _place(
    shape: _Shape, config: PSSConfig, slice_: tuple[int, int], base: int, hot_begin: int, hot_base: int
) -> TableLayout:
    table = shape.config
    first, numel = slice_
    slots = numel // shape.block if shape.shared_width else 0
    if slots > _MAX_SLOTS:
        raise ValueError(f"table {table.name!r}: {slots} slots; the format holds at most {_MAX_SLOTS}")
    num_hot = len(shape.hot_keys)
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
        first=first if shape.shared_width else 0,
        hot_begin=hot_begin if num_hot else 0,
        hot_end=hot_begin + num_hot if num_hot else 0,
        hot_base=hot_base if num_hot else 0,
        hot_drop=shape.hot_drop if num_hot else 0,
        bias=shape.bias and shape.width < table.embedding_dim,
    )


def _allocate_robe(tables: Sequence[TableConfig], config: PSSConfig, itemsize: int) -> ArrayLayout:
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
    names = [s.name for s in shapes]
    return f"table {names[0]!r}" if len(names) == 1 else f"{len(names)} tables ({names[0]!r} .. {names[-1]!r})"
