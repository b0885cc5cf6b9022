"""TorchRec's planner with one more choice a table: to share the array."""

from torchrec_pss.distributed.planner.planners import PSSShardingPlanner
from torchrec_pss.distributed.planner.types import PSSParameterConstraints

__all__ = ["PSSParameterConstraints", "PSSShardingPlanner"]
