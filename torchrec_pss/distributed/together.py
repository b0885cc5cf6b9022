"""`together`: work that fails on one rank fails on all, so that none waits for another that has given up."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch.distributed as dist

T = TypeVar("T")

_KINDS: tuple[type[Exception], ...] = (ValueError, OSError, MemoryError)


def together(work: Callable[[], T]) -> list[T]:
    """What ``work`` returns on each rank, by rank. Collective; without a process group it is only called.

    Raises:
        Exception: what ``work`` raises here; else, of another rank's, ValueError, OSError, MemoryError or RuntimeError, naming the rank.
    """
    if not dist.is_initialized():
        return [work()]
    own: Exception | None = None
    result = None
    try:
        result = work()
    except Exception as error:
        own = error
    kind = None if own is None else next((n for n, k in enumerate(_KINDS) if isinstance(own, k)), len(_KINDS))
    outcomes: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(outcomes, (result, kind, str(own) or type(own).__name__))
    if own is not None:
        raise own
    for rank, (_, number, message) in enumerate(outcomes):
        if number is not None:
            raise (*_KINDS, RuntimeError)[number](f"rank {rank}: {message}")
    return [outcome[0] for outcome in outcomes]


def on_first_rank(work: Callable[[], T]) -> T:
    """What ``work`` returns on rank 0, on every rank. Collective. Raises as `together`."""
    results = together(lambda: work() if not dist.is_initialized() or dist.get_rank() == 0 else None)
    return cast(T, results[0])
