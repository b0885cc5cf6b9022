"""Which variant of the kernels a lookup takes: what was fastest on an H200 (docs/research/2026-11-26-lookup-on-an-h200.md), cut for rows
and layouts so wide that their tiles would not fit a program's registers. `benchmarks.gpu_tournament` times them against the others."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from torchrec_pss.ops.triton.launches import LEAST_DOT, Launch, ProjectionLaunch
from torchrec_pss.ops.triton.variants import Backward, Forward, Projection

_TILE_NUMEL = 512  # of a tile that is not projected; few, for then many are on their way at once
_LEAST_ROWS, _MOST_ROWS = 8, 32
MANY_IDS = 4.0  # a bag, on average: from here on ids of a bag are read side by side


def forward_variant(group: Launch, ids_a_bag: float) -> Forward:
    ids = 8 if ids_a_bag >= MANY_IDS else 1
    if group.projected:
        rows = max(LEAST_DOT, min(64, 1024 // group.units, 8192 // group.dim) // ids)
        ids = max(1, min(ids, 64 * 8 // read_width(group)))
        return Forward(rows, 2 if group.dim <= 32 else 4, ids)
    rows = max(_LEAST_ROWS, min(_MOST_ROWS, _TILE_NUMEL // read_width(group)))
    if ids > 1:
        rows = max(1, rows // ids)
        ids = max(1, min(ids, 4 * _TILE_NUMEL // read_width(group) // rows))
    return Forward(rows, _warps(rows * ids * read_width(group)), ids)


def backward_variant(group: Launch, ids_a_bag: float) -> Backward:
    if not group.projected:
        return Backward(_LEAST_ROWS, _warps(_LEAST_ROWS * read_width(group)), group.dim)
    if read_width(group) <= 8:
        return Backward(LEAST_DOT, 1, min(group.dim, 32))
    return Backward(max(LEAST_DOT, min(32, 512 // group.units)), 2, min(group.dim, 64))


def projection_variant(group: ProjectionLaunch) -> Projection:
    columns = min(group.dim, 128)
    return Projection(32, columns, 4 if columns >= 64 else 2)


def read_width(group: Launch) -> int:
    """Elements of a row in a program."""
    return group.vec * group.units


def _warps(numel: int) -> int:
    return min(max(1, numel // 1024), 8)


@dataclass(frozen=True)
class Choice:
    """Of every launch its variant."""

    forward: Callable[[Launch, float], Forward] = forward_variant
    backward: Callable[[Launch, float], Backward] = backward_variant
    projection: Callable[[ProjectionLaunch], Projection] = projection_variant


_current = Choice()


def current() -> Choice:
    """That of lookups now."""
    return _current


@contextmanager
def using(**functions: Callable[..., object]) -> Iterator[None]:
    """Lookups take other variants within: for tests, and for a tournament."""
    global _current
    before = _current
    _current = replace(before, **functions)
    try:
        yield
    finally:
        _current = before
