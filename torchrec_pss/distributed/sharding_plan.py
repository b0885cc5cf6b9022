"""The sharders to give to `DistributedModelParallel` and to the planner."""

from torch import nn
from torchrec.distributed.sharding_plan import get_default_sharders
from torchrec.distributed.types import ModuleSharder
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from torchrec_pss.distributed.array_reduction import ArrayReduction
from torchrec_pss.distributed.embedding import PSSEmbeddingCollectionSharder
from torchrec_pss.distributed.embeddingbag import PSSEmbeddingBagCollectionSharder
from torchrec_pss.distributed.mixed_embeddingbag import MixedEmbeddingBagCollectionSharder


def get_default_pss_sharders(
    reduction: ArrayReduction | str = ArrayReduction.DDP,
) -> list[ModuleSharder[nn.Module]]:
    """TorchRec's default sharders and those of the shared array's modules, whose gradient is reduced by ``reduction``. The one of
    EBCs also carries out plans of `PSSShardingPlanner`.

    Raises:
        ValueError: ``reduction`` is not an `ArrayReduction`.
    """
    defaults = [s for s in get_default_sharders() if s.module_type is not EmbeddingBagCollection]
    return [
        *defaults,
        MixedEmbeddingBagCollectionSharder(reduction=reduction),
        PSSEmbeddingBagCollectionSharder(reduction=reduction),
        PSSEmbeddingCollectionSharder(reduction=reduction),
    ]
