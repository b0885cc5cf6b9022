"""One small shared parameter array in place of TorchRec's embedding tables (PSS, arXiv 2207.10731)."""

from torchrec_pss.convert import compress, migrate
from torchrec_pss.distributed import (
    PSSEmbeddingBagCollectionSharder,
    PSSEmbeddingCollectionSharder,
    get_default_pss_sharders,
)
from torchrec_pss.distributed.planner import PSSParameterConstraints, PSSShardingPlanner
from torchrec_pss.modules import PSSConfig, PSSEmbeddingBagCollection, PSSEmbeddingCollection

__version__ = "0.1.0"

__all__ = [
    "PSSConfig",
    "PSSEmbeddingBagCollection",
    "PSSEmbeddingBagCollectionSharder",
    "PSSEmbeddingCollection",
    "PSSEmbeddingCollectionSharder",
    "PSSParameterConstraints",
    "PSSShardingPlanner",
    "compress",
    "get_default_pss_sharders",
    "migrate",
]
