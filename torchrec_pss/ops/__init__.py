"""The lookup as an operator of PyTorch, on CPU and GPU, and what describes tables to it."""

from torchrec_pss.ops.features import FeatureColumn, PoolingMode, feature_matrix, hot_directory
from torchrec_pss.ops.hashing import HASH_MIX64, HASH_ROBE
from torchrec_pss.ops.library import HAS_CPU_KERNEL
from torchrec_pss.ops.lookup import lookup
from torchrec_pss.ops.read import read

__all__ = [
    "HASH_MIX64",
    "HASH_ROBE",
    "HAS_CPU_KERNEL",
    "FeatureColumn",
    "PoolingMode",
    "feature_matrix",
    "hot_directory",
    "lookup",
    "read",
]
