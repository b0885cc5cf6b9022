"""The array in the place of TorchRec's collections: what it is made of (`PSSConfig`), and the modules that read it."""

from typing import TYPE_CHECKING

from torchrec_pss.modules.pss_config import PSSConfig
from torchrec_pss.on_demand import on_demand

if TYPE_CHECKING:
    from torchrec_pss.modules.embedding_bag_collection import PSSEmbeddingBagCollection
    from torchrec_pss.modules.embedding_collection import PSSEmbeddingCollection
    from torchrec_pss.modules.fp_embedding_modules import PSSFeatureProcessedEmbeddingBagCollection

__all__ = [
    "PSSConfig",
    "PSSEmbeddingBagCollection",
    "PSSEmbeddingCollection",
    "PSSFeatureProcessedEmbeddingBagCollection",
]

__getattr__, __dir__ = on_demand(
    __name__,
    {
        "PSSEmbeddingBagCollection": "torchrec_pss.modules.embedding_bag_collection",
        "PSSEmbeddingCollection": "torchrec_pss.modules.embedding_collection",
        "PSSFeatureProcessedEmbeddingBagCollection": "torchrec_pss.modules.fp_embedding_modules",
    },
)
