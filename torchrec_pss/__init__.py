"""One small shared parameter array in place of TorchRec's embedding tables (PSS, arXiv 2207.10731)."""

from importlib import import_module
from pathlib import Path
from types import ModuleType

from torchrec_pss.convert import compress, expanded, load_packed, migrate, packed, unsharded
from torchrec_pss.distributed import (
    MixedEmbeddingBagCollection,
    MixedEmbeddingBagCollectionSharder,
    MixedEmbeddingCollection,
    MixedEmbeddingCollectionSharder,
    PSSEmbeddingBagCollectionSharder,
    PSSEmbeddingCollectionSharder,
    get_default_pss_sharders,
)
from torchrec_pss.distributed.planner import PSSParameterConstraints, PSSShardingPlanner
from torchrec_pss.modules import (
    PSSConfig,
    PSSEmbeddingBagCollection,
    PSSEmbeddingCollection,
    PSSFeatureProcessedEmbeddingBagCollection,
)

__version__ = "0.1.0"
_ON_DEMAND = ("export", "quant")  # parts that training does not need: `torchrec_pss.quant` imports it
cmake_prefix_path = str(Path(__file__).parent / "cmake")  # for find_package(torchrec_pss_ops)

__all__ = [
    "MixedEmbeddingBagCollection",
    "MixedEmbeddingBagCollectionSharder",
    "MixedEmbeddingCollection",
    "MixedEmbeddingCollectionSharder",
    "PSSConfig",
    "PSSEmbeddingBagCollection",
    "PSSEmbeddingBagCollectionSharder",
    "PSSEmbeddingCollection",
    "PSSEmbeddingCollectionSharder",
    "PSSFeatureProcessedEmbeddingBagCollection",
    "PSSParameterConstraints",
    "PSSShardingPlanner",
    "cmake_prefix_path",
    "compress",
    "expanded",
    "get_default_pss_sharders",
    "load_packed",
    "migrate",
    "packed",
    "unsharded",
]


def __getattr__(name: str) -> ModuleType:
    if name in _ON_DEMAND:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
