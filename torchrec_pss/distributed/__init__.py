"""The array under `DistributedModelParallel`: sharders, how its gradient is reduced, models that share a part of their tables, and checkpoints."""

from torchrec_pss.distributed.array_reduction import ArrayReduction
from torchrec_pss.distributed.embedding import PSSEmbeddingCollectionSharder, ShardedPSSEmbeddingCollection
from torchrec_pss.distributed.embeddingbag import (
    PSSEmbeddingBagCollectionSharder,
    ShardedPSSEmbeddingBagCollection,
)
from torchrec_pss.distributed.finite_check import NotFiniteError, require_finite
from torchrec_pss.distributed.mixed_embedding import MixedEmbeddingCollection, MixedEmbeddingCollectionSharder
from torchrec_pss.distributed.mixed_embeddingbag import MixedEmbeddingBagCollection, MixedEmbeddingBagCollectionSharder
from torchrec_pss.distributed.safe_checkpoint import (
    add_checksums,
    check_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from torchrec_pss.distributed.sharding_plan import get_default_pss_sharders

__all__ = [
    "ArrayReduction",
    "MixedEmbeddingBagCollection",
    "MixedEmbeddingBagCollectionSharder",
    "MixedEmbeddingCollection",
    "MixedEmbeddingCollectionSharder",
    "NotFiniteError",
    "PSSEmbeddingBagCollectionSharder",
    "PSSEmbeddingCollectionSharder",
    "ShardedPSSEmbeddingBagCollection",
    "ShardedPSSEmbeddingCollection",
    "add_checksums",
    "check_checkpoint",
    "get_default_pss_sharders",
    "load_checkpoint",
    "require_finite",
    "save_checkpoint",
]
