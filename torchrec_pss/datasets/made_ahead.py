"""`MadeAhead`: what several numbers stand for, made once each, in threads where there are cores to spare."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")
_CORES_OF_A_THREAD = 4  # the rest are the training's
_MOST_THREADS = 8


def spare_threads() -> int:
    """Of a process: one for every four of its share of this host's cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    return min(cores // max(ranks, 1) // _CORES_OF_A_THREAD, _MOST_THREADS)


class MadeAhead(Generic[T]):
    """Of each item of ``wanted``, a range of numbers, what ``make`` returns for them: those of the next items are made meanwhile.

    Args:
        make: a function of the number alone, called at most once for a number that the items want one after the other.
        wanted: ranges whose ends do not decrease.
        threads: that make; with none all is made where it is asked for.
    """

    def __init__(self, make: Callable[[int], T], wanted: Iterable[range], threads: int) -> None:
        self._make, self._wanted, self._threads = make, iter(wanted), threads

    def __iter__(self) -> Iterator[list[T]]:
        if self._threads < 1:
            yield from self._one_by_one()
            return
        pool = ThreadPoolExecutor(self._threads, "made_ahead")
        try:
            yield from self._by(pool)
        finally:
            pool.shutdown(cancel_futures=True)

    def _one_by_one(self) -> Iterator[list[T]]:
        made: dict[int, T] = {}
        for numbers in self._wanted:
            made = {n: made[n] if n in made else self._make(n) for n in numbers}
            yield list(made.values())

    def _by(self, pool: ThreadPoolExecutor) -> Iterator[list[T]]:
        coming: dict[int, Future[T]] = {}
        ahead: list[range] = []
        while True:
            for numbers in islice(self._wanted, self._threads + 1 - len(ahead)):
                ahead.append(numbers)
                coming.update({n: pool.submit(self._make, n) for n in numbers if n not in coming})
            if not ahead:
                return
            numbers = ahead.pop(0)
            yield [coming[n].result() for n in numbers]
            still = {n for other in ahead for n in other} | set(numbers[-1:])
            coming = {n: future for n, future in coming.items() if n in still}
