"""Batches whose size varies by feature (VBE): repeated bags stand once, and inverse indices say which sample has which."""

from collections.abc import Sequence

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss.modules.savable import savable


def padded(features: KeyedJaggedTensor) -> KeyedJaggedTensor:
    """The same bags under one batch size, the largest: the other features get empty bags at their end."""
    sizes = torch.tensor(features.stride_per_key(), device=features.device())
    batch_size = max(features.stride_per_key(), default=0)
    filled = torch.arange(batch_size, device=features.device()) < sizes[:, None]
    lengths = torch.zeros(filled.shape, dtype=features.lengths().dtype, device=features.device())
    lengths[filled] = features.lengths()
    return KeyedJaggedTensor(
        features.keys(), features.values(), features.weights_or_none(), lengths=lengths.flatten(), stride=batch_size
    )


def require_inverse_indices(features: KeyedJaggedTensor) -> None:
    """
    Raises:
        ValueError: the KJT has no inverse indices, or not of all its features.
    """
    inverse = features.inverse_indices_or_none()
    if inverse is None:
        raise ValueError(
            f"features {features.keys()} have batch sizes {features.stride_per_key()}: pooled embeddings of a batch size that varies "
            "by feature (VBE) need a KJT with inverse_indices"
        )
    missing = sorted(set(features.keys()) - set(inverse[0]))
    if missing:
        raise ValueError(f"the KJT's inverse_indices are of {inverse[0]}; there are none of the features {missing}")


def expanded(
    read: torch.Tensor, features: KeyedJaggedTensor, names: Sequence[str], dims: Sequence[int]
) -> torch.Tensor:
    """What each sample reads.

    Args:
        read: ``[batch size of the padded features, sum of dims]``.
        features: with inverse indices ``[features, B]``.
        names, dims: of the columns of ``read``: features and their embedding_dims.

    Returns:
        ``[B, sum of dims]``.
    """
    keys, rows = features.inverse_indices()
    parts = read.split(list(dims), dim=1)
    rows = savable(rows.to(read.device))
    return torch.cat([part[rows[keys.index(n)]] for part, n in zip(parts, names, strict=True)], dim=1)
