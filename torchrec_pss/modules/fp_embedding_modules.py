"""`PSSFeatureProcessedEmbeddingBagCollection`: TorchRec's feature processors before a shared array."""

from torchrec.modules.fp_embedding_modules import FeatureProcessedEmbeddingBagCollection


class PSSFeatureProcessedEmbeddingBagCollection(FeatureProcessedEmbeddingBagCollection):
    """`FeatureProcessedEmbeddingBagCollection` of a `PSSEmbeddingBagCollection` (``is_weighted=True``), as its first argument.

    A type of its own, so that `DistributedModelParallel` finds no sharder for the whole of it: it replicates the array inside, and leaves
    the processors (`PositionWeightedModule`) to the data-parallel wrapper. TorchRec's sharder of the base class would ask for
    tables that an array does not have; `get_default_pss_sharders` has one that says so.
    """
