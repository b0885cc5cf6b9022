"""`ArrayLayout`: where every table lives in the array, and how a checkpoint names it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import torch

from torchrec_pss.ops import FeatureColumn
from torchrec_pss.ops.quantize import key_bytes, projection_bytes, stored_bytes

FORMAT_VERSION = 2  # of arrays of few bits or short keys 3


@dataclass(frozen=True)
class TableLayout:
    """One table's place in the array; the symbols are those of docs/how/hashing.md, section 1."""

    name: str
    key: int
    embedding_dim: int
    width: int
    prefix: int
    block: int
    slots: int
    rows: int  # as configured; part of the layout only where it moves an address
    base: int
    first: int = 0
    hot_begin: int = 0
    hot_end: int = 0
    hot_base: int = 0
    hot_drop: int = 0
    bias: bool = False

    @property
    def is_exact(self) -> bool:
        return self.prefix == self.width

    @property
    def kind(self) -> str:
        return "exact" if self.is_exact else "prefix" if self.prefix else "hot" if self.num_hot else "shared"

    @property
    def is_projected(self) -> bool:
        return self.width < self.embedding_dim

    @property
    def num_hot(self) -> int:
        return self.hot_end - self.hot_begin

    @property
    def projection_shape(self) -> tuple[int, int]:
        """Rows and columns of the learned projection; the last row is the bias, where there is one."""
        return (self.width + self.bias, self.embedding_dim) if self.is_projected else (0, 0)

    @property
    def own_numel(self) -> int:
        """Elements that only this table reads: exact rows, prefixes and hot rows."""
        return self.rows * self.prefix + self.num_hot * (self.width - self.prefix)

    def feature_row(self) -> dict[FeatureColumn, int]:
        values = (self.key, self.rows, self.width, self.prefix, self.base, self.block, self.slots, self.first,
                  self.hot_begin, self.hot_end, self.hot_base)  # fmt: skip
        return dict(zip(FeatureColumn, values, strict=False)) | {FeatureColumn.HOT_DROP: self.hot_drop}


@dataclass(frozen=True)
class ArrayLayout:
    """The whole array: its size and its tables, in the order of the configs.

    ``hot_keys`` is the op's: int32 ``[K]``, each table's keys in ascending order.
    """

    hash: str
    seed: int
    sign: bool
    numel: int
    shared_numel: int
    itemsize: int
    tables: tuple[TableLayout, ...]
    hot_keys: torch.Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int32), compare=False)
    bits: int = 32  # of a stored element; 32: it is stored as it is trained, in `itemsize` bytes
    has_short_keys: bool = False

    @property
    def array_bytes(self) -> int:
        """Stored bytes of the array alone, scales included."""
        return self.stored_bytes(self.numel)

    def stored_bytes(self, numel: int) -> int:
        """Of so many elements, scales included."""
        return stored_bytes(numel, self.bits, self.itemsize)

    def bytes_of(self, table: TableLayout) -> int:
        """What of the array a table has for itself: own elements, projection, keys of hot rows."""
        rows, columns = table.projection_shape
        own = self.stored_bytes(table.own_numel) + projection_bytes(rows * columns, self.bits)
        return own + key_bytes(table.num_hot, self.has_short_keys)

    @property
    def projection_numel(self) -> int:
        """Elements of the module's `projections`."""
        shapes = [t.projection_shape for t in self.tables]
        return sum(rows * columns for rows, columns in shapes)

    @property
    def projection_bytes(self) -> int:
        return projection_bytes(self.projection_numel, self.bits)

    @property
    def key_bytes(self) -> int:
        return key_bytes(self.hot_keys.numel(), self.has_short_keys)

    @cached_property
    def projection_places(self) -> dict[str, int]:
        """Where in the module's `projections` those of the tables that have one begin: by name, whatever the tables' order."""
        places, end = {}, 0
        for table in sorted(self.tables, key=lambda t: t.name):
            if table.is_projected:
                places[table.name] = end
                rows, columns = table.projection_shape
                end += rows * columns
        return places

    @property
    def embedding_bytes(self) -> int:
        """Bytes of everything learned or stored: the array, the projections and the keys of hot rows."""
        return self.array_bytes + self.projection_bytes + self.key_bytes

    @property
    def full_embedding_bytes(self) -> int:
        """Bytes of the tables that the array stands for, at the array's data type."""
        return sum(t.rows * t.embedding_dim for t in self.tables) * self.itemsize

    def fingerprint(self) -> dict[str, Any]:
        """What a checkpoint must agree in, JSON-ready and independent of table order."""
        tables = {}
        for t in sorted(self.tables, key=lambda t: t.name):
            keep = ("key", "embedding_dim", "width", "prefix", "block", "slots", "first", "bias")
            entry = {k: v for k, v in asdict(t).items() if k in keep}
            if t.prefix > 0 or self.hash == "robe":
                entry |= {"rows": t.rows, "base": t.base}
            if t.num_hot:
                keys = self.hot_keys[t.hot_begin : t.hot_end].numpy().astype("<i4").tobytes()
                digest = hashlib.sha256(keys).hexdigest()[:16]
                entry |= {"hot_rows": t.num_hot, "hot_keys": digest, "hot_base": t.hot_base}
                entry |= {"hot_drop": t.hot_drop} if t.hot_drop else {}
            tables[t.name] = entry
        return {
            **self._version(),
            "hash": self.hash,
            "seed": self.seed,
            "sign": self.sign,
            "numel": self.numel,
            "shared_numel": self.shared_numel,
            "tables": tables,
        }

    def _version(self) -> dict[str, Any]:
        """Of the format, with what version 2 has not."""
        if self.bits < 32:
            return {"format_version": 3, "bits": self.bits}
        return {"format_version": 3, "short_keys": True} if self.has_short_keys else {"format_version": FORMAT_VERSION}

    def __str__(self) -> str:
        """The allocation as a table, one line a table."""
        full = self.full_embedding_bytes
        lines = [
            f"array of {self.numel:,} elements {f'of {self.bits} bits ' if self.bits < 32 else ''}({self.array_bytes:,} bytes), {self.shared_numel:,} shared; "
            f"projections {self.projection_bytes:,} bytes, hot keys {self.key_bytes:,}; "
            f"full tables {full:,} bytes, {full / self.embedding_bytes:,.1f}x",
            f"{'table':<20} {'kind':<8} {'rows':>15} {'dim':>5} {'width':>5} {'prefix':>6} {'Z':>3} {'hot rows':>10} "
            f"{'first element':>14} {'own elements':>13}",
        ]
        for t in self.tables:
            first = f"{t.base:,}" if t.prefix else f"{t.first:,}"
            block = "-" if t.is_exact else t.block
            lines.append(
                f"{t.name:<20} {t.kind:<8} {t.rows:>15,} {t.embedding_dim:>5} {t.width:>5} {t.prefix:>6} {block:>3} "
                f"{t.num_hot:>10,} {first:>14} {t.own_numel:>13,}"
            )
        return "\n".join(lines)


def describe_difference(
    saved: Mapping[str, Any], wanted: Mapping[str, Any], where: tuple[str, str] = ("in the checkpoint", "here")
) -> str | None:
    """Names the first difference between two fingerprints, found ``where``; None where they agree."""
    there, here = where
    saved = _upgraded(saved)
    for name, otherwise in (("bits", 32), ("short_keys", False)):
        old, new = (found.get(name, otherwise) for found in (saved, wanted))
        if old != new:
            return f"{name} is {old!r} {there} and {new!r} {here}"
    for name in ("format_version", "hash", "seed", "sign"):
        if saved.get(name) != wanted[name]:
            return f"{name} is {saved.get(name)!r} {there} and {wanted[name]!r} {here}"
    old, new = saved["tables"], wanted["tables"]
    for name in sorted(old.keys() | new.keys()):
        if name not in new:
            return f"table {name!r} is {there} but not {here}"
        if name not in old:
            return f"table {name!r} is {here} but not {there}"
    # Sizes before places: a changed array size moves slots and bases everywhere.
    for size in ("embedding_dim", "width", "prefix", "block", "bias", "key", "rows", "hot_rows", "hot_keys"):
        for name, entry in new.items():
            if old[name].get(size) != entry.get(size):
                return f"table {name!r}: {size} is {old[name].get(size)} {there} and {entry.get(size)} {here}"
    for size in ("numel", "shared_numel"):
        if saved[size] != wanted[size]:
            return f"the array's {size} is {saved[size]} {there} and {wanted[size]} {here}"
    return None if old == new else "the tables' places in the array differ"


def _upgraded(saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """Version 1 had no slices, hot rows or biases; every address of such a layout is the same in version 2."""
    if saved.get("format_version") != 1:
        return saved
    tables = {name: {"first": 0, "bias": False} | entry for name, entry in saved["tables"].items()}
    return {**saved, "format_version": FORMAT_VERSION, "tables": tables}


def encode_fingerprint(fingerprint: Mapping[str, Any]) -> torch.Tensor:
    """Canonical JSON as a uint8 tensor: loads with ``weights_only`` and from any tensor format."""
    text = json.dumps(fingerprint, sort_keys=True, separators=(",", ":"))
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def decode_fingerprint(encoded: torch.Tensor) -> dict[str, Any]:
    return json.loads(bytes(encoded.cpu().tolist()))
