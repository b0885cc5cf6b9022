"""The lookup's backward kernels: gradients of the array and of the weights, and of the projections."""

import triton
import triton.language as tl

from torchrec_pss.ops.triton.addresses import row_units
from torchrec_pss.ops.triton.columns import (
    COLUMNS,
    INNER,
    PARTIAL,
    PROJECTION,
    READ_COLUMN,
    UNITS_OF_ROW,
    output_columns,
)
from torchrec_pss.ops.triton.rows import MEAN, SIZES, index_scale, tile_rows


@triton.jit(do_not_specialize=SIZES)
def backward_kernel(
    grad,
    array,
    metadata,
    hot_keys,
    projections,
    indices,
    offsets,
    weights,
    grad_array,
    places,
    contributions,
    grad_weights,
    fine,
    batch_size,
    num_indices,
    grad_stride,
    factor,
    tiles,
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
    SORTED: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """One program: ``tiles`` tiles of ``T`` rows of one feature; grid (programs, features of the launch).

    ``factor`` times an element's contributions is added to ``grad_array``, or, for SORTED, written to ``contributions``
    ``[L, UNITS, VEC]`` and its place, in units, to ``places`` ``[L, UNITS]``.
    """
    feature = metadata + tl.program_id(1) * COLUMNS
    width = tl.load(feature + UNITS_OF_ROW).to(tl.int32) * VEC
    inner = tl.load(feature + INNER).to(tl.int32)
    grad_stride, column, dim = output_columns(feature, grad_stride, ALIGNED)
    k = tl.arange(0, UNITS * VEC)
    for tile in range(0, tiles):
        row, live, first, last, length = tile_rows(
            offsets, feature, tl.program_id(0) * tiles + tile, batch_size, num_indices, fine, T, POOLING
        )
        grad_row = grad + row[:, None] * grad_stride + column
        if PROJECTED:
            grad_read = tl.zeros([T, UNITS * VEC], tl.float32)
            for chunk in range(0, DIM, CHUNK):
                n = chunk + tl.arange(0, CHUNK)
                grad_out = tl.load(grad_row + n[None, :], mask=live[:, None] & (n < dim)[None, :], other=0.0)
                transposed = tl.load(
                    projections + tl.load(feature + PROJECTION) + k[None, :] * dim + n[:, None],
                    mask=(k < inner)[None, :] & (n < dim)[:, None],
                    other=0.0,
                )
                grad_read = tl.dot(grad_out, transposed, grad_read, input_precision="tf32x3")
        else:
            grad_read = tl.load(grad_row + k[None, :], mask=live[:, None] & (k < dim)[None, :], other=0.0)
        if WEIGHTED:
            bias = tl.sum(tl.where((k >= width)[None, :], grad_read, 0.0), axis=1)
        grad_units = tl.reshape(grad_read, [T, UNITS, VEC])
        for position in range(0, tl.max(length, axis=0)):
            here = position < length
            # Not a masked load: Triton 3.7 fails to compile some tiles of it.
            index = tl.minimum(first + position, last)
            ids = tl.load(indices + index).to(tl.int64)
            place, sign, there, _ = row_units(
                ids, here, hot_keys, feature, UNITS, HASHED, HOT, CHECKED, HASH, SIGN, NARROW
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
                values = tl.load(array + element, mask=there[:, :, None], other=0.0).to(tl.float32)
                products = values * grad_units * sign[:, :, None]
                total = tl.sum(tl.sum(products, axis=2), axis=1) + bias
                if POOLING == MEAN:
                    total = total / tl.maximum(length, 1).to(tl.float32)
                tl.store(grad_weights + index, total, mask=here)


@triton.jit(do_not_specialize=SIZES)
def projection_kernel(
    grad,
    read,
    metadata,
    offsets,
    partials,
    fine,
    batch_size,
    num_indices,
    grad_stride,
    read_stride,
    partial_stride,
    tiles,
    T: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNK: tl.constexpr,
    ALIGNED: tl.constexpr,
    POOLING: tl.constexpr,
):
    """One program: `CHUNK` columns of a projection's gradient over ``tiles`` tiles of rows, to the program's own row of
    ``partials``; grid (programs, features of the launch, chunks)."""
    feature = metadata + tl.program_id(1) * COLUMNS
    inner = tl.load(feature + INNER).to(tl.int32)
    grad_stride, column, dim = output_columns(feature, grad_stride, ALIGNED)
    k = tl.arange(0, WIDTH)
    n = tl.program_id(2) * CHUNK + tl.arange(0, CHUNK)
    total = tl.zeros([WIDTH, CHUNK], tl.float32)
    for tile in range(0, tiles):
        row, live, _, _, _ = tile_rows(
            offsets, feature, tl.program_id(0) * tiles + tile, batch_size, num_indices, fine, T, POOLING
        )
        grad_row = grad + row[:, None] * grad_stride + column
        grad_out = tl.load(grad_row + n[None, :], mask=live[:, None] & (n < dim)[None, :], other=0.0)
        read_row = (
            read + row[None, :] * (read_stride // 8 * 8) + tl.multiple_of(tl.load(feature + READ_COLUMN), 8)
        )
        pooled = tl.load(read_row + k[:, None], mask=live[None, :] & (k < inner)[:, None], other=0.0)
        total = tl.dot(pooled, grad_out, total, input_precision="tf32x3")
    matrix = tl.load(feature + PARTIAL) + k[:, None] * dim + n[None, :]
    partial = partials + tl.program_id(0).to(tl.int64) * partial_stride + matrix
    tl.store(partial, total, mask=(k < inner)[:, None] & (n < dim)[None, :])
