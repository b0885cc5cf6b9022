"""`PSSEmbeddingBagCollection` under `DistributedModelParallel`."""

import torch
from torchrec.distributed.embedding_types import KJTList
from torchrec.distributed.types import NullShardedModuleContext, ShardedModule, ShardingEnv
from torchrec.sparse.jagged_tensor import KeyedTensor

from torchrec_pss.distributed.array_reduction import ArrayReduction
from torchrec_pss.distributed.array_sharder import ReplicatedArraySharder
from torchrec_pss.distributed.replicated_array import ReplicatedArray
from torchrec_pss.modules.embedding_bag_collection import PSSEmbeddingBagCollection


class ShardedPSSEmbeddingBagCollection(PSSEmbeddingBagCollection, ReplicatedArray):
    """A `PSSEmbeddingBagCollection` whose array is replicated on every rank: KJT in, awaitable `KeyedTensor` out.

    Args:
        module: what is sharded; its parameters are taken over, those of the first rank on every rank.
        env: the ranks.
        device: of this rank; None for that of the module's array.
        reduction: of the array's gradient.

    Raises:
        ValueError: ranks disagree, or the optimizer in backward has no counterpart, see `ReplicatedArray.replicate`.
    """

    def __init__(
        self,
        module: PSSEmbeddingBagCollection,
        env: ShardingEnv,
        device: torch.device | None = None,
        reduction: ArrayReduction = ArrayReduction.DDP,
    ) -> None:
        super().__init__(
            module.embedding_bag_configs(),
            module.is_weighted(),
            "meta",
            config=module.config,
            output_dtype=module.output_dtype,
        )
        self.replicate(module, env, device, reduction)

    forward = ShardedModule.forward

    def compute(self, ctx: NullShardedModuleContext, dist_input: KJTList) -> KeyedTensor:
        """The lookup of this rank's own batch in its copy of the array: a `KeyedTensor`, as the module that is not sharded returns it."""
        return PSSEmbeddingBagCollection.forward(self, dist_input[0])

    @property
    def unsharded_module_type(self) -> type[PSSEmbeddingBagCollection]:
        """The class that it was made of; see TorchRec's `ShardedModule`."""
        return PSSEmbeddingBagCollection


class PSSEmbeddingBagCollectionSharder(ReplicatedArraySharder[PSSEmbeddingBagCollection]):
    """Shards a `PSSEmbeddingBagCollection` the only way there is: data-parallel. See `ReplicatedArraySharder`."""

    module_type = PSSEmbeddingBagCollection
    sharded_module_type = ShardedPSSEmbeddingBagCollection
