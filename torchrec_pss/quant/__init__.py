"""Collections that only read, as `torchrec.quant` has them."""

from torchrec_pss.quant.embedding_modules import PSSEmbeddingBagCollection, PSSEmbeddingCollection

__all__ = ["PSSEmbeddingBagCollection", "PSSEmbeddingCollection"]
