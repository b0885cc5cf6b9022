"""Are the replicas of data-parallel parameters still equal? A checksum of each, compared over the ranks."""

from collections import Counter
from collections.abc import Iterable

import torch
import torch.distributed as dist

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class ReplicaMismatchError(RuntimeError):
    """Replicas of a parameter that differ: training has gone wrong on some rank."""


def check_replicas(parameters: Iterable[tuple[str, torch.Tensor]], group: dist.ProcessGroup | None = None) -> None:
    """Compares the bits of all ranks' replicas. Collective: 8 bytes a parameter and rank.

    Args:
        parameters: names and tensors, the same on all ranks, in the same order.
        group: the default group by default.

    Raises:
        ReplicaMismatchError: on every rank, naming the parameters and the ranks whose replicas differ from most.
    """
    names, tensors = zip(*parameters, strict=True)
    own = torch.stack([checksum(t) for t in tensors])
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, own, group=group)
    sums = torch.stack(parts, dim=1).tolist()
    found = []
    for name, of_ranks in zip(names, sums, strict=True):
        (usual, number), *others = Counter(of_ranks).most_common()
        if others:
            odd = [rank for rank, value in enumerate(of_ranks) if value != usual]
            where = f"rank {odd}" if number > len(odd) else f"ranks 0 to {len(of_ranks) - 1} (no majority)"
            found.append(f"{name!r} on {where}")
    if found:
        raise ReplicaMismatchError(f"replicas differ: {'; '.join(found)}")


def checksum(tensor: torch.Tensor) -> torch.Tensor:
    """int64 scalar of a tensor's bits and their order: their sum, each times an odd number of its own, modulo 2^64.

    Any single changed element changes it; it is the same on CPU and GPU.
    """
    bits = tensor.detach().contiguous().view(_BITS[tensor.element_size()]).flatten().long()
    odd = torch.arange(len(bits), device=bits.device) * 2 + 1
    return (bits * odd * 0x1E3779B97F4A7C15).sum()
