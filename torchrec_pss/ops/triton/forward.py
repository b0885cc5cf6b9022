"""The lookup's forward kernel: hash, gather, pool, and project where `torchrec_pss.ops.triton.product` does not."""

import triton
import triton.language as tl

from torchrec_pss.ops.triton.addresses import hot_numbers, row_units
from torchrec_pss.ops.triton.columns import COLUMNS, PROJECTION, output_columns
from torchrec_pss.ops.triton.elements import load_units
from torchrec_pss.ops.triton.reads import matrix_rows, store_read, with_bias
from torchrec_pss.ops.triton.rows import SIZES, ids_at, index_scale, tile_lanes, tile_rows


@triton.jit(do_not_specialize=SIZES)
def forward_kernel(
    array,
    group_scales,
    metadata,
    hot_keys,
    projections,
    indices,
    offsets,
    weights,
    out,
    read,
    numbers,
    fine,
    num_features,
    batch_size,
    num_indices,
    out_stride,
    read_stride,
    T: tl.constexpr,
    VEC: tl.constexpr,
    UNITS: tl.constexpr,
    DIM: tl.constexpr,
    PROJECTED: tl.constexpr,
    HASHED: tl.constexpr,
    HOT: tl.constexpr,
    CHECKED: tl.constexpr,
    ALIGNED: tl.constexpr,
    POOLING: tl.constexpr,
    WEIGHTED: tl.constexpr,
    HASH: tl.constexpr,
    SIGN: tl.constexpr,
    NARROW: tl.constexpr,
    BITS: tl.constexpr,
    IDS: tl.constexpr,
    PROBES: tl.constexpr,
    MULTIPLIES: tl.constexpr,
    STORE: tl.constexpr,
):
    """One program: ``T`` rows of one feature, ``IDS`` ids of a row at a time. Programs beside each other serve the features of one tile,
    whose outputs are neighbours.

    Of projected features the reads are kept in ``read``, and, if the kernel ``MULTIPLIES``, their products written to ``out``, with the
    cache modifier ``STORE``.
    """
    feature = metadata + tl.program_id(0) % num_features * COLUMNS
    tile = tl.program_id(0) // num_features
    at, slot = tile_lanes(tile, T, IDS)
    row, live, first, last, length = tile_rows(offsets, feature, at, batch_size, num_indices, fine, POOLING)
    pooled = tl.zeros([T * IDS, UNITS, VEC], tl.float32)
    scales = tl.zeros([T * IDS], tl.float32)
    for position in range(0, tl.max(length, axis=0), IDS):
        here = position + slot < length
        index, ids = ids_at(indices, first + position + slot, last)
        hot_number = tl.full([T * IDS], -1, tl.int32)
        if HOT:
            hot_number = hot_numbers(ids, here, hot_keys, feature, PROBES)
            tl.store(numbers + index, hot_number, mask=here)
        place, sign, there, valid = row_units(
            ids, here, hot_number, feature, UNITS, HASHED, HOT, CHECKED, HASH, SIGN, NARROW
        )
        if CHECKED:
            bad = here & (valid == 0)
            tl.store(fine + tl.zeros_like(ids), 0, mask=bad)
        values = load_units(array, group_scales, place, there, VEC, BITS)
        scale = index_scale(weights, index, here, length, POOLING, WEIGHTED)
        pooled += values * (sign * scale[:, None])[:, :, None]
        scales += scale
    if IDS > 1:
        pooled = tl.sum(tl.reshape(pooled, [T, IDS, UNITS * VEC]), axis=1)
        scales = tl.sum(tl.reshape(scales, [T, IDS]), axis=1)
        row = tile.to(tl.int64) * T + tl.arange(0, T)
        live = row < batch_size
    pooled = tl.reshape(pooled, [T, UNITS * VEC])
    out_stride, column, dim = output_columns(feature, out_stride, ALIGNED)
    out_row = out + row[:, None] * out_stride + column
    if PROJECTED:
        store_read(read, read_stride, row, live, pooled, scales, feature, UNITS * VEC)
    if MULTIPLIES:
        k, there = matrix_rows(feature, UNITS * VEC)
        n = tl.arange(0, DIM)
        matrix = projections + tl.load(feature + PROJECTION) + k[:, None] * dim + n[None, :]
        projection = tl.load(matrix, mask=there[:, None] & (n < dim)[None, :], other=0.0)
        result = tl.dot(with_bias(pooled, scales), projection, input_precision="tf32x3")
        tl.store(out_row + n[None, :], result, mask=live[:, None] & (n < dim)[None, :], cache_modifier=STORE)
    elif not PROJECTED:
        n = tl.arange(0, UNITS * VEC)
        tl.store(out_row + n[None, :], pooled, mask=live[:, None] & (n < dim)[None, :], cache_modifier=STORE)
