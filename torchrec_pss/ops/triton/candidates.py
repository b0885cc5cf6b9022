"""Variants of the kernels that `benchmarks.gpu_tournament` sets against each other; all are right for every launch."""

from dataclasses import replace

from torchrec_pss.ops.triton.launches import LEAST_DOT, Launch, ProjectionLaunch
from torchrec_pss.ops.triton.tiling import MANY_IDS, backward_rule, forward_rule, projection_rule, read_width
from torchrec_pss.ops.triton.variants import Backward, Forward, Product, Projection

_STREAMED = ".cs"
_PROBES = (4, 8)
_MOST_NUMEL = 4096  # elements that a tile reads at once; more spill
_MOST_SUMS = 8192  # of products that a program holds


def forward_candidates(group: Launch, ids_a_bag: float) -> list[Forward]:
    """The default first."""
    default, width = forward_rule(group, ids_a_bag), read_width(group)
    many = ids_a_bag >= MANY_IDS
    tiles = (
        [(1, 8), (1, 16), (1, 32), (2, 8), (4, 4), (4, 8), (8, 4), (8, 1)] if many else [(n, 1) for n in (4, 8, 16, 32)]
    )
    tiles = [(rows, ids) for rows, ids in tiles if rows * ids * width <= _MOST_NUMEL] or [(1, 1)]
    found = [default, replace(default, store=_STREAMED), replace(default, registers=_fewer_registers(group))]
    if group.hot:
        found += [replace(default, probes=n) for n in _PROBES]
    if not group.projected:
        found += [Forward(rows, warps, ids) for rows, ids in tiles for warps in _warps_for(rows * ids * width)]
        return list(dict.fromkeys(found))
    dots = [(rows, ids) for rows in (16, 32, 64) for ids in ((1, 4, 8) if many else (1,))]
    dots = [(rows, ids) for rows, ids in dots if rows * ids * width <= _MOST_NUMEL and rows * group.dim <= _MOST_SUMS]
    found += [Forward(rows, warps, ids) for rows, ids in dots for warps in (2, 4)]
    products = [Product(rows, warps, dot) for rows in (16, 32) for warps in (2, 4) for dot in (True, False)]
    products = [p for p in products if p.rows * group.dim <= _MOST_SUMS] or [Product(LEAST_DOT, 4, True)]
    reads = [Forward(rows, 1, ids, product=products[0]) for rows, ids in tiles]
    middle = reads[len(reads) // 2]
    found += reads + [replace(middle, product=product) for product in products]
    found += [replace(middle, product=replace(product, store=_STREAMED)) for product in products[:2]]
    if group.hot:
        found += [replace(middle, probes=n) for n in _PROBES]
    return list(dict.fromkeys(found))


def backward_candidates(group: Launch, ids_a_bag: float) -> list[Backward]:
    """The default first."""
    default, width = backward_rule(group, ids_a_bag), read_width(group)
    least = LEAST_DOT if group.projected else 1
    tiles = [(rows, ids) for rows in (4, 8, 16, 32) for ids in ((1, 4, 8) if ids_a_bag >= MANY_IDS else (1,))]
    tiles = [(rows, ids) for rows, ids in tiles if rows >= least and rows * ids * width <= _MOST_NUMEL] or [(least, 1)]
    found = [default, replace(default, registers=_fewer_registers(group))]
    found += [
        replace(default, rows=rows, ids=ids, warps=warps)
        for rows, ids in tiles
        for warps in _warps_for(rows * ids * width)
    ]
    found += [replace(v, merges=True) for v in found if 8 <= v.rows * v.ids <= 32 and v.registers is None]
    return list(dict.fromkeys(found))


def _fewer_registers(group: Launch) -> int:
    """A thread's, so that a multiprocessor holds more programs; products of matrices do not compile with fewer."""
    return 64 if not group.projected else 96 if group.dim <= 64 else 128


def _warps_for(numel: int) -> tuple[int, ...]:
    return (1,) if numel <= 512 else (1, 2) if numel <= 1024 else (2, 4)


def projection_candidates(group: ProjectionLaunch) -> list[Projection]:
    """The default first."""
    default = projection_rule(group)
    found = [default, replace(default, adds=True)]
    found += [Projection(rows, default.columns, warps) for rows in (16, 32, 64) for warps in (2, 4)]
    if 2 * group.width * group.dim <= _MOST_SUMS:
        found += [Projection(r, group.dim, w, adds, True) for r in (16, 32) for w in (4, 8) for adds in (False, True)]
    return list(dict.fromkeys(found))
