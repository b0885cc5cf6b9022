"""Which variant of the kernels a lookup takes.

Where `chosen.json` names one, that: the fastest of a tournament on a device (`benchmarks.gpu_tournament`). Else by rule: what was fastest
on an H200 (docs/research/2026-11-26-lookup-on-an-h200.md), cut for rows and layouts so wide that their tiles would not fit a program's
registers; of bags of many ids, ids side by side, which no device has timed yet.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from torchrec_pss.ops.triton.launches import LEAST_DOT, Launch, ProjectionLaunch
from torchrec_pss.ops.triton.variants import Backward, Forward, Projection, from_json

CHOSEN = Path(__file__).with_name("chosen.json")
MANY_IDS = 4.0  # a bag, on average: from here on ids of a bag are read side by side
_SIDE_BY_SIDE = 8
_TILE_NUMEL = 512  # of a tile that is not projected; few, for then many are on their way at once
_LEAST_ROWS, _MOST_ROWS = 8, 32


def forward_rule(group: Launch, ids_a_bag: float) -> Forward:
    ids = _SIDE_BY_SIDE if ids_a_bag >= MANY_IDS else 1
    width = read_width(group)
    if group.projected:
        rows = max(LEAST_DOT, min(64, 1024 // group.units, 8192 // group.dim) // ids)
        return Forward(rows, 2 if group.dim <= 32 else 4, max(1, min(ids, _TILE_NUMEL // width)))
    rows = max(_LEAST_ROWS, min(_MOST_ROWS, _TILE_NUMEL // width))
    if ids > 1:
        rows = max(1, rows // ids)
        ids = max(1, min(ids, 4 * _TILE_NUMEL // (width * rows)))
    return Forward(rows, _warps(rows * ids * width), ids)


def backward_rule(group: Launch, ids_a_bag: float) -> Backward:
    width, many = read_width(group), ids_a_bag >= MANY_IDS
    if not group.projected:
        rows, ids = (_LEAST_ROWS // 2, 4) if many else (_LEAST_ROWS, 1)
        return Backward(rows, _warps(rows * ids * width), group.dim, ids)
    if width <= 8:
        return Backward(LEAST_DOT, 1, min(group.dim, 32), 4 if many else 1)
    return Backward(max(LEAST_DOT, min(32, 512 // group.units)), 2, min(group.dim, 64))


def projection_rule(group: ProjectionLaunch) -> Projection:
    columns = min(group.dim, 128)
    return Projection(32, columns, 4 if columns >= 64 else 2)


def read_width(group: Launch) -> int:
    """Elements of a row in a program."""
    return group.vec * group.units


def _warps(numel: int) -> int:
    return min(max(1, numel // 1024), 8)


def kind_of(group: Launch | ProjectionLaunch, ids_a_bag: float = 1.0) -> str:
    """A launch's key in `chosen.json`."""
    if isinstance(group, ProjectionLaunch):
        return f"width {group.width}, dim {group.dim}"
    traits = [name for name in ("projected", "hashed", "hot", "checked") if getattr(group, name)]
    bags = "many ids" if ids_a_bag >= MANY_IDS else "few ids"
    return f"{group.units} x {group.vec}, dim {group.dim}, {' '.join(traits)}, {bags}"


@cache
def _chosen() -> dict[str, dict[str, Any]]:
    """Of each kernel and each kind of launch its variant."""
    found = json.loads(CHOSEN.read_text()) if CHOSEN.exists() else {}
    kinds = {"forward": Forward, "backward": Backward, "projection": Projection}
    return {kernel: {key: from_json(kinds[kernel], v) for key, v in own.items()} for kernel, own in found.items()}


def _forward(group: Launch, ids_a_bag: float) -> Forward:
    return _chosen().get("forward", {}).get(kind_of(group, ids_a_bag)) or forward_rule(group, ids_a_bag)


def _backward(group: Launch, ids_a_bag: float) -> Backward:
    return _chosen().get("backward", {}).get(kind_of(group, ids_a_bag)) or backward_rule(group, ids_a_bag)


def _projection(group: ProjectionLaunch) -> Projection:
    return _chosen().get("projection", {}).get(kind_of(group)) or projection_rule(group)


@dataclass(frozen=True, eq=False)
class Choice:
    """Of every launch its variant. What is prepared for a choice is kept by its identity."""

    forward: Callable[[Launch, float], Forward] = _forward
    backward: Callable[[Launch, float], Backward] = _backward
    projection: Callable[[ProjectionLaunch], Projection] = _projection


_current = Choice()


def current() -> Choice:
    """That of lookups now."""
    return _current


@contextmanager
def using(**functions: Callable[..., Any]) -> Iterator[None]:
    """Lookups take other variants within: for tests, and for a tournament."""
    global _current
    before = _current
    _current = replace(before, **functions)
    try:
        yield
    finally:
        _current = before
