"""Which tables a plan may put into an array, and why it may not put others there."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil
from typing import Any

from torch import nn
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.distributed.types import ModuleSharder
from torchrec.modules.embedding_configs import BaseEmbeddingConfig, DataType, data_type_to_dtype
from torchrec.modules.embedding_modules import (
    EmbeddingBagCollection,
    EmbeddingBagCollectionInterface,
    EmbeddingCollection,
    EmbeddingCollectionInterface,
)

from torchrec_pss.distributed.mixed_collection import MixedCollectionSharder, configs_of, weight_of
from torchrec_pss.distributed.planner.types import PSSParameterConstraints
from torchrec_pss.modules.allocation import aligned, cell_bytes, largest_fitting
from torchrec_pss.modules.shared_array import SharedArrayModule
from torchrec_pss.optim.counterparts import optimizer_of

_INTO_ARRAY = ("always", "exact")
_DATA_TYPES = (DataType.FP32, DataType.FP16, DataType.BF16)
_OF_ANY_TABLE = {  # the others are for tables that are kept in a special way, or are somebody's own
    EmbeddingComputeKernel.DENSE.value,
    EmbeddingComputeKernel.FUSED.value,
    EmbeddingComputeKernel.FUSED_UVM.value,
    EmbeddingComputeKernel.FUSED_UVM_CACHING.value,
}


@dataclass(frozen=True)
class Table:
    """A table of the model.

    Attributes:
        path: of the collection.
        pin: the user's, or "never" where an array cannot have the table.
        reason: why not, where that is not the user's choice.
        optimizer: class and arguments that are to step it in backward, as they stand on an array.
    """

    path: str
    config: BaseEmbeddingConfig
    pin: str = "never"
    reason: str = ""
    optimizer: tuple[type, dict[str, Any]] | None = None

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def itemsize(self) -> int:
        return data_type_to_dtype(self.config.data_type).itemsize

    @property
    def full_bytes(self) -> int:
        return self.config.num_embeddings * self.config.embedding_dim * self.itemsize

    @property
    def described(self) -> str:
        """What all tables of an array have in common: data type and optimizer in backward."""
        if self.optimizer is None:
            return f"{self.config.data_type.value}, no optimizer in backward"
        options = ", ".join(f"{name}={value!r}" for name, value in sorted(self.optimizer[1].items()))
        return f"{self.config.data_type.value}, {self.optimizer[0].__name__}({options})"


def tables_of(
    module: nn.Module,
    constraints: Mapping[str, ParameterConstraints],
    sharders: Sequence[ModuleSharder[nn.Module]] = (),
    bits: int = 32,
) -> list[Table]:
    """The tables of the collections of ``module``, but for those that are in an array already. An array, of elements of ``bits``, can have
    those of plain EBCs and ECs that TorchRec does not shard as part of a larger module; of a collection's, those of one data type and optimizer: the ones that are
    pinned into the array, or else have most bytes.

    Raises:
        ValueError: a `PSSParameterConstraints` names a table that is in none of them, or in an array already, or pins one into the array
            that cannot be there.
    """
    last = {s.module_type: s for s in sharders}
    found: list[Table] = []
    collections = list(_collections(module, last.keys() - {EmbeddingBagCollection, EmbeddingCollection}))
    for path, collection, inside in collections:
        configs = configs_of(collection)
        sharder = last.get(type(collection))
        paths = [p for p, other, _ in collections if other is collection]
        why = _why_none(collection, inside, paths)
        if not why and sharders and not isinstance(sharder, MixedCollectionSharder):
            name = "missing" if sharder is None else f"{type(sharder).__name__}, which knows no arrays"
            why = f"its sharder is {name}; give get_default_pss_sharders()"
        if why:
            found += [Table(path, config, reason=why) for config in configs]
        else:
            fused_params = getattr(sharder, "fused_params", None)
            found += _of_one_kind(
                [_table(path, config, collection, constraints, fused_params, bits) for config in configs]
            )
    names = {table.name for table in found}
    taken = {t.name for m in module.modules() if isinstance(m, SharedArrayModule) for t in m.layout.tables} & set(
        constraints
    )
    for name in sorted(taken - names):
        if _pin(constraints, name) != "auto":
            raise ValueError(
                f"table {name!r} is in a shared array of the model already: its constraint pss={_pin(constraints, name)!r} has no use"
            )
    names |= taken
    unknown = sorted(n for n, c in constraints.items() if isinstance(c, PSSParameterConstraints) and n not in names)
    if unknown:
        raise ValueError(f"constraints name the tables {unknown}; the model's collections have {sorted(names)}")
    for table in found:
        pin = _pin(constraints, table.name)
        if pin in _INTO_ARRAY and table.reason:
            raise ValueError(
                f"table {table.name!r} is pinned into the array (pss={pin!r}), which cannot have it: {table.reason}"
            )
    return found


def _collections(
    module: nn.Module, whole: set[type], path: str = "", inside: str = ""
) -> Iterator[tuple[str, nn.Module, str]]:
    """Path and collection; of one in a module that TorchRec shards as one, that module's path, and its type's name."""
    if isinstance(module, SharedArrayModule):
        return
    if isinstance(module, EmbeddingBagCollectionInterface | EmbeddingCollectionInterface):
        yield path, module, inside
        return
    if not inside and type(module) in whole:
        inside = type(module).__name__
    for name, child in module._modules.items():  # `named_children` passes over what it has met
        if child is None:
            continue
        below = path if inside else f"{path}.{name}" if path else name
        yield from _collections(child, whole, below, inside)


def _why_none(collection: nn.Module, inside: str, paths: list[str]) -> str:
    """Why no table of a collection can be in an array, whatever its sharder."""
    if inside:
        return f"part of a {inside}, which is sharded as one"
    if type(collection) not in (EmbeddingBagCollection, EmbeddingCollection):
        return f"its collection is a {type(collection).__name__}; only EmbeddingBagCollection and EmbeddingCollection are planned"
    if len(paths) > 1:
        return f"its collection is at {' and '.join(paths)}, where sharding makes a copy of its own for each"
    return ""


def _table(
    path: str,
    config: BaseEmbeddingConfig,
    collection: nn.Module,
    constraints: Mapping[str, Any],
    fused_params: Mapping[str, Any] | None,
    bits: int,
) -> Table:
    """With what there is to say of a plain collection's table by itself."""
    weight, optimizer = weight_of(collection, config.name), None
    reason = _why_not(config, weight, constraints.get(config.name), bits)
    if not reason:
        try:
            optimizer = optimizer_of(weight, fused_params, f"table {config.name!r}")
        except ValueError as error:
            reason = str(error)
    pin = "never" if reason else _pin(constraints, config.name)
    return Table(path, config, pin, reason, optimizer)


def _why_not(
    config: BaseEmbeddingConfig, weight: nn.Parameter, constraint: ParameterConstraints | None, bits: int
) -> str:
    """Why an array cannot have a table, whatever its optimizer."""
    if config.use_virtual_table or (constraint is not None and constraint.use_virtual_table):
        return "a virtual table: its rows are made when they are read, and evicted"
    kernels = (constraint is not None and constraint.compute_kernels) or []
    if kernels and not _OF_ANY_TABLE.intersection(kernels):
        return f"its constraints ask for the compute kernel {' or '.join(kernels)}"
    if config.data_type not in _DATA_TYPES:
        return f"its data type is {config.data_type.value}; an array's is FP32, FP16 or BF16"
    if bits < 32 and config.data_type != DataType.FP32:
        return f"its data type is {config.data_type.value}; an array of bits={bits} is made of FP32"
    return "" if weight.requires_grad else "frozen: an array would not keep its rows"


def _pin(constraints: Mapping[str, ParameterConstraints], table: str) -> str:
    return getattr(constraints.get(table), "pss", "auto")


def _of_one_kind(tables: list[Table]) -> list[Table]:
    """Tables of a collection, of which those stay out of its array that differ in data type or optimizer from the ones that are pinned into
    it, or that have most bytes.

    Raises:
        ValueError: tables that are pinned into it differ.
    """
    pinned = [t for t in tables if t.pin in _INTO_ARRAY]
    for table in pinned:
        if table.described != pinned[0].described:
            raise ValueError(
                f"tables {pinned[0].name!r} and {table.name!r} are pinned into one array, and differ in data type or optimizer in backward: "
                f"{pinned[0].described} and {table.described}"
            )
    free = pinned or [t for t in tables if t.pin == "auto"]
    if not free:
        return tables
    kinds: dict[str, int] = {}
    for table in free:
        kinds[table.described] = kinds.get(table.described, 0) + table.full_bytes
    chosen = max(kinds, key=kinds.__getitem__)
    return [
        replace(t, pin="never", reason=f"{t.described}, where the array's tables have {chosen}")
        if t.pin == "auto" and t.described != chosen
        else t
        for t in tables
    ]


def nested_sets(tables: list[Table], mode: str) -> list[list[Table]]:
    """Sets of tables for the array, each containing the one before: those pinned into it, then the others by bytes.

    For ``mode="always"`` one set: all that are not pinned out of it.
    """
    pinned = [t for t in tables if t.pin in _INTO_ARRAY]
    free = sorted((t for t in tables if t.pin == "auto"), key=lambda t: -t.full_bytes)
    if mode == "always":
        return [pinned + free]
    return [pinned + free[:k] for k in range(len(free) + 1)]


def budgets(tables: Sequence[Table], array_bytes: int, exact: Collection[str] = (), bits: int = 32) -> dict[str, int]:
    """Of several collections each has an array of its own. The budget is divided as a layout divides an array among its tables: small tables
    and those that must be exact (``exact``, and those that are pinned so) have room for all of their rows, the others for one number of
    rows, the largest that fits.

    Raises:
        ValueError: what must be exact does not fit.
    """

    def bytes_of(some: Sequence[Table], rows: int) -> int | Fraction:
        return sum(aligned(rows_of(t, rows) * t.config.embedding_dim) * cell_bytes(bits, t.itemsize) for t in some)

    def rows_of(table: Table, rows: int) -> int:
        return table.config.num_embeddings if id(table) in whole_rows else min(table.config.num_embeddings, rows)

    pinned = [t for t in tables if t.pin == "exact" or t.name in exact]
    whole_rows = {id(t) for t in pinned}
    paths = dict.fromkeys(t.path for t in tables)
    if len(paths) > 1 and bytes_of(pinned, 0) > array_bytes:
        raise ValueError(
            f"array_bytes = {array_bytes:,} is too small: the tables that must be exact ({', '.join(t.name for t in pinned)}) have "
            f"{ceil(bytes_of(pinned, 0)):,} bytes, in {len(paths)} collections"
        )
    most = max(t.config.num_embeddings for t in tables)
    rows = largest_fitting(1, most, lambda rows: bytes_of(tables, rows) <= array_bytes)
    whole = bytes_of(tables, rows)
    return {path: array_bytes * bytes_of([t for t in tables if t.path == path], rows) // whole for path in paths}
