"""The sharders to give to `DistributedModelParallel` and to the planner."""

import inspect
from typing import Any

from torch import nn
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.fp_embeddingbag import FeatureProcessedEmbeddingBagCollectionSharder
from torchrec.distributed.mc_embedding import ManagedCollisionEmbeddingCollectionSharder
from torchrec.distributed.sharding_plan import get_default_sharders
from torchrec.distributed.types import ModuleSharder, QuantizedCommCodecs
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.modules.fp_embedding_modules import FeatureProcessedEmbeddingBagCollection
from torchrec.modules.mc_embedding_modules import ManagedCollisionEmbeddingCollection

from torchrec_pss.distributed.array_reduction import ArrayReduction
from torchrec_pss.distributed.embedding import PSSEmbeddingCollectionSharder
from torchrec_pss.distributed.embeddingbag import PSSEmbeddingBagCollectionSharder
from torchrec_pss.distributed.mixed_embedding import MixedEmbeddingCollectionSharder
from torchrec_pss.distributed.mixed_embeddingbag import MixedEmbeddingBagCollectionSharder
from torchrec_pss.modules.shared_array import SharedArrayModule


def get_default_pss_sharders(
    reduction: ArrayReduction | str = ArrayReduction.DDP,
    *,
    fused_params: dict[str, Any] | None = None,
    qcomm_codecs_registry: dict[str, QuantizedCommCodecs] | None = None,
) -> list[ModuleSharder[nn.Module]]:
    """TorchRec's default sharders and those of the shared array's modules. Those of EBCs and ECs also carry out plans of
    `PSSShardingPlanner`.

    Args:
        reduction: how an array's gradient is averaged over the ranks, see `ArrayReduction`.
        fused_params: as TorchRec's sharders take them: optimizer, rate and storage of tables; for arrays see `ReplicatedArraySharder`.
        qcomm_codecs_registry: what TorchRec's exchanges are quantised by.

    Raises:
        ValueError: ``reduction`` is not an `ArrayReduction`; fused_params with a name that FBGEMM does not know.
    """
    given = {"fused_params": fused_params, "qcomm_codecs_registry": qcomm_codecs_registry}
    tables = MixedEmbeddingBagCollectionSharder(**given, reduction=reduction)
    replaced = (EmbeddingBagCollection, EmbeddingCollection, FeatureProcessedEmbeddingBagCollection)
    defaults = [_with(s, given) for s in get_default_sharders() if s.module_type not in replaced]
    return [
        *defaults,
        _FeatureProcessedTablesSharder(EmbeddingBagCollectionSharder(**given), qcomm_codecs_registry),
        tables,
        MixedEmbeddingCollectionSharder(**given, reduction=reduction),
        PSSEmbeddingBagCollectionSharder(**given, reduction=reduction),
        PSSEmbeddingCollectionSharder(**given, reduction=reduction),
    ]


def _with(sharder: ModuleSharder[nn.Module], given: dict[str, Any]) -> ModuleSharder[nn.Module]:
    """The same with those of the arguments that its class takes; of inference the sharder itself; of managed collisions one that refuses
    an array."""
    kind = _RemappedTablesSharder if type(sharder) is ManagedCollisionEmbeddingCollectionSharder else type(sharder)
    taken = inspect.signature(type(sharder).__init__).parameters
    if (
        not all(p.default is not p.empty or name == "self" for name, p in taken.items())
        or "Quant" in type(sharder).__name__
    ):
        return sharder
    return kind(**{name: value for name, value in given.items() if name in taken})


class _FeatureProcessedTablesSharder(FeatureProcessedEmbeddingBagCollectionSharder):
    """TorchRec's, of tables; refuses an array by the name of the class that it should be in."""

    def shardable_parameters(self, module: FeatureProcessedEmbeddingBagCollection) -> dict[str, nn.Parameter]:
        if isinstance(module._embedding_bag_collection, SharedArrayModule):
            raise ValueError(
                "FeatureProcessedEmbeddingBagCollection cannot shard a shared array; make it a "
                "torchrec_pss.modules.PSSFeatureProcessedEmbeddingBagCollection"
            )
        return super().shardable_parameters(module)


class _RemappedTablesSharder(ManagedCollisionEmbeddingCollectionSharder):
    """TorchRec's, of tables; refuses an array. Each rank maps the ids of its own rows, and all ranks must read an array at the same ones.
    Around one for EBCs TorchRec makes no module."""

    def shardable_parameters(self, module: ManagedCollisionEmbeddingCollection) -> dict[str, nn.Parameter]:
        if isinstance(module._embedding_module, SharedArrayModule):
            raise ValueError(
                "ManagedCollisionEmbeddingCollection cannot shard a shared array, whose ids must mean the same rows on all ranks; an array "
                "takes any 64-bit id without remapping: put the PSSEmbeddingCollection in its place, with PSSConfig(exact=()) where ids "
                "are not below num_embeddings"
            )
        return super().shardable_parameters(module)
