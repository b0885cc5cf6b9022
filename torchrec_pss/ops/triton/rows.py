"""What forward and backward both need to know of a tile: its feature, its rows and their ids."""

import triton
import triton.language as tl

from torchrec_pss.ops.features import PoolingMode
from torchrec_pss.ops.triton.columns import FEATURE

# Of a batch and its tensors: kernels are not compiled anew where one happens to be 1 or divisible by 16.
SIZES = (
    "num_features",
    "batch_size",
    "num_indices",
    "out_stride",
    "grad_stride",
    "read_stride",
    "partial_stride",
    "tiles",
)
MEAN = tl.constexpr(PoolingMode.MEAN.value)
NONE = tl.constexpr(PoolingMode.NONE.value)


@triton.jit
def tile_lanes(tile, T: tl.constexpr, IDS: tl.constexpr):
    """Of ``T`` rows with ``IDS`` lanes each, which go through a row's ids side by side: each lane's row among all of a feature's (int64),
    and its place among the lanes of the row, both ``[T * IDS]``."""
    lane = tl.arange(0, T * IDS)
    return tile.to(tl.int64) * T + lane // IDS, lane % IDS


@triton.jit
def tile_rows(offsets, feature, at, batch_size, num_indices, fine, POOLING: tl.constexpr):
    """The rows ``at`` (int64 ``[T]``) of one feature: bags, or single indices for NONE.

    Where offsets do not describe bags, ``fine[0]`` is set to 0, and nothing is read outside of the indices.

    Returns:
        The rows of output and gradient, whether each exists, its first index, its last (one that exists, where it has none itself)
        and its number of indices.
    """
    number = tl.load(feature + FEATURE)
    if POOLING == NONE:
        bounds = offsets + number * batch_size
        low = tl.load(bounds).to(tl.int64)
        high = tl.load(bounds + batch_size).to(tl.int64)
        bad = (low < 0) | (high < low) | (high > num_indices)
        if bad:
            tl.store(fine, 0)
            high = low
        row = low + at
        live = row < high
        first = row
        length = live.to(tl.int32)
    else:
        row = at
        live = at < batch_size
        bag = offsets + number * batch_size + at
        first = tl.load(bag, mask=live, other=0).to(tl.int64)
        length = (tl.load(bag + 1, mask=live, other=0).to(tl.int64) - first).to(tl.int32)
        bad = (first < 0) | (length < 0) | (first + length > num_indices)
        tl.store(fine + tl.zeros_like(length), 0, mask=bad)
        length = tl.where(bad, 0, length)
        first = tl.maximum(first, 0)
    last = tl.maximum(tl.minimum(first + length, num_indices) - 1, 0)
    return row, live, first, last, length


@triton.jit
def ids_at(indices, index, last):
    """The index, kept to rows that have it, and the id there, both int64 ``[T]``; ``last`` as of `tile_rows`."""
    # Not a masked load: Triton 3.7 fails to compile some tiles of it.
    index = tl.minimum(index, last)
    return index, tl.load(indices + index).to(tl.int64)


@triton.jit
def row_range(offsets, feature, batch_size, POOLING: tl.constexpr):
    """The first row of a feature and the one behind its last, int64; of offsets that `tile_rows` has found to be good."""
    begin = tl.zeros([], tl.int64)
    end = begin + batch_size
    if POOLING == NONE:
        bounds = offsets + tl.load(feature + FEATURE) * batch_size
        begin = tl.load(bounds).to(tl.int64)
        end = tl.load(bounds + batch_size).to(tl.int64)
    return begin, end


@triton.jit
def index_scale(weights, index, live, length, POOLING: tl.constexpr, WEIGHTED: tl.constexpr):
    """What each index's row is multiplied by, fp32 ``[T]``: its weight, over its bag's length for MEAN."""
    scale = live.to(tl.float32)
    if WEIGHTED:
        scale = tl.load(weights + index, mask=live, other=0.0)
    if POOLING == MEAN:
        scale = scale / tl.maximum(length, 1).to(tl.float32)
    return scale
