"""`with_permuted_bags`: a batch in which one feature says nothing; what a metric loses is what the feature contributes."""

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


def with_permuted_bags(features: KeyedJaggedTensor, feature: str, generator: torch.Generator) -> KeyedJaggedTensor:
    """``features`` with the bags of one feature handed to other rows of the batch (permutation importance: Breiman 2001).

    Its ids stay distributed as they were, so the model reads no embedding that it would not otherwise read.

    Args:
        features: batch size B, the same for every feature.
        feature: the name of the one.
        generator: of the permutation, on the CPU.

    Raises:
        KeyError: no such feature.
        ValueError: batch sizes that vary by feature (VBE).
    """
    keys = features.keys()
    if feature not in keys:
        raise KeyError(f"no feature {feature!r}; there are {keys}")
    if features.variable_stride_per_key():
        raise ValueError("bags cannot be permuted where the batch size varies by feature")
    size, position = features.stride(), keys.index(feature)
    order = torch.arange(len(keys) * size)
    own = slice(position * size, (position + 1) * size)
    order[own] = order[own][torch.randperm(size, generator=generator)]
    order = order.to(features.values().device)
    lengths = features.lengths()[order]
    starts = features.offsets()[:-1].long()[order]
    # Where each id of the new order stands in the old one.
    first = torch.cumsum(lengths, 0) - lengths
    moved = torch.repeat_interleave(starts - first, lengths.long()) + torch.arange(
        len(features.values()), device=order.device
    )
    weights = features.weights_or_none()
    return KeyedJaggedTensor(
        keys, features.values()[moved], None if weights is None else weights[moved], lengths=lengths, stride=size
    )
