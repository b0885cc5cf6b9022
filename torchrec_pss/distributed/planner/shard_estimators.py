"""`ReplicatedArrayEstimator`: time and memory of a shared array, for TorchRec's planner.

TorchRec's own estimators take the array for a table of dimension 1 that one feature reads.
"""

from collections.abc import Mapping

import torch
from torchrec.distributed.planner.constants import BIGINT_DTYPE, POOLING_FACTOR
from torchrec.distributed.planner.types import (
    BasicCommsBandwidths,
    CollectiveType,
    ParameterConstraints,
    Perf,
    ShardEstimator,
    ShardingOption,
    Storage,
    Topology,
)
from torchrec.modules.embedding_configs import BaseEmbeddingConfig

from torchrec_pss.distributed.mixed_collection import configs_of
from torchrec_pss.distributed.planner.step_time import ArrayStepTime, array_step_time
from torchrec_pss.modules.embedding_bag_collection import PSSEmbeddingBagCollection
from torchrec_pss.modules.shared_array import SharedArrayModule
from torchrec_pss.ranges import checked

_OUTPUT_BYTES = 4  # embeddings are fp32 whatever the array is
_REGISTER = 8  # reads that are projected are kept in rows of whole registers of so many numbers
_STATES = {torch.optim.SGD: 0, torch.optim.Adagrad: 1, torch.optim.Adam: 2, torch.optim.AdamW: 2}


class ReplicatedArrayEstimator(ShardEstimator):
    """Overwrites what TorchRec's estimators, run before it, wrote for shared arrays.

    Memory: parameters (array and projections), their gradients and the optimizer's states (in fp32 of an optimizer in backward), and a
    batch's ids, embeddings, and what was read of projected tables. The gradients are DDP's buckets, so that reducing them takes no more.

    Args:
        topology: bandwidths, world size, device.
        constraints: by table; its pooling factors and batch sizes.
        optimizer_states: tensors as long as the array, of an optimizer that is not in backward (Adam 2).

    Raises:
        ValueError: optimizer_states out of range.
    """

    def __init__(
        self,
        topology: Topology,
        constraints: Mapping[str, ParameterConstraints] | None = None,
        optimizer_states: int = 2,
    ) -> None:
        self._topology = topology
        self._constraints = constraints or {}
        self._optimizer_states: int = checked("optimizer_states", optimizer_states)

    def estimate(self, sharding_options: list[ShardingOption], *sharder_data: object, **named: object) -> None:
        """Sets ``perf`` (milliseconds) and ``storage`` (bytes) of the shards of arrays; leaves other options alone.
        What TorchRec hands over about sharders, by names that differ between its versions, is not used."""
        for option in sharding_options:
            module = option.module[1]
            if isinstance(module, SharedArrayModule):
                time, storage = self._time(module, option), self._storage(module, option)
                for shard in option.shards:
                    # The optimizer is part of backward for TorchRec's fused kernels too.
                    shard.perf = Perf(
                        fwd_compute=time.forward,
                        fwd_comms=0.0,
                        bwd_compute=time.backward + time.optimizer,
                        bwd_comms=time.reduce,
                    )
                    shard.storage = storage

    def _reads(
        self, module: SharedArrayModule, option: ShardingOption
    ) -> list[tuple[BaseEmbeddingConfig, float, float]]:
        """Of each feature: its table, the rows of a batch's output, and the ids of a batch."""
        found = []
        pooled = isinstance(module, PSSEmbeddingBagCollection)
        for table in configs_of(module):
            constraint = self._constraints.get(table.name)
            number = len(table.feature_names)
            pooling = constraint.pooling_factors if constraint else [POOLING_FACTOR]
            pooling = pooling if len(pooling) == number else pooling[:1] * number
            rows = constraint.batch_sizes if constraint and constraint.batch_sizes else [option.batch_size]
            rows = rows if len(rows) == number else rows[:1] * number
            found += [(table, r if pooled else r * p, r * p) for r, p in zip(rows, pooling, strict=True)]
        return found

    def _time(self, module: SharedArrayModule, option: ShardingOption) -> ArrayStepTime:
        topology, reads = self._topology, self._reads(module, option)
        on_cpu = topology.compute_device == "cpu"
        return array_step_time(
            input_bytes=sum(ids for *_, ids in reads) * BIGINT_DTYPE,
            output_bytes=sum(rows * table.embedding_dim for table, rows, _ in reads) * _OUTPUT_BYTES,
            array_bytes=module.array.numel() * module.array.element_size(),
            world_size=topology.world_size,
            memory_bandwidth=topology.ddr_mem_bw if on_cpu else topology.hbm_mem_bw,
            link_bandwidth=self._all_reduce_bandwidth(),
            optimizer_states=self._states(option),
            bits=module.layout.bits,
        )

    def _all_reduce_bandwidth(self) -> float:
        """Bytes a millisecond. TorchRec's basic bandwidths give an all-reduce the network between hosts, also where there is one."""
        topology, of = self._topology, CollectiveType.ALL_REDUCE
        if topology.world_size <= topology.local_world_size and isinstance(
            topology.comms_bandwidths, BasicCommsBandwidths
        ):
            of = CollectiveType.ALL_GATHER
        return topology.comms_bandwidths.get_bw(
            local_world_size=topology.local_world_size, world_size=topology.world_size, collective_type=of
        )

    def _states(self, option: ShardingOption) -> int:
        classes = _in_backward(option)
        if not classes or classes[0] not in _STATES:
            return self._optimizer_states
        (options,) = option.tensor._optimizer_kwargs
        return _STATES[classes[0]] + bool(options.get("momentum")) + bool(options.get("amsgrad"))

    def _storage(self, module: SharedArrayModule, option: ShardingOption) -> Storage:
        parameters = sum(p.numel() * p.element_size() for p in module.parameters())
        states = self._states(option)
        learning = parameters * (1 + states)  # gradient and states
        if _in_backward(option) and module.array.element_size() < 4:  # in fp32, on a stand-in
            learning += module.array.numel() * (4 + (4 - module.array.element_size()) * (1 + states))
        layout = module.layout
        layouts = {t.name: t for t in layout.tables}
        activations = (
            layout.array_bytes + 4.0 * layout.projection_numel if layout.bits < 32 else 0.0
        )  # what is read of them
        for table, rows, ids in self._reads(module, option):
            of = layouts[table.name]
            read = -(-(of.width + of.bias) // _REGISTER) * _REGISTER if of.is_projected else 0
            activations += ids * BIGINT_DTYPE + rows * (table.embedding_dim + read) * _OUTPUT_BYTES
        total = round(parameters + learning + activations)
        on_cpu = self._topology.compute_device == "cpu"
        return Storage(hbm=0 if on_cpu else total, ddr=total if on_cpu else 0)


def _in_backward(option: ShardingOption) -> list[type[torch.optim.Optimizer]]:
    """What steps the array in backward: the option's view of it has the class that stands there for one of `torchrec.optim`, and for a
    sharder's fused_params; see `ReplicatedArraySharder.shardable_parameters`."""
    return getattr(option.tensor, "_optimizer_classes", [])
