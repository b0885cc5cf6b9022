from torchrec_pss.distributed.array_reduction import ArrayReduction
from torchrec_pss.distributed.embedding import PSSEmbeddingCollectionSharder, ShardedPSSEmbeddingCollection
from torchrec_pss.distributed.embeddingbag import (
    PSSEmbeddingBagCollectionSharder,
    ShardedPSSEmbeddingBagCollection,
)
from torchrec_pss.distributed.safe_checkpoint import load_checkpoint
from torchrec_pss.distributed.sharding_plan import get_default_pss_sharders

__all__ = [
    "ArrayReduction",
    "PSSEmbeddingBagCollectionSharder",
    "PSSEmbeddingCollectionSharder",
    "ShardedPSSEmbeddingBagCollection",
    "ShardedPSSEmbeddingCollection",
    "get_default_pss_sharders",
    "load_checkpoint",
]
