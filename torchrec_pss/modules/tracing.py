"""What of a KJT FX must not look into: symbolic tracing leaves calls of these functions in the graph."""

import torch
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from torchrec_pss.modules.feature_selection import select


@torch.fx.wrap
def permuted(features: KeyedJaggedTensor, names: list[str]) -> KeyedJaggedTensor:
    """The named features, in that order."""
    return select(features, names)


@torch.fx.wrap
def jagged(features: KeyedJaggedTensor, name: str) -> JaggedTensor:
    """One feature."""
    return features[name]


def is_traced(features: object) -> bool:
    """Whether a module is being traced: then there is nothing to check yet."""
    return isinstance(features, torch.fx.Proxy)
