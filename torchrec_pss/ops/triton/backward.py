"""The lookup's backward kernel: gradients of the array, of the weights and of the projections."""

import triton
import triton.language as tl

from torchrec_pss.ops.triton.addresses import row_units
from torchrec_pss.ops.triton.columns import (
    COLUMNS,
    PARTIAL,
    PROJECTION,
    output_columns,
)
from torchrec_pss.ops.triton.elements import load_units
from torchrec_pss.ops.triton.reads import load_read, matrix_rows, with_bias
from torchrec_pss.ops.triton.rows import MEAN, SIZES, ids_at, index_scale, row_range, tile_rows


@triton.jit(do_not_specialize=SIZES)
def backward_kernel(
    grad,
    array,
    group_scales,
    metadata,
    numbers,
    projections,
    indices,
    offsets,
    weights,
    grad_array,
    places,
    contributions,
    grad_weights,
    fine,
    num_features,
    batch_size,
    num_indices,
    grad_stride,
    factor,
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
    SORTED: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """One program: ``T`` rows of one feature.

    ``factor`` times an element's contributions is added to ``grad_array``, or, for SORTED, written to ``contributions``
    ``[L, UNITS, VEC]`` and its place, in units, to ``places`` ``[L, UNITS]``.
    """
    feature = metadata + tl.program_id(0) % num_features * COLUMNS
    tile = tl.program_id(0) // num_features
    grad_stride, column, dim = output_columns(feature, grad_stride, ALIGNED)
    row, live, first, last, length = tile_rows(offsets, feature, tile, batch_size, num_indices, fine, T, POOLING)
    grad_row = grad + row[:, None] * grad_stride + column
    index, ids = ids_at(indices, first, last)  # on their way while the gradient is multiplied
    if PROJECTED:
        k, has_row = matrix_rows(feature, UNITS * VEC)
        matrix = projections + tl.load(feature + PROJECTION) + k[None, :] * dim
        joined = tl.zeros([T, 2 * UNITS * VEC], tl.float32)
        for chunk in range(0, DIM, CHUNK):
            n = chunk + tl.arange(0, CHUNK)
            grad_out = tl.load(grad_row + n[None, :], mask=live[:, None] & (n < dim)[None, :], other=0.0)
            transposed = tl.load(matrix + n[:, None], mask=has_row[None, :] & (n < dim)[:, None], other=0.0)
            joined = tl.dot(grad_out, transposed, joined, input_precision="tf32x3")
        grad_read, grad_bias = tl.split(tl.reshape(joined, [T, UNITS * VEC, 2]))
        bias = tl.sum(grad_bias, axis=1)  # 0 but for the first
    else:
        k = tl.arange(0, UNITS * VEC)
        grad_read = tl.load(grad_row + k[None, :], mask=live[:, None] & (k < dim)[None, :], other=0.0)
        bias = tl.zeros([T], tl.float32)
    grad_units = tl.reshape(grad_read, [T, UNITS, VEC])
    for position in range(0, tl.max(length, axis=0)):
        here = position < length
        hot_number = tl.full([T], -1, tl.int32)
        if HOT:
            hot_number = tl.load(numbers + index, mask=here, other=-1)
        place, sign, there, _ = row_units(
            ids, here, hot_number, feature, UNITS, HASHED, HOT, CHECKED, HASH, SIGN, NARROW
        )
        element = (place * VEC)[:, :, None] + tl.arange(0, VEC)[None, None, :]
        scale = index_scale(weights, index, here, length, POOLING, WEIGHTED)
        step = grad_units * (sign * (scale * factor)[:, None])[:, :, None]
        if SORTED:
            unit = index[:, None] * UNITS + tl.arange(0, UNITS)[None, :]
            tl.store(places + unit, place.to(tl.int64), mask=there)
            slot = (unit * VEC)[:, :, None] + tl.arange(0, VEC)[None, None, :]
            tl.store(contributions + slot, step, mask=there[:, :, None])
        else:
            tl.atomic_add(grad_array + element, step, mask=there[:, :, None], sem="relaxed")
        if WEIGHTED:
            values = load_units(array, group_scales, place, there, VEC, BITS)
            products = values * grad_units * sign[:, :, None]
            total = tl.sum(tl.sum(products, axis=2), axis=1) + bias
            if POOLING == MEAN:
                total = total / tl.maximum(length, 1).to(tl.float32)
            tl.store(grad_weights + index, total, mask=here)
        index, ids = ids_at(indices, first + position + 1, last)


@triton.jit(do_not_specialize=SIZES)
def projection_kernel(
    grad,
    read,
    metadata,
    offsets,
    partials,
    num_features,
    batch_size,
    grad_stride,
    read_stride,
    partial_stride,
    tiles,
    T: tl.constexpr,
    WIDTH: tl.constexpr,
    DIM: tl.constexpr,
    CHUNK: tl.constexpr,
    ALIGNED: tl.constexpr,
    POOLING: tl.constexpr,
):
    """One program: `CHUNK` columns of a projection's gradient over every so many of the ``tiles`` of ``T`` rows, to the program's own
    row of ``partials``."""
    feature = metadata + tl.program_id(0) % num_features * COLUMNS
    program = tl.program_id(0) // num_features
    chunk = program % (DIM // CHUNK) * CHUNK
    program = program // (DIM // CHUNK)
    programs = tl.num_programs(0) // num_features // (DIM // CHUNK)
    grad_stride, column, dim = output_columns(feature, grad_stride, ALIGNED)
    begin, end = row_range(offsets, feature, batch_size, POOLING)
    n = chunk + tl.arange(0, CHUNK)
    total = tl.zeros([2 * WIDTH, CHUNK], tl.float32)
    for tile in range(program, tiles, programs):
        row = begin + tile * T + tl.arange(0, T)
        live = row < end
        grad_row = grad + row[:, None] * grad_stride + column
        grad_out = tl.load(grad_row + n[None, :], mask=live[:, None] & (n < dim)[None, :], other=0.0)
        pooled, scales = load_read(read, read_stride, row, live, feature, WIDTH)
        total = tl.dot(tl.trans(with_bias(pooled, scales)), grad_out, total, input_precision="tf32x3")
    k, has_row = matrix_rows(feature, WIDTH)
    partial = partials + program.to(tl.int64) * partial_stride + tl.load(feature + PARTIAL)
    tl.store(partial + k[:, None] * dim + n[None, :], total, mask=has_row[:, None] & (n < dim)[None, :])
