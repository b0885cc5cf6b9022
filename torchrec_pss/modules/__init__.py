from torchrec_pss.modules.embedding_bag_collection import PSSEmbeddingBagCollection
from torchrec_pss.modules.embedding_collection import PSSEmbeddingCollection
from torchrec_pss.modules.fp_embedding_modules import PSSFeatureProcessedEmbeddingBagCollection
from torchrec_pss.modules.pss_config import PSSConfig

__all__ = [
    "PSSConfig",
    "PSSEmbeddingBagCollection",
    "PSSEmbeddingCollection",
    "PSSFeatureProcessedEmbeddingBagCollection",
]
