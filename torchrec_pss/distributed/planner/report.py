"""A plan as a table that one can read: where each table is, its bytes, and the parts of a step."""

from dataclasses import asdict, dataclass
from typing import Any

from torchrec.distributed.planner.types import Perf, ShardingOption
from torchrec.distributed.types import ShardingPlan

from torchrec_pss.distributed.mixed_collection import EXACT, SHARED, SHARED_ARRAY, PSSModuleShardingPlan
from torchrec_pss.distributed.planner.candidates import Table
from torchrec_pss.distributed.planner.planners import PSSShardingPlanner
from torchrec_pss.modules.allocation import allocate

_PARTS = ("fwd_compute", "fwd_comms", "bwd_compute", "bwd_comms")


@dataclass(frozen=True)
class PlannedTable:
    """A table in a plan.

    Attributes:
        kind: "exact_in_array", "shared_in_array", or TorchRec's sharding type.
        full_bytes: of the table's weights.
        bytes: of weights on all ranks together, each counted once; of a shared table only the elements that no other reads,
            with its projection and hot keys.
        reason: why an array cannot have the table; empty where it can.
    """

    module: str
    name: str
    rows: int
    embedding_dim: int
    kind: str
    compute_kernel: str
    full_bytes: int
    bytes: int
    reason: str = ""


@dataclass(frozen=True)
class PlanReport:
    """A plan: its tables, the array's bytes (None without one), the largest bytes of a rank (weights, states, a batch's activations),
    milliseconds of the slowest rank's step, in parts, and the bytes of every rank."""

    tables: list[PlannedTable]
    array_bytes: int | None
    rank_bytes: int
    milliseconds: dict[str, float]
    bytes_of_ranks: list[int]

    @property
    def total_milliseconds(self) -> float:
        return sum(self.milliseconds.values())

    @property
    def parts(self) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in self.milliseconds.items())

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"total_milliseconds": self.total_milliseconds}

    def __str__(self) -> str:
        header = f"{'table':24}{'rows':>16}{'dim':>6}  {'kind':20}{'full bytes':>18}{'bytes':>16}"
        lines = [header, "-" * len(header)]
        for t in self.tables:
            lines.append(f"{t.name[:23]:24}{t.rows:16,}{t.embedding_dim:6}  {t.kind:20}{t.full_bytes:18,}{t.bytes:16,}")
        shared = [t for t in self.tables if t.kind in (EXACT, SHARED)]
        for reason in dict.fromkeys(t.reason for t in self.tables if t.reason):
            names = ", ".join(t.name for t in self.tables if t.reason == reason)
            lines.append(f"left to TorchRec: {names}: {reason}")
        if self.array_bytes is not None:
            full = sum(t.full_bytes for t in shared)
            lines.append(
                f"the array: {self.array_bytes:,} bytes on every rank, for {len(shared)} tables of {full:,} ({full / self.array_bytes:,.0f}x)"
            )
        lines.append(
            f"predicted, slowest rank: {self.total_milliseconds:.3f} ms a step of lookups, exchanges and updates ({self.parts})"
        )
        lines.append(
            f"largest rank: {self.rank_bytes / 1e9:.3f} GB of weights, optimizer states and a batch's activations"
        )
        return "\n".join(lines)


def report_of(planner: PSSShardingPlanner, plan: ShardingPlan, world_size: int) -> PlanReport:
    """What ``planner`` made of a model: call it after ``planner.plan``, with its plan."""
    tables = {(t.path, t.name): t for t in planner.tables}
    planned, array_bytes = [], None
    for path, entry in plan.plan.items():
        layouts = {}
        if isinstance(entry, PSSModuleShardingPlan):
            inside = [tables[path, name].config for name in entry.shared_tables]
            layout = allocate(inside, entry.config, tables[path, entry.shared_tables[0]].itemsize)
            layouts = {t.name: layout.bytes_of(t) for t in layout.tables}
            array_bytes = (array_bytes or 0) + layout.embedding_bytes
        for name, sharding in entry.items():
            if (path, name) in tables:
                planned.append(_planned(tables[path, name], sharding, layouts.get(name)))
    assert planner.chosen is not None  # it has planned
    options = planner.chosen.options or []
    times = rank_times(options, world_size)
    slowest = max(times, key=lambda perf: perf.total)
    of_ranks = _rank_bytes(options, world_size)
    milliseconds = {part: getattr(slowest, part) for part in _PARTS}
    return PlanReport(planned, array_bytes, max(of_ranks), milliseconds, of_ranks)


def _planned(table: Table, sharding: Any, in_array: int | None) -> PlannedTable:
    config = table.config
    shared = sharding.sharding_type == SHARED_ARRAY
    kind = sharding.compute_kernel if shared else sharding.sharding_type
    own = table.full_bytes if in_array is None else in_array
    return PlannedTable(
        table.path,
        table.name,
        config.num_embeddings,
        config.embedding_dim,
        kind,
        sharding.compute_kernel,
        table.full_bytes,
        own,
        table.reason,
    )


def rank_times(options: list[ShardingOption], world_size: int) -> list[Perf]:
    """The parts of a step that a plan's estimates give each rank, in milliseconds."""
    parts = [Perf(0.0, 0.0, 0.0, 0.0) for _ in range(world_size)]
    for option in options:
        for shard in option.shards:
            parts[shard.rank] += shard.perf
    return parts


def _rank_bytes(options: list[ShardingOption], world_size: int) -> list[int]:
    used = [0] * world_size
    for option in options:
        for shard in option.shards:
            used[shard.rank] += shard.storage.hbm or shard.storage.ddr
    return used
