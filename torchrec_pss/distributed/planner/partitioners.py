"""`FlatCopyPartitioner`: TorchRec's greedy partitioner without its deep copies."""

from typing import Any

from torchrec.distributed.planner.partitioners import GreedyPerfPartitioner, ShardingOptionGroup
from torchrec.distributed.planner.types import DeviceHardware


class _Devices(list[DeviceHardware]):
    """A host's devices. What is added to their storage and times makes new ones, and so a copy may share them."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Devices":
        return _Devices(DeviceHardware(d.rank, d.storage, d.perf) for d in self)


class FlatCopyPartitioner(GreedyPerfPartitioner):
    """Places tables as `GreedyPerfPartitioner` does. That one copies a host's devices deeply for every table that it tries there, up to
    a third of the time of a plan."""

    @classmethod
    def _cohost_partition(cls, group: ShardingOptionGroup, hosts: list[list[DeviceHardware]]) -> None:
        super()._cohost_partition(group, [_Devices(host) for host in hosts])
