"""`dry_run`: a plan of tables that nobody has, for a topology that is not here."""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torchrec.distributed.planner import Topology
from torchrec.distributed.planner.types import ParameterConstraints, ShardingOption
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from torchrec_pss.datasets.table_list import ListedTable
from torchrec_pss.distributed.planner import PSSShardingPlanner
from torchrec_pss.distributed.planner.partitioners import FlatCopyPartitioner
from torchrec_pss.distributed.planner.report import PlanReport, report_of
from torchrec_pss.distributed.sharding_plan import get_default_pss_sharders
from torchrec_pss.modules.pss_config import PSSConfig


class _Counted(FlatCopyPartitioner):
    """The planner's default one, which says when it has placed a proposal."""

    def __init__(self, step: Callable[[], None]) -> None:
        super().__init__()
        self._step = step

    def partition(self, *given: object, **named: object) -> list[ShardingOption]:
        try:
            return super().partition(*given, **named)
        finally:
            self._step()


def dry_run(
    tables: Sequence[ListedTable],
    topology: Topology,
    pss: str,
    batch_size: int,
    array_bytes: int | str | None = None,
    *,
    bits: int = 32,
    max_compression: float | None = None,
    min_speedup: float = 1.1,
    step: Callable[[], None] = lambda: None,
) -> PlanReport:
    """The planner's choice and what it predicts.

    Args:
        batch_size: rows a rank.
        bits: of a stored element, see `PSSConfig`.
        step: called for every proposal that TorchRec's planner has looked at: hundreds a plan, of every shard of every table.
        others: as `PSSShardingPlanner`'s.

    Raises:
        PlannerError, ValueError: see `PSSShardingPlanner.plan`.
    """
    ebc = EmbeddingBagCollection([t.config for t in tables], device=torch.device("meta"))
    model = torch.nn.ModuleDict({"ebc": ebc})
    planner = PSSShardingPlanner(
        topology,
        pss=pss,
        config=None if pss == "never" else PSSConfig(array_bytes=cast("int | str", array_bytes), bits=bits),
        max_compression=max_compression,
        min_speedup=min_speedup,
        batch_size=batch_size,
        constraints={t.name: ParameterConstraints(pooling_factors=[t.pooling]) for t in tables},
        stats=[],
        partitioner=_Counted(step),
    )
    return report_of(planner, planner.plan(model, get_default_pss_sharders()), topology.world_size)
