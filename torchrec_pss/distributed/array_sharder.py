"""`ReplicatedArraySharder`: what TorchRec's planner and `DistributedModelParallel` ask about a shared array."""

from typing import Any, ClassVar, Generic, TypeVar

import torch
from fbgemm_gpu.split_embedding_configs import SparseType
from torch import nn
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.types import (
    EmbeddingModuleShardingPlan,
    ModuleSharder,
    QuantizedCommCodecs,
    ShardingEnv,
    ShardingType,
)
from torchrec.modules.embedding_configs import DataType, data_type_to_dtype

from torchrec_pss.distributed.array_reduction import ArrayReduction
from torchrec_pss.distributed.replicated_array import ReplicatedArray
from torchrec_pss.modules.shared_array import OUTPUT_DTYPES, SharedArrayModule
from torchrec_pss.optim.counterparts import optimizer_of, optimizer_options, set_optimizer

ModuleT = TypeVar("ModuleT", bound=SharedArrayModule)


class ReplicatedArraySharder(ModuleSharder[ModuleT], Generic[ModuleT]):
    """Offers the planner one parameter, ``array``, and one way to place it: data-parallel, dense kernel.

    In the plan the array stands as a table of ``numel`` rows of dimension 1, so that its bytes are the true ones.
    Projections are left to the data-parallel wrapper, as any dense layer.

    Args:
        fused_params: as FBGEMM's; an optimizer in them, or an option of one, steps the array in backward
            (`torchrec_pss.optim.counterparts`). What `apply_optimizer_in_backward` put on the array goes before them. ``output_dtype``
            is that of the collection's output.
        qcomm_codecs_registry: as `ModuleSharder`'s; lookups exchange nothing, so it has no use here.
        reduction: how the array's gradient is averaged over the ranks, see `ArrayReduction`.

    Raises:
        ValueError: ``reduction`` is not one of them; fused_params with a name that FBGEMM does not know, or an output_dtype that an array
            does not have.
    """

    module_type: ClassVar[type[SharedArrayModule]]
    sharded_module_type: ClassVar[type[ReplicatedArray]]

    def __init__(
        self,
        fused_params: dict[str, Any] | None = None,
        qcomm_codecs_registry: dict[str, QuantizedCommCodecs] | None = None,
        *,
        reduction: ArrayReduction | str = ArrayReduction.DDP,
    ) -> None:
        super().__init__(qcomm_codecs_registry)
        optimizer_options(fused_params or {})
        _output_dtype(fused_params)
        self.fused_params = fused_params  # TorchRec's estimators ask every sharder
        self._reduction = ArrayReduction(reduction)

    def shard(
        self,
        module: ModuleT,
        params: EmbeddingModuleShardingPlan,
        env: ShardingEnv,
        device: torch.device | None = None,
        module_fqn: str | None = None,
    ) -> ReplicatedArray:
        """Replicates the array on every rank of ``env``, equal to rank 0's.

        Raises:
            ValueError: the plan asks for anything but data_parallel; an optimizer in backward has no counterpart.
        """
        for name, sharding in params.items():
            if sharding.sharding_type != ShardingType.DATA_PARALLEL.value:
                raise ValueError(
                    f"{module_fqn or 'module'}: parameter {name!r} is planned as {sharding.sharding_type}, but a "
                    "shared array can only be data_parallel"
                )
        for parameter in module.parameters():
            set_optimizer(parameter, optimizer_of(parameter, self.fused_params, module_fqn or "module"))
        sharded = self.sharded_module_type(module, env, device, self._reduction)
        sharded.output_dtype = _output_dtype(self.fused_params) or sharded.output_dtype
        return sharded

    def shardable_parameters(self, module: ModuleT) -> dict[str, nn.Parameter]:
        """``{"array": [numel, 1]}``: a view of the array, no copy; it tells the planner of an optimizer in backward.

        Raises:
            ValueError: that one has no counterpart.
        """
        view = nn.Parameter(module.array.detach().view(-1, 1), requires_grad=module.array.requires_grad)
        set_optimizer(view, optimizer_of(module.array, self.fused_params, "the shared array"))
        return {"array": view}

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """Data-parallel alone."""
        return [ShardingType.DATA_PARALLEL.value]

    def compute_kernels(self, sharding_type: str, compute_device_type: str) -> list[str]:
        """Dense alone: the gradient is a tensor as long as the array, or is stepped in backward."""
        return [EmbeddingComputeKernel.DENSE.value]


def _output_dtype(fused_params: dict[str, Any] | None) -> torch.dtype | None:
    """Of a `torch.dtype`, TorchRec's `DataType` or FBGEMM's `SparseType`; None where there is none.

    Raises:
        ValueError: none of them, or none that an array's output can be of.
    """
    dtype = given = (fused_params or {}).get("output_dtype")
    if given is None:
        return None
    if isinstance(given, SparseType):
        dtype = given.as_dtype()
    elif given in list(DataType):
        dtype = data_type_to_dtype(DataType(given))
    if dtype not in OUTPUT_DTYPES:
        raise ValueError(
            f"fused_params: output_dtype must be one of {', '.join(map(str, OUTPUT_DTYPES))}, or TorchRec's or FBGEMM's name of it, got "
            f"{given!r}"
        )
    return dtype
