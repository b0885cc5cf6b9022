"""`PSSShardingPlanner`: TorchRec's planner, which may also put tables of plain EBCs into a shared array."""

import copy
import logging
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch.distributed as dist
from torch import nn
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.shard_estimators import EmbeddingPerfEstimator, EmbeddingStorageEstimator
from torchrec.distributed.planner.types import (
    ParameterConstraints,
    PlannerError,
    PlannerErrorType,
    ShardingOption,
)
from torchrec.distributed.types import EmbeddingModuleShardingPlan, ModuleSharder, ShardingPlan
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from torchrec_pss.distributed.array_reduction import ArrayReduction
from torchrec_pss.distributed.mixed_collection import (
    EXACT,
    SHARED,
    SHARED_ARRAY,
    MixedCollection,
    MixedCollectionSharder,
    PSSModuleShardingPlan,
    PSSParameterSharding,
    configs_of,
)
from torchrec_pss.distributed.mixed_embedding import MixedEmbeddingCollection
from torchrec_pss.distributed.mixed_embeddingbag import MixedEmbeddingBagCollection, MixedEmbeddingBagCollectionSharder
from torchrec_pss.distributed.planner.candidates import Table, budgets, nested_sets, tables_of
from torchrec_pss.distributed.planner.partitioners import FlatCopyPartitioner
from torchrec_pss.distributed.planner.shard_estimators import ReplicatedArrayEstimator
from torchrec_pss.distributed.planner.types import MODES, check_constraints
from torchrec_pss.distributed.sharding_plan import get_default_pss_sharders
from torchrec_pss.modules.pss_config import AUTO_BITS, PSSConfig
from torchrec_pss.modules.shared_array import SharedArrayModule
from torchrec_pss.ranges import checked, shown

Sharders = list[ModuleSharder[nn.Module]]

logger: logging.Logger = logging.getLogger(__name__)

_OPTIONS = {  # of sharders: as they are kept, as they are written, and for what
    "fused_params": ("fused_params", "get_default_pss_sharders"),
    "qcomm_codecs_registry": ("qcomm_codecs_registry", "get_default_pss_sharders"),
    "_reduction": ("reduction", "get_default_pss_sharders"),
    "_use_index_dedup": ("use_index_dedup", "MixedEmbeddingCollectionSharder"),
}
_BY_TABLE = ("width", "prefix", "hot", "counts")  # fields of a PSSConfig
_AS_FAST = 1.02  # a plan with fewer shared tables is taken where it is as fast as the fastest but for this factor


@dataclass
class Candidate:
    """A set of tables in the array and the plan that TorchRec's planner found around it.

    Attributes:
        shared: the tables in the array.
        plan: of the model with the array in place; None where there is none.
        rating: the performance model's: milliseconds of the slowest rank's lookups, exchanges and updates.
        options: the plan's sharding options.
        error: why there is no plan.
    """

    shared: list[Table]
    plan: ShardingPlan | None = None
    rating: float = float("inf")
    options: list[ShardingOption] | None = None
    error: str = ""


class PSSShardingPlanner(EmbeddingShardingPlanner):
    """Plans a model with plain `EmbeddingBagCollection`s and `EmbeddingCollection`s; what goes into a shared array is the planner's choice.

    The model is not changed: hand plan and `get_default_pss_sharders()` to `DistributedModelParallel`, whose sharders of EBCs and
    ECs put the array in place.

    - ``pss="never"``: TorchRec's plan, unchanged.
    - ``pss="always"``: every table not pinned elsewhere goes into the array.
    - ``pss="auto"``: as few tables as make the rest fit the topology's memory, the largest first; more of them only where the cost
      model (`step_time.py` for the array, TorchRec's for the rest) says that lookups, exchanges and updates become
      ``min_speedup`` times as fast.

    Args:
        topology: as `EmbeddingShardingPlanner`'s.
        constraints: likewise; they may be `PSSParameterConstraints`.
        pss: see above.
        array_bytes: budget of the array, bytes or text such as "10MB"; or
        config: the whole `PSSConfig`. Names of tables in it that a plan leaves out of the array are passed over; those of no table are
            refused when it plans.
        max_compression: full tables' bytes over the array's, at most; "auto" then shares no more tables than that, and "always"
            refuses.
        min_speedup: of "auto", see above; ``float("inf")`` shares only what does not fit.
        optimizer_states: tensors as long as the array that its optimizer keeps, where it is not in backward (Adam 2).
        **others: as `EmbeddingShardingPlanner`'s.

    Raises:
        ValueError: an unknown mode, no budget, or a number that is none or out of range, of the constraints too; names it.

    Examples:
        >>> import torch
        >>> from torchrec import EmbeddingBagCollection, EmbeddingBagConfig
        >>> from torchrec.distributed.planner import Topology
        >>> from torchrec_pss import PSSShardingPlanner, get_default_pss_sharders
        >>> tables = [
        ...     EmbeddingBagConfig(name="user", num_embeddings=10_000_000, embedding_dim=64, feature_names=["user"]),
        ...     EmbeddingBagConfig(name="country", num_embeddings=200, embedding_dim=64, feature_names=["country"]),
        ... ]
        >>> model = torch.nn.ModuleDict({"ebc": EmbeddingBagCollection(tables, device=torch.device("meta"))})
        >>> topology = Topology(world_size=2, compute_device="cuda", hbm_cap=1 << 30, ddr_cap=1 << 30)  # bytes a rank
        >>> planner = PSSShardingPlanner(topology, array_bytes="10MB")
        >>> plan = planner.plan(model, get_default_pss_sharders())
        >>> plan.plan["ebc"].shared_tables
        ['user']
    """

    _stats: list[Any]

    def __init__(
        self,
        topology: Topology | None = None,
        *,
        pss: str = "auto",
        array_bytes: int | str | None = None,
        config: PSSConfig | None = None,
        max_compression: float | None = None,
        min_speedup: float = 1.1,
        optimizer_states: int = 2,
        constraints: dict[str, ParameterConstraints] | None = None,
        **others: Any,
    ) -> None:
        if pss not in MODES:
            raise ValueError(f"pss must be one of {MODES}, got {pss!r}")
        if pss != "never" and (array_bytes is None) == (config is None):
            raise ValueError("give array_bytes or config, one of them")
        if max_compression is not None:
            max_compression = checked("max_compression", max_compression)
        min_speedup = checked("min_speedup", min_speedup)
        optimizer_states = checked("optimizer_states", optimizer_states)
        if config is not None and not isinstance(config, PSSConfig):
            raise ValueError(f"config must be a PSSConfig, got {config!r}")
        if config is not None and config.bits == AUTO_BITS:
            raise ValueError(
                f"config: bits={AUTO_BITS!r} goes by an array's tables, which the planner chooses: give a number, such as 4"
            )
        check_constraints(constraints or {})
        if pss != "never" and others.get("partitioner") is None:  # which plans many times
            others["partitioner"] = FlatCopyPartitioner()
        super().__init__(topology=topology, constraints=constraints, **others)
        self.pss = pss
        self._config = config or (PSSConfig(array_bytes=array_bytes) if array_bytes is not None else None)
        self._max_compression = max_compression
        self._min_speedup = min_speedup
        if pss != "never" and "enumerator" not in others:
            self._enumerator = EmbeddingEnumerator(
                topology=self._topology,
                batch_size=self._batch_size,
                constraints=constraints,
                estimator=[
                    EmbeddingPerfEstimator(topology=self._topology, constraints=constraints),
                    EmbeddingStorageEstimator(topology=self._topology, constraints=constraints),
                    ReplicatedArrayEstimator(self._topology, constraints, optimizer_states),
                ],
            )
        self.chosen: Candidate | None = None
        self.tables: list[Table] = []
        self._tried: dict[frozenset[tuple[str, str]], Candidate] = {}  # by paths and names of the tables in the array

    def collective_plan(
        self,
        module: nn.Module,
        sharders: Sharders | None = None,
        pg: dist.ProcessGroup | None = None,
    ) -> ShardingPlan:
        """`plan` on the group's first rank, the plan on every rank; and its error on every rank, where TorchRec leaves the others
        waiting.

        Args:
            sharders: `get_default_pss_sharders()` by default.
            pg: the default group by default.
        """
        pg = dist.group.WORLD if pg is None else pg
        result: list[Any] = [None, None]
        if dist.get_rank(pg) == 0:
            try:
                result[0] = self.plan(module, get_default_pss_sharders() if sharders is None else sharders)
            except Exception as error:
                result[1] = _sendable(error)
        assert pg is not None  # or there is no rank
        dist.broadcast_object_list(result, src=dist.get_global_rank(pg, 0), group=pg)
        if result[1] is not None:
            raise result[1]
        return result[0]

    def plan(self, module: nn.Module, sharders: Sharders) -> ShardingPlan:
        """The plan; ``self.chosen`` keeps what it rests on, ``self.tables`` the model's tables, with the reason why an array cannot have
        one.

        Raises:
            ValueError: a constraint on a table that the model does not have; a budget or max_compression that the pinned
                tables break; sharders that cannot carry the plan out.
            PlannerError: no plan fits; says what was tried and what would help.
        """
        constraints = self._constraints or {}
        _check_kinds(module, sharders)
        if any(isinstance(s, MixedCollectionSharder) for s in sharders):
            check_none_is_lost(sharders)
        if self.pss == "never":
            self.tables = tables_of(module, {}, sharders)
            self._best_plan: list[ShardingOption] | None = None  # as in `_candidate`
            plan = super().plan(module, sharders)
            options = cast("list[ShardingOption] | None", self._best_plan) or []  # None where there is nothing to shard
            self.chosen = Candidate([], plan, self._perf_model.rate(options), options)
            return plan
        check_sharders(sharders)
        sharders = [*sharders, *_array_sharders(sharders)]
        self.tables = tables_of(module, constraints, sharders, self._array.element_bits)
        self._check_config(module)
        sets = nested_sets(self.tables, self.pss)
        allowed = [shared for shared in sets if self._within_compression(shared)]
        if not allowed:
            raise ValueError(
                f"max_compression {self._max_compression:g}: the tables that must be in the array have "
                f"{_bytes(sets[0]):,} bytes, {_bytes(sets[0]) / self._array.array_bytes:.1f} times the budget of "
                f"{self._array.array_bytes:,}"
            )
        try:
            chosen = self.chosen = self._best(self._candidates(module, sharders, allowed))
        finally:
            self._tried = {}  # the next model may be another
        if chosen.plan is None:
            raise self._no_plan(module, sharders, sets, allowed, chosen.error)
        with self._array_in_place(module, chosen.shared) as root:
            if self._stats:  # once more, for they print what was planned last
                chosen.plan = super().plan(root, [copy.copy(s) for s in sharders])
            self._best_plan = chosen.options
            plan = self._carried_out(chosen.plan, root, chosen.shared)
        self._log_choice(chosen.shared)
        return plan

    @property
    def _array(self) -> PSSConfig:
        """Of the array, which there is unless ``pss="never"``."""
        assert self._config is not None
        return self._config

    def _check_config(self, module: nn.Module) -> None:
        """
        Raises:
            ValueError: the config names a table that the model does not have.
        """
        inside = (m.layout.tables for m in module.modules() if isinstance(m, SharedArrayModule))
        there = {t.name for t in self.tables} | {t.name for tables in inside for t in tables}
        for field in ("exact", *_BY_TABLE):
            value = getattr(self._array, field)
            unknown = [] if isinstance(value, str | int | None) else sorted(set(value) - there)
            if unknown:
                raise ValueError(
                    f"config: {field} names the tables {unknown}; the model's collections have {sorted(there)}"
                )

    def _within_compression(self, shared: list[Table]) -> bool:
        return self._max_compression is None or _bytes(shared) <= self._max_compression * self._array.array_bytes

    def _candidates(self, module: nn.Module, sharders: Sharders, allowed: list[list[Table]]) -> list[Candidate]:
        """Of n nested sets: the smallest that fits, found by halving, those of 1, 2, 4, ... tables more, and the largest."""
        found = self._tried

        def at(k: int) -> Candidate:
            key = frozenset((t.path, t.name) for t in allowed[k])
            if key not in found:
                found[key] = self._candidate(module, sharders, allowed[k])
            return found[key]

        low, high = 0, len(allowed) - 1
        if at(low).plan is not None:  # as where memory is not what is short
            high = low
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if at(middle).plan is None else (low, middle)
        steps = [low, *(low + (1 << e) for e in range(len(allowed).bit_length())), len(allowed) - 1]
        return [at(k) for k in sorted({k for k in steps if k < len(allowed)})]

    def _candidate(self, module: nn.Module, sharders: Sharders, shared: list[Table]) -> Candidate:
        stats: list[Any] = self._stats
        self._stats = []
        self._best_plan = None  # TorchRec leaves the last one where there is nothing to shard
        try:
            with self._array_in_place(module, shared) as root:
                # Copies, for the enumerator keeps its search space while module and sharders are the same objects.
                plan = super().plan(root, [copy.copy(s) for s in sharders])
            options = cast("list[ShardingOption] | None", self._best_plan) or []  # as in `plan`
            return Candidate(shared, plan, self._perf_model.rate(options), options)
        except PlannerError as error:
            return Candidate(shared, error=str(error))
        finally:
            self._stats = stats

    def _best(self, candidates: list[Candidate]) -> Candidate:
        """The first, which shares fewest tables, or the fewest tables that are about as fast as any."""
        fastest = min(c.rating for c in candidates)
        if candidates[0].rating < self._min_speedup * fastest:
            return candidates[0]
        return next(c for c in candidates if c.rating <= _AS_FAST * fastest)

    @contextmanager
    def _array_in_place(self, module: nn.Module, shared: list[Table]) -> Iterator[nn.Module]:
        """The model with the array in place of its tables, on "meta", for as long as it is planned."""
        if not shared:
            yield module
            return
        replaced = {}
        try:
            root = module
            for path in dict.fromkeys(t.path for t in shared):
                ebc = module.get_submodule(path)
                names = [t.name for t in shared if t.path == path]
                mixed = self._mixed(ebc, names, shared, path)
                if not path:
                    root = mixed
                    break
                replaced[path] = ebc
                module.set_submodule(path, mixed)
            yield root
        finally:
            for path, ebc in replaced.items():
                module.set_submodule(path, ebc)

    def _mixed(self, whole: nn.Module, names: list[str], shared: list[Table], path: str) -> MixedCollection:
        bags = isinstance(whole, EmbeddingBagCollection)
        exact = () if isinstance(self._array.exact, str) else self._array.exact
        own = budgets(shared, self._array.array_bytes, exact, self._array.element_bits)[path]
        try:
            config = self._config_of(shared, path, own)
            return (MixedEmbeddingBagCollection if bags else MixedEmbeddingCollection)(whole, names, config, "meta")
        except ValueError as error:
            if own == self._array.array_bytes:
                raise
            raise ValueError(
                f"{path}: of the array_bytes {self._array.array_bytes:,} its tables have {own:,} by their rows: {error}"
            ) from error

    def _config_of(self, shared: list[Table], path: str, array_bytes: int) -> PSSConfig:
        inside = [t for t in shared if t.path == path]
        names = {t.name for t in inside}
        config = self._array

        def kept(value: Any) -> Any:
            return {k: v for k, v in value.items() if k in names} if isinstance(value, Mapping) else value

        exact = config.exact
        pinned = [t.name for t in inside if t.pin == "exact"]
        if not isinstance(exact, str):
            exact = [name for name in exact if name in names]
        if pinned:
            exact = sorted({*pinned, *([] if isinstance(exact, str) else exact)})
        return replace(
            config,
            array_bytes=array_bytes,
            exact=exact,
            **{field: kept(getattr(config, field)) for field in _BY_TABLE},
        )

    def _carried_out(self, plan: ShardingPlan, root: nn.Module, shared: list[Table]) -> ShardingPlan:
        """The plan by the names of the model as it is: an entry a table."""
        found = dict(plan.plan)
        for path in dict.fromkeys(t.path for t in shared):
            prefix = f"{path}." if path else ""
            mixed = cast(MixedCollection, root.get_submodule(path))
            entry = PSSModuleShardingPlan()
            entry.array = found.pop(f"{prefix}array")
            entry.config = mixed.array.config
            rest = found.pop(f"{prefix}tables", EmbeddingModuleShardingPlan())
            layouts = {t.name: t for t in mixed.array.layout.tables}
            ranks = list(range(self._topology.world_size))
            for name in (c.name for c in configs_of(mixed)):
                if name in layouts:
                    kernel = EXACT if layouts[name].is_exact else SHARED
                    entry[name] = PSSParameterSharding(SHARED_ARRAY, kernel, ranks)
                else:
                    entry[name] = rest[name]
            found[path] = entry
        return ShardingPlan(found)

    def _no_plan(
        self, module: nn.Module, sharders: Sharders, sets: list[list[Table]], allowed: list[list[Table]], error: str
    ) -> PlannerError:
        more = ""
        if len(allowed) < len(sets) and self._candidate(module, sharders, sets[-1]).plan is not None:
            more = f" With max_compression {-(-_bytes(sets[-1]) // self._array.array_bytes)} (all tables shared) a plan fits."
        return PlannerError(
            error_type=PlannerErrorType.INSUFFICIENT_STORAGE,
            message=f"no plan fits, with up to {len(allowed[-1])} tables in an array of {self._array.array_bytes:,} bytes.{more} "
            f"TorchRec's planner says of the last one: {error}",
        )

    def _log_choice(self, tables: list[Table]) -> None:
        shared = _bytes(tables)
        if shared:
            logger.info(
                "%d of the tables, %s bytes, are in a shared array of %s bytes (%.0fx)",
                len(tables), f"{shared:,}", f"{self._array.array_bytes:,}", shared / self._array.array_bytes,
            )  # fmt: skip
        for table in self.tables:
            if table.reason:
                logger.info("table %r is left to TorchRec: %s", table.name, table.reason)


def _check_kinds(module: nn.Module, sharders: Sequence[ModuleSharder[nn.Module]]) -> None:
    """
    Raises:
        TypeError: what is no module, or no list of sharders.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"the model to plan must be a torch.nn.Module, got {shown(module)}")
    if not isinstance(sharders, list | tuple) or not all(isinstance(s, ModuleSharder) for s in sharders):
        raise TypeError(f"sharders must be a list such as get_default_pss_sharders(), got {shown(sharders)}")


def _sendable(error: Exception) -> Exception:
    """The error, or where it cannot be pickled, so that other ranks would wait for it in vain, one with its text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def check_sharders(sharders: Sharders) -> None:
    """
    Raises:
        ValueError: none of them carries out a plan with an array, or another takes its place.
    """
    last = {s.module_type: s for s in sharders}
    if not isinstance(last.get(EmbeddingBagCollection), MixedEmbeddingBagCollectionSharder):
        there = any(isinstance(s, MixedEmbeddingBagCollectionSharder) for s in sharders)
        why = f"{type(last[EmbeddingBagCollection]).__name__} comes last and takes their place; " if there else ""
        raise ValueError(f"these sharders cannot put tables into a shared array; {why}give get_default_pss_sharders()")


def check_none_is_lost(sharders: Sharders) -> None:
    """Of several sharders of one type `DistributedModelParallel` takes the last.

    Raises:
        ValueError: of two of one type the first has fused_params, codecs, a reduction or another option that the last has not, or is of a
            user's class that the last is not of.
    """
    last = {s.module_type: s for s in sharders}
    for sharder in sharders:
        kind, taken = type(sharder).__name__, last[sharder.module_type]
        two = f"two sharders of {sharder.module_type.__name__}: DistributedModelParallel takes the last, {type(taken).__name__}, and loses"
        for name, (argument, giver) in _OPTIONS.items():
            given = getattr(sharder, name, None)
            if given not in (None, False, {}, ArrayReduction.DDP) and given != getattr(taken, name, None):
                raise ValueError(f"{two} {argument} of {kind}; give {giver}({argument}=...) alone")
        own = type(sharder).__module__.split(".")[0] not in ("torchrec", "torchrec_pss")
        if own and not isinstance(taken, type(sharder)):
            raise ValueError(f"{two} what {kind} does; give one sharder of that type, derived from both classes")


def _array_sharders(sharders: Sharders) -> Sharders:
    """Those that TorchRec asks about the arrays and that are not among ``sharders``: the ones that carry out the plan have their own."""
    types = {s.module_type for s in sharders}
    own = [s.array_sharder() for s in sharders if isinstance(s, MixedCollectionSharder)]
    return [s for s in own if s.module_type not in types]


def _bytes(tables: list[Table]) -> int:
    return sum(t.full_bytes for t in tables)
