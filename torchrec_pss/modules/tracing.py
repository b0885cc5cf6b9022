"""What FX must not look into: symbolic tracing leaves calls of these functions in the graph."""

import torch
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from torchrec_pss.modules.feature_selection import select


@torch.fx.wrap
def permuted(features: KeyedJaggedTensor, names: list[str]) -> KeyedJaggedTensor:
    """The named features, in that order.

    Raises:
        ValueError: batch sizes that vary by feature (VBE), which a traced module does not expand.
    """
    if features.variable_stride_per_key():
        raise ValueError("a traced or scripted collection takes no batch size that varies by feature (VBE)")
    return select(features, names)


@torch.fx.wrap
def jagged(features: KeyedJaggedTensor, name: str) -> JaggedTensor:
    """One feature."""
    return features[name]


def is_traced(features: object) -> bool:
    """Whether a module is being traced: then there is nothing to check yet."""
    return isinstance(features, torch.fx.Proxy)
