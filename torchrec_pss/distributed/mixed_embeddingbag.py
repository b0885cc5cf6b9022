"""An `EmbeddingBagCollection` of which a plan keeps some tables in a shared array: how such a plan is carried out."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.types import (
    EmbeddingModuleShardingPlan,
    LazyAwaitable,
    ParameterSharding,
    QuantizedCommCodecs,
    ShardedModule,
    ShardingEnv,
)
from torchrec.fx import symbolic_trace
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, get_embedding_names_by_table
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from torchrec_pss.distributed.array_reduction import ArrayReduction
from torchrec_pss.distributed.embeddingbag import PSSEmbeddingBagCollectionSharder
from torchrec_pss.modules.embedding_bag_collection import PSSEmbeddingBagCollection
from torchrec_pss.modules.pss_config import PSSConfig
from torchrec_pss.modules.tracing import is_traced
from torchrec_pss.optim.counterparts import optimizer_of

# A table's sharding type and compute kernels in a plan; TorchRec's own sharders refuse them by name.
SHARED_ARRAY = "shared_array"
EXACT, SHARED = "exact_in_array", "shared_in_array"


@dataclass
class PSSParameterSharding(ParameterSharding):
    """A table in the array, on all ranks. ``compute_kernel`` says how: `EXACT`, or `SHARED` (read through hashing)."""


class PSSModuleShardingPlan(EmbeddingModuleShardingPlan):
    """The plan of an EBC of which some tables are in an array.

    Attributes:
        config: the array's.
        array: TorchRec's plan of the array itself.
    """

    config: PSSConfig
    array: EmbeddingModuleShardingPlan

    @property
    def shared_tables(self) -> list[str]:
        return [name for name, sharding in self.items() if sharding.sharding_type == SHARED_ARRAY]


class MixedEmbeddingBagCollection(nn.Module):
    """Takes the place of an EBC: ``array`` has some of its tables, ``tables`` the others; outputs in the EBC's order.

    State dicts name the array ``array.array``, and a table of the rest ``tables.embedding_bags.<table>.weight``.

    Args:
        ebc: where tables, weights (of the rest) and optimizers in backward are taken from.
        shared: names of the tables that go into the array.
        config: of the array.
        device: of the array; "meta" allocates nothing.

    Raises:
        ValueError: a name that is no table; a frozen table; optimizers in backward that differ among the shared tables.
    """

    def __init__(
        self, ebc: EmbeddingBagCollection, shared: Sequence[str], config: PSSConfig, device: torch.device | str
    ) -> None:
        super().__init__()
        configs = ebc.embedding_bag_configs()
        unknown = sorted(set(shared) - {c.name for c in configs})
        if unknown or not shared:
            raise ValueError(
                f"tables of the array must be some of the collection's {[c.name for c in configs]}, got {list(shared)}"
            )
        for name in shared:
            if not ebc.embedding_bags[name].weight.requires_grad:
                raise ValueError(
                    f"table {name!r} is frozen: an array would not keep its rows; pin it with PSSParameterConstraints(pss='never')"
                )
        inside = [c for c in configs if c.name in shared]
        rest = [c for c in configs if c.name not in shared]
        self.array = PSSEmbeddingBagCollection(inside, ebc.is_weighted(), device, config=config)
        _hand_over_optimizers(ebc, inside, self.array)
        self.tables = None
        if rest:
            self.tables = EmbeddingBagCollection(rest, ebc.is_weighted(), torch.device("meta"))
            for c in rest:
                self.tables.embedding_bags[c.name].weight = ebc.embedding_bags[c.name].weight
        self._configs = configs
        self._rest = [c.name for c in rest]
        self._warned_of_weights = False
        # A part may know a feature by its name alone that the whole knows as feature@table.
        own = {}
        for number, part in enumerate((inside, rest)):
            names = get_embedding_names_by_table(part)
            own |= {c.name: [(number, key) for key in keys] for c, keys in zip(part, names, strict=True)}
        self._order = _Order(
            keys=[key for keys in get_embedding_names_by_table(configs) for key in keys],
            lengths=[c.embedding_dim for c in configs for _ in c.feature_names],
            sources=[source for c in configs for source in own[c.name]],
            columns=_columns(configs, (inside, rest)),
        )

    @classmethod
    def from_plan(
        cls,
        tables: Sequence[EmbeddingBagConfig],
        plan: PSSModuleShardingPlan,
        is_weighted: bool = False,
        device: torch.device | str = "cpu",
    ) -> "MixedEmbeddingBagCollection":
        """What a plan makes of an EBC of these tables, unsharded: it loads the state dict of the planned model's collection.

        Raises:
            ValueError: the plan is of other tables.
        """
        names = [c.name for c in tables]
        if sorted(names) != sorted(plan):
            raise ValueError(f"the plan is of tables {sorted(plan)}, not of {sorted(names)}")
        ebc = EmbeddingBagCollection(list(tables), is_weighted, torch.device(device))
        return cls(ebc, plan.shared_tables, plan.config, device)

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        """Of all tables, in the EBC's order."""
        return self._configs

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """As `EmbeddingBagCollection`; awaitable, as its sharded form, once the two parts are sharded."""
        if self.tables is None:
            return self.array(features)
        if not is_traced(features):
            self._warn_of_weights(features)
        elif not isinstance(
            self.array, ShardedModule
        ):  # no pipeline, which wants awaitables: TorchScript knows no `_Order`
            return self._traced(features)
        return merge(self.array(features), self.tables(features), self._order, self.array.output_dtype)

    def _traced(self, features: torch.fx.Proxy) -> KeyedTensor:
        values = [self.array(features).values(), self.tables(features).values()]
        columns = [values[part][:, first:end] for part, first, end in self._order.columns]
        whole = torch.cat(columns, dim=1).to(self.array.output_dtype)
        return KeyedTensor(self._order.keys, self._order.lengths, whole)

    def __prepare_scriptable__(self) -> torch.fx.GraphModule:
        """As `SharedArrayModule`'s."""
        return symbolic_trace(self)

    def is_weighted(self) -> bool:
        return self.array.is_weighted()

    def _warn_of_weights(self, features: KeyedJaggedTensor) -> None:
        """TorchRec's exchange of ids and weights has no backward, so that a gradient would have the array's part alone."""
        weights = features.weights_or_none()
        if (
            self._warned_of_weights
            or weights is None
            or not weights.requires_grad
            or not isinstance(self.tables, ShardedModule)
        ):
            return
        self._warned_of_weights = True
        warnings.warn(
            f"the weights of features {features.keys()} require a gradient, to which TorchRec's sharded tables "
            f"{self._rest} add nothing; plan all tables of the collection into the array "
            "(pss='always'), or none",
            stacklevel=3,
        )


@dataclass(frozen=True)
class _Order:
    """Keys and dims of a merged output, and each key's part, with its name there and its first and last column."""

    keys: list[str]
    lengths: list[int]
    sources: list[tuple[int, str]]
    columns: list[tuple[int, int, int]]


def _columns(
    configs: Sequence[EmbeddingBagConfig], parts: Sequence[Sequence[EmbeddingBagConfig]]
) -> list[tuple[int, int, int]]:
    """Of each feature of each table: part, first column there, and the one behind its last."""
    places: dict[str, list[tuple[int, int, int]]] = {}
    for number, part in enumerate(parts):
        first = 0
        for config in part:
            dim = config.embedding_dim
            firsts = [first + i * dim for i in range(len(config.feature_names))]
            places[config.name] = [(number, f, f + dim) for f in firsts]
            first += dim * len(firsts)
    return [place for config in configs for place in places[config.name]]


class _Merged(LazyAwaitable[KeyedTensor]):
    """Both parts' outputs, waited for only when they are used."""

    def __init__(self, parts: Sequence, order: _Order, dtype: torch.dtype) -> None:
        super().__init__()
        self._parts, self._order, self._dtype = parts, order, dtype

    def _wait_impl(self) -> KeyedTensor:
        found = [(p.wait() if isinstance(p, LazyAwaitable) else p).to_dict() for p in self._parts]
        columns = [found[part][key] for part, key in self._order.sources]
        return KeyedTensor(self._order.keys, self._order.lengths, torch.cat(columns, dim=1).to(self._dtype))


@torch.fx.wrap
def merge(array, tables, order: _Order, dtype: torch.dtype) -> KeyedTensor:
    """One `KeyedTensor` of the two parts'; a leaf where pipelines trace the model."""
    merged = _Merged([array, tables], order, dtype)
    awaitable = isinstance(array, LazyAwaitable) or isinstance(tables, LazyAwaitable)
    return merged if awaitable else merged.wait()


def _hand_over_optimizers(ebc: EmbeddingBagCollection, tables: Sequence, array: PSSEmbeddingBagCollection) -> None:
    """What `apply_optimizer_in_backward` put on the tables stands for the array and its projections."""
    found = {t.name: optimizer_of(ebc.embedding_bags[t.name].weight, None, f"table {t.name!r}") for t in tables}
    first, optimizer = next(iter(found.items()))
    for name, other in found.items():
        if other != optimizer:
            raise ValueError(
                f"tables {first!r} and {name!r} have different optimizers in backward, {optimizer} and {other}; in one array "
                "they must have the same"
            )
    weight = ebc.embedding_bags[first].weight
    for parameter in (
        array.parameters() if optimizer else ()
    ):  # as it is written, for a sharder's fused_params may fill it up
        parameter._optimizer_classes = list(weight._optimizer_classes)
        parameter._optimizer_kwargs = list(weight._optimizer_kwargs)


class MixedEmbeddingBagCollectionSharder(EmbeddingBagCollectionSharder):
    """TorchRec's sharder of EBCs, which also carries out a `PSSModuleShardingPlan`.

    Args:
        fused_params, qcomm_codecs_registry: as `EmbeddingBagCollectionSharder`'s, of the tables; for the array, see
            `ReplicatedArraySharder`.
        reduction: of the array's gradient, see `ArrayReduction`.
    """

    def __init__(
        self,
        fused_params: dict[str, Any] | None = None,
        qcomm_codecs_registry: dict[str, QuantizedCommCodecs] | None = None,
        *,
        reduction: ArrayReduction | str = ArrayReduction.DDP,
    ) -> None:
        super().__init__(fused_params, qcomm_codecs_registry)
        self._reduction = ArrayReduction(reduction)

    def shard(
        self,
        module: EmbeddingBagCollection,
        params: dict[str, ParameterSharding],
        env: ShardingEnv,
        device: torch.device | None = None,
        module_fqn: str | None = None,
    ) -> nn.Module:
        """TorchRec's sharded EBC; or, by a plan with shared tables, a `MixedEmbeddingBagCollection` of sharded parts.

        Raises:
            ValueError: the plan is of other tables; fused_params without a counterpart on an array.
        """
        if not isinstance(params, PSSModuleShardingPlan):
            return super().shard(module, params, env, device, module_fqn)
        names = [c.name for c in module.embedding_bag_configs()]
        if set(names) != set(params):
            raise ValueError(f"{module_fqn or 'module'}: the plan is of tables {list(params)}, the module has {names}")
        mixed = MixedEmbeddingBagCollection(module, params.shared_tables, params.config, "meta")
        array_sharder = PSSEmbeddingBagCollectionSharder(self.fused_params, reduction=self._reduction)
        mixed.array = array_sharder.shard(mixed.array, params.array, env, device, module_fqn)
        if mixed.tables is not None:
            rest = EmbeddingModuleShardingPlan({n: p for n, p in params.items() if p.sharding_type != SHARED_ARRAY})
            mixed.tables = super().shard(mixed.tables, rest, env, device, module_fqn)
        return mixed
