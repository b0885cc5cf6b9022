"""A collection of which a plan keeps some tables in a shared array: what EBCs and ECs have in common, and their plans."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import nn
from torchrec.distributed.types import (
    EmbeddingModuleShardingPlan,
    ParameterSharding,
    ShardingEnv,
)
from torchrec.fx import symbolic_trace
from torchrec.modules.embedding_configs import BaseEmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, get_embedding_names_by_table

from torchrec_pss.distributed.array_reduction import ArrayReduction
from torchrec_pss.distributed.array_sharder import ReplicatedArraySharder
from torchrec_pss.modules.pss_config import PSSConfig
from torchrec_pss.modules.shared_array import SharedArrayModule
from torchrec_pss.optim.counterparts import optimizer_of
from torchrec_pss.ranges import shown

if TYPE_CHECKING:
    from typing_extensions import Self  # typing's from Python 3.11 on

# A table's sharding type and compute kernels in a plan; TorchRec's own sharders refuse them by name.
SHARED_ARRAY = "shared_array"
EXACT, SHARED = "exact_in_array", "shared_in_array"
Source = tuple[int, str]  # of an output: the part of a mixed collection that has it, 0 the array, and its key there


@dataclass
class PSSParameterSharding(ParameterSharding):
    """A table in the array, on all ranks. ``compute_kernel`` says how: `EXACT`, or `SHARED` (read through hashing)."""


class PSSModuleShardingPlan(EmbeddingModuleShardingPlan):
    """The plan of a collection of which some tables are in an array.

    Attributes:
        config: the array's.
        array: TorchRec's plan of the array itself.
    """

    config: PSSConfig
    array: EmbeddingModuleShardingPlan

    @property
    def shared_tables(self) -> list[str]:
        return [name for name, sharding in self.items() if sharding.sharding_type == SHARED_ARRAY]


def configs_of(collection: nn.Module) -> list[BaseEmbeddingConfig]:
    """Of an EBC's or an EC's tables."""
    configs: Any = getattr(collection, "embedding_bag_configs", getattr(collection, "embedding_configs", None))
    return list(configs())


def tables_of(collection: nn.Module) -> nn.ModuleDict:
    """The modules that have the tables of TorchRec's EBC or EC, by name."""
    bags = isinstance(collection, EmbeddingBagCollection)
    return cast(nn.ModuleDict, collection.embedding_bags if bags else collection.embeddings)


def weight_of(collection: nn.Module, table: str) -> nn.Parameter:
    """Of a table of TorchRec's EBC or EC."""
    return cast(nn.Parameter, tables_of(collection)[table].weight)


class MixedCollection(nn.Module):
    """Takes the place of a collection: ``array`` has some of its tables, ``tables`` the others; outputs in the collection's order.

    State dicts name the array ``array.array``, and a table of the rest ``tables.embedding_bags.<table>.weight`` (of an EC
    ``embeddings``).

    Args:
        whole: where tables, weights (of the rest) and optimizers in backward are taken from.
        shared: names of the tables that go into the array.
        config: of the array.
        device: of the array; "meta" allocates nothing.

    Raises:
        TypeError: ``whole`` is of another kind.
        ValueError: a name that is no table; a frozen table; optimizers in backward that differ among the shared tables.
    """

    def __init__(self, whole: nn.Module, shared: Sequence[str], config: PSSConfig, device: torch.device | str) -> None:
        super().__init__()
        if not isinstance(whole, self._whole_of):
            raise TypeError(
                f"{type(self).__name__} takes the place of an {self._whole_of.__name__}, got a {type(whole).__name__}"
            )
        configs = configs_of(whole)
        unknown = sorted(set(shared) - {c.name for c in configs})
        if unknown or not shared:
            raise ValueError(
                f"tables of the array must be some of the collection's {[c.name for c in configs]}, got {list(shared)}"
            )
        for name in shared:
            if not weight_of(whole, name).requires_grad:
                raise ValueError(
                    f"table {name!r} is frozen: an array would not keep its rows; pin it with PSSParameterConstraints(pss='never')"
                )
        inside = [c for c in configs if c.name in shared]
        rest = [c for c in configs if c.name not in shared]
        self.array = self._array_of(inside, whole, config, device)
        _hand_over_optimizers(whole, inside, self.array)
        self.tables = None
        if rest:
            self.tables = self._tables_of(rest, whole)
            for c in rest:
                tables_of(self.tables)[c.name].weight = weight_of(whole, c.name)
        self._configs = configs
        self._rest = [c.name for c in rest]
        # A part may know a feature by its name alone that the whole knows as feature@table.
        own: dict[str, list[Source]] = {}
        for number, part in enumerate((inside, rest)):
            names = get_embedding_names_by_table(part)
            own |= {c.name: [(number, key) for key in keys] for c, keys in zip(part, names, strict=True)}
        self._keys = [key for keys in get_embedding_names_by_table(configs) for key in keys]
        self._sources = [source for c in configs for source in own[c.name]]  # of each key, the part and the key there

    @classmethod
    def from_plan(
        cls,
        tables: Sequence[BaseEmbeddingConfig],
        plan: PSSModuleShardingPlan,
        *,
        device: torch.device | str = "cpu",
        **others: Any,
    ) -> "Self":
        """What a plan makes of a collection of these tables, unsharded: it loads the state dict of the planned model's.

        Args:
            others: of TorchRec's collection: ``is_weighted``, or of an EC ``need_indices``.

        Raises:
            TypeError: no entry of a plan with an array, or tables of another kind.
            ValueError: the plan is of other tables.
        """
        if not isinstance(plan, PSSModuleShardingPlan):
            raise TypeError(
                f"the plan must be a collection's entry with an array in it, such as plan.plan['ebc'] of PSSShardingPlanner's, got a "
                f"{type(plan).__name__}; a collection without an array is {cls._whole_of.__name__}(tables=...)"
            )
        if not isinstance(tables, list | tuple) or not all(isinstance(c, cls._config_of_table) for c in tables):
            raise TypeError(f"the tables must be a list of {cls._config_of_table.__name__}, got {shown(tables)}")
        names = [c.name for c in tables]
        if sorted(names) != sorted(plan):
            raise ValueError(f"the plan is of tables {sorted(plan)}, not of {sorted(names)}")
        whole = cls._whole_of(tables=list(tables), device=torch.device(device), **others)
        return cls(whole, plan.shared_tables, plan.config, device)

    def __prepare_scriptable__(self) -> torch.fx.GraphModule:
        """As `SharedArrayModule`'s."""
        return symbolic_trace(self)

    _whole_of: ClassVar[type[nn.Module]]
    _config_of_table: ClassVar[type[BaseEmbeddingConfig]]

    @staticmethod
    def _array_of(tables: list[Any], whole: Any, config: PSSConfig, device: torch.device | str) -> SharedArrayModule:
        raise NotImplementedError

    @staticmethod
    def _tables_of(tables: list[Any], whole: Any) -> nn.Module:
        """On "meta"."""
        raise NotImplementedError


def _hand_over_optimizers(whole: nn.Module, tables: Sequence[BaseEmbeddingConfig], array: SharedArrayModule) -> None:
    """What `apply_optimizer_in_backward` put on the tables stands for the array and its projections."""
    found = {t.name: optimizer_of(weight_of(whole, t.name), None, f"table {t.name!r}") for t in tables}
    first, optimizer = next(iter(found.items()))
    for name, other in found.items():
        if other != optimizer:
            raise ValueError(
                f"tables {first!r} and {name!r} have different optimizers in backward, {optimizer} and {other}; in one array "
                "they must have the same"
            )
    weight: Any = weight_of(whole, first)
    parameter: Any
    for parameter in array.parameters() if optimizer else ():
        # As it is written, for a sharder's fused_params may fill it up.
        parameter._optimizer_classes = list(weight._optimizer_classes)
        parameter._optimizer_kwargs = list(weight._optimizer_kwargs)


class MixedCollectionSharder:
    """What TorchRec's sharder of a collection becomes with this before it in a class's bases: it also carries out a
    `PSSModuleShardingPlan`."""

    mixed_type: ClassVar[type[MixedCollection]]
    array_sharder_type: ClassVar[type[ReplicatedArraySharder[Any]]]
    fused_params: dict[str, Any] | None

    def __init__(self, *args: Any, reduction: ArrayReduction | str = ArrayReduction.DDP, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reduction = ArrayReduction(reduction)

    def array_sharder(self) -> ReplicatedArraySharder[Any]:
        """What shards the array of a plan."""
        return self.array_sharder_type(self.fused_params, reduction=self._reduction)

    def shard(
        self: Any,
        module: nn.Module,
        params: dict[str, ParameterSharding],
        env: ShardingEnv,
        device: torch.device | None = None,
        module_fqn: str | None = None,
    ) -> nn.Module:
        """TorchRec's sharded collection; or, by a plan with shared tables, a `MixedCollection` of sharded parts.

        Raises:
            ValueError: the plan is of other tables; fused_params without a counterpart on an array.
        """
        theirs: Any = super()
        if not isinstance(params, PSSModuleShardingPlan):
            return theirs.shard(module, params, env, device, module_fqn)
        names = [c.name for c in configs_of(module)]
        if set(names) != set(params):
            raise ValueError(f"{module_fqn or 'module'}: the plan is of tables {list(params)}, the module has {names}")
        mixed = self.mixed_type(module, params.shared_tables, params.config, "meta")
        mixed.array = self.array_sharder().shard(mixed.array, params.array, env, device, module_fqn)
        if mixed.tables is not None:
            rest = EmbeddingModuleShardingPlan({n: p for n, p in params.items() if p.sharding_type != SHARED_ARRAY})
            mixed.tables = theirs.shard(mixed.tables, rest, env, device, module_fqn)
        return mixed
