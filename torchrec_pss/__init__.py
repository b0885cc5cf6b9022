"""One small shared parameter array in place of TorchRec's embedding tables (PSS, arXiv 2207.10731)."""

from pathlib import Path
from typing import TYPE_CHECKING

from torchrec_pss.modules.pss_config import PSSConfig
from torchrec_pss.on_demand import on_demand
from torchrec_pss.version import __version__

if TYPE_CHECKING:
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
        PSSEmbeddingBagCollection,
        PSSEmbeddingCollection,
        PSSFeatureProcessedEmbeddingBagCollection,
    )

cmake_prefix_path = str(Path(__file__).parent / "cmake")
"""For ``find_package(torchrec_pss_ops)`` in a C++ program: a part of ``CMAKE_PREFIX_PATH``."""

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
    "__version__",
    "cmake_prefix_path",
    "compress",
    "expanded",
    "get_default_pss_sharders",
    "load_packed",
    "migrate",
    "packed",
    "unsharded",
]

_NAMES = {
    "torchrec_pss.convert": ["compress", "expanded", "load_packed", "migrate", "packed", "unsharded"],
    "torchrec_pss.distributed": [
        "MixedEmbeddingBagCollection",
        "MixedEmbeddingBagCollectionSharder",
        "MixedEmbeddingCollection",
        "MixedEmbeddingCollectionSharder",
        "PSSEmbeddingBagCollectionSharder",
        "PSSEmbeddingCollectionSharder",
        "get_default_pss_sharders",
    ],
    "torchrec_pss.distributed.planner": ["PSSParameterConstraints", "PSSShardingPlanner"],
    "torchrec_pss.modules": [
        "PSSEmbeddingBagCollection",
        "PSSEmbeddingCollection",
        "PSSFeatureProcessedEmbeddingBagCollection",
    ],
    "": ["convert", "datasets", "distributed", "export", "models", "nn", "ops", "optim", "quant", "watch"],
}
__getattr__, __dir__ = on_demand(__name__, {name: module for module, names in _NAMES.items() for name in names})
