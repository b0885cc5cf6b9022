"""`begin_anew`: the array drawn again between two passes over the same rows.

A click model overfits at the first step of its second pass, because rows that were read a few times have learned their
own examples' labels. Dense layers that go on with embeddings begun anew do not (MEDA: Liu et al., arXiv 2305.19531).
"""

import torch
from torch import nn

from torchrec_pss.modules.shared_array import SharedArrayModule


@torch.no_grad()
def begin_anew(module: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    """Draws every shared array inside ``module``, with its projections, as at construction, and zeroes what ``optimizer``
    keeps of them (moments, Adagrad's sums, the number of steps). The layout stays, and so does the caller's random state.

    Call it on every rank with the same ``seed``, and replicas stay equal; nothing is communicated.

    Args:
        module: sharded or not.
        optimizer: of its parameters; also a `torchrec.optim.keyed.KeyedOptimizer`.
        seed: of the values.

    Raises:
        ValueError: there is no shared array inside ``module``.
    """
    arrays = [m for m in module.modules() if isinstance(m, SharedArrayModule)]
    if not arrays:
        raise ValueError(f"{type(module).__name__} has no shared array to begin anew")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for array in arrays:
            array.reset_parameters()
    for parameter in {p for array in arrays for p in array.parameters()}:
        for value in optimizer.state.get(parameter, {}).values():
            if isinstance(value, torch.Tensor):
                value.zero_()
