"""Which tables a plan may put into the array: nested sets, the largest tables first."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.modules.embedding_configs import EmbeddingBagConfig, data_type_to_dtype
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from torchrec_pss.distributed.planner.types import PSSParameterConstraints


@dataclass(frozen=True)
class Table:
    """A table of a plain EBC of the model."""

    path: str  # of the EBC
    config: EmbeddingBagConfig
    pin: str

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def itemsize(self) -> int:
        return data_type_to_dtype(self.config.data_type).itemsize

    @property
    def full_bytes(self) -> int:
        return self.config.num_embeddings * self.config.embedding_dim * self.itemsize


def tables_of(module: nn.Module, constraints: Mapping[str, ParameterConstraints]) -> list[Table]:
    """The tables of the plain EBCs of ``module``, with what is pinned about them. Frozen tables are pinned out of the array, which would
    not keep their rows.

    Raises:
        ValueError: a `PSSParameterConstraints` pins a table that is in none of them, or a frozen one into the array.
    """
    found = [
        Table(path, config, _pin(child, config.name, constraints))
        for path, child in module.named_modules()
        if type(child) is EmbeddingBagCollection
        for config in child.embedding_bag_configs()
    ]
    names = {table.name for table in found}
    unknown = sorted(n for n, c in constraints.items() if isinstance(c, PSSParameterConstraints) and n not in names)
    if unknown:
        raise ValueError(
            f"constraints name the tables {unknown}; the model's EmbeddingBagCollections have {sorted(names)}"
        )
    return found


def _pin(ebc: EmbeddingBagCollection, table: str, constraints: Mapping[str, ParameterConstraints]) -> str:
    pin = getattr(constraints.get(table), "pss", "auto")
    if ebc.embedding_bags[table].weight.requires_grad:
        return pin
    if pin in ("always", "exact"):
        raise ValueError(
            f"table {table!r} is frozen, and pinned into the array (pss={pin!r}), which would not keep its rows"
        )
    return "never"


def nested_sets(tables: list[Table], mode: str) -> list[list[Table]]:
    """Sets of tables for the array, each containing the one before: those pinned into it, then the others by bytes.

    For ``mode="always"`` one set: all that are not pinned out of it.
    """
    pinned = [t for t in tables if t.pin in ("always", "exact")]
    free = sorted((t for t in tables if t.pin == "auto"), key=lambda t: -t.full_bytes)
    if mode == "always":
        return [pinned + free]
    return [pinned + free[:k] for k in range(len(free) + 1)]


def budget_of(sets: list[Table], path: str, array_bytes: int) -> int:
    """Of several EBCs each has an array of its own; the budget is divided by the bytes of what they replace."""
    whole = sum(t.full_bytes for t in sets)
    return array_bytes * sum(t.full_bytes for t in sets if t.path == path) // whole
