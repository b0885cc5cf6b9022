"""How much a program of each kernel takes at once: what was fastest on an H200 (docs/research/2026-11-26-lookup-on-an-h200.md), cut for rows and layouts so wide that
their tiles would not fit a program's registers."""

from dataclasses import dataclass

from torchrec_pss.ops.triton.launches import LEAST_DOT, Launch, ProjectionLaunch

_TILE_NUMEL = 512  # of a tile that is not projected; few, for then many are on their way at once
_LEAST_ROWS, _MOST_ROWS = 8, 32


@dataclass(frozen=True)
class Tiling:
    """Rows, and columns of output or gradient, by so many warps."""

    rows: int
    columns: int
    warps: int


def forward_tiling(group: Launch) -> Tiling:
    if group.projected:
        rows = max(LEAST_DOT, min(64, 1024 // group.units, 8192 // group.dim))
        return Tiling(rows, group.dim, 2 if group.dim <= 32 else 4)
    rows = max(_LEAST_ROWS, min(_MOST_ROWS, _TILE_NUMEL // _read(group)))
    return Tiling(rows, group.dim, _warps(rows * _read(group)))


def backward_tiling(group: Launch) -> Tiling:
    if not group.projected:
        return Tiling(_LEAST_ROWS, group.dim, _warps(_LEAST_ROWS * _read(group)))
    if _read(group) <= 8:
        return Tiling(LEAST_DOT, min(group.dim, 32), 1)
    return Tiling(max(LEAST_DOT, min(32, 512 // group.units)), min(group.dim, 64), 2)


def projection_tiling(group: ProjectionLaunch) -> Tiling:
    columns = min(group.dim, 128)
    return Tiling(32, columns, 4 if columns >= 64 else 2)


def _read(group: Launch) -> int:
    return group.vec * group.units


def _warps(numel: int) -> int:
    return min(max(1, numel // 1024), 8)
