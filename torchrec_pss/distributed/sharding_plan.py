"""The sharders to give to `DistributedModelParallel` and to the planner."""

from torch import nn
from torchrec.distributed.fp_embeddingbag import FeatureProcessedEmbeddingBagCollectionSharder
from torchrec.distributed.sharding_plan import get_default_sharders
from torchrec.distributed.types import ModuleSharder
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.modules.fp_embedding_modules import FeatureProcessedEmbeddingBagCollection

from torchrec_pss.distributed.array_reduction import ArrayReduction
from torchrec_pss.distributed.embedding import PSSEmbeddingCollectionSharder
from torchrec_pss.distributed.embeddingbag import PSSEmbeddingBagCollectionSharder
from torchrec_pss.distributed.mixed_embeddingbag import MixedEmbeddingBagCollectionSharder
from torchrec_pss.modules.shared_array import SharedArrayModule


def get_default_pss_sharders(
    reduction: ArrayReduction | str = ArrayReduction.DDP,
) -> list[ModuleSharder[nn.Module]]:
    """TorchRec's default sharders and those of the shared array's modules, whose gradient is reduced by ``reduction``. The one of
    EBCs also carries out plans of `PSSShardingPlanner`.

    Raises:
        ValueError: ``reduction`` is not an `ArrayReduction`.
    """
    replaced = (EmbeddingBagCollection, FeatureProcessedEmbeddingBagCollection)
    defaults = [s for s in get_default_sharders() if s.module_type not in replaced]
    return [
        *defaults,
        _FeatureProcessedTablesSharder(),
        MixedEmbeddingBagCollectionSharder(reduction=reduction),
        PSSEmbeddingBagCollectionSharder(reduction=reduction),
        PSSEmbeddingCollectionSharder(reduction=reduction),
    ]


class _FeatureProcessedTablesSharder(FeatureProcessedEmbeddingBagCollectionSharder):
    """TorchRec's, of tables; refuses an array by the name of the class that it should be in."""

    def shardable_parameters(self, module: FeatureProcessedEmbeddingBagCollection) -> dict[str, nn.Parameter]:
        if isinstance(module._embedding_bag_collection, SharedArrayModule):
            raise ValueError(
                "FeatureProcessedEmbeddingBagCollection cannot shard a shared array; make it a "
                "torchrec_pss.modules.PSSFeatureProcessedEmbeddingBagCollection"
            )
        return super().shardable_parameters(module)
