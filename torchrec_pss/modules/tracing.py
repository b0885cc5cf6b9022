"""What of a KJT FX must not look into: symbolic tracing leaves calls of these functions in the graph."""

import torch
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor


@torch.fx.wrap
def permuted(features: KeyedJaggedTensor, names: list[str]) -> KeyedJaggedTensor:
    """The named features, in that order."""
    keys = features.keys()
    return features.permute([keys.index(name) for name in names])


@torch.fx.wrap
def jagged(features: KeyedJaggedTensor, name: str) -> JaggedTensor:
    """One feature."""
    return features[name]


def is_traced(features: object) -> bool:
    """Whether a module is being traced: then there is nothing to check yet."""
    return isinstance(features, torch.fx.Proxy)
