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
from torchrec_pss.ops.triton.rows import MEAN, SIZES, ids_at, index_scale, row_range, tile_lanes, tile_rows


@triton.jit(do_not_specialize=SIZES)
def backward_kernel(
    grad,
    grad_read,
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
    read_stride,
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
    IDS: tl.constexpr,
    MULTIPLIES: tl.constexpr,
    MERGES: tl.constexpr,
):
    """One program: ``T`` rows of one feature, ``IDS`` ids of a row at a time.

    Of projected features, the reads' gradients are those of ``grad_read``, or products if the kernel ``MULTIPLIES``. If it ``MERGES``, ids
    that occur more than once at a time are added up before they are added to the array.

    ``factor`` times an element's contributions is added to ``grad_array``, or, for SORTED, written to ``contributions``
    ``[L, UNITS, VEC]`` and its place, in units, to ``places`` ``[L, UNITS]``.
    """
    feature = metadata + tl.program_id(0) % num_features * COLUMNS
    tile = tl.program_id(0) // num_features
    grad_stride, column, dim = output_columns(feature, grad_stride, ALIGNED)
    at, slot = tile_lanes(tile, T, IDS)
    row, live, first, last, length = tile_rows(offsets, feature, at, batch_size, num_indices, fine, POOLING)
    index, ids = ids_at(indices, first + slot, last)  # on their way while the gradient is multiplied
    if MULTIPLIES:
        grad_units, bias = read_gradients(
            grad,
            projections,
            feature,
            tile,
            row,
            live,
            batch_size,
            grad_stride,
            column,
            dim,
            T,
            UNITS * VEC,
            DIM,
            CHUNK,
            IDS,
        )
    elif PROJECTED:
        grad_units, bias = load_read(grad_read, read_stride, row, live, feature, UNITS * VEC)
    else:
        k = tl.arange(0, UNITS * VEC)
        grad_row = grad + row[:, None] * grad_stride + column
        grad_units = tl.load(grad_row + k[None, :], mask=live[:, None] & (k < dim)[None, :], other=0.0)
        bias = tl.zeros([T * IDS], tl.float32)
    grad_units = tl.reshape(grad_units, [T * IDS, UNITS, VEC])
    for position in range(0, tl.max(length, axis=0), IDS):
        here = position + slot < length
        hot_number = tl.full([T * IDS], -1, tl.int32)
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
            lane = (unit * VEC)[:, :, None] + tl.arange(0, VEC)[None, None, :]
            tl.store(contributions + lane, step, mask=there[:, :, None])
        elif MERGES:
            step, is_first = merged(ids, here, step)
            tl.atomic_add(grad_array + element, step, mask=(there & is_first[:, None])[:, :, None], sem="relaxed")
        else:
            tl.atomic_add(grad_array + element, step, mask=there[:, :, None], sem="relaxed")
        if WEIGHTED:
            values = load_units(array, group_scales, place, there, VEC, BITS)
            products = values * grad_units * sign[:, :, None]
            total = tl.sum(tl.sum(products, axis=2), axis=1) + bias
            if POOLING == MEAN:
                total = total / tl.maximum(length, 1).to(tl.float32)
            tl.store(grad_weights + index, total, mask=here)
        index, ids = ids_at(indices, first + position + IDS + slot, last)


@triton.jit
def read_gradients(
    grad, projections, feature, tile, row, live, batch_size, grad_stride, column, dim,
    T: tl.constexpr, WIDTH: tl.constexpr, DIM: tl.constexpr, CHUNK: tl.constexpr, IDS: tl.constexpr,
):  # fmt: skip
    """The gradients of a tile's reads and of their biases, for each of its lanes: fp32 ``[T * IDS, WIDTH]`` and ``[T * IDS]``."""
    if IDS > 1:
        row = tile.to(tl.int64) * T + tl.arange(0, T)
        live = row < batch_size
    grad_row = grad + row[:, None] * grad_stride + column
    k, has_row = matrix_rows(feature, WIDTH)
    matrix = projections + tl.load(feature + PROJECTION) + k[None, :] * dim
    joined = tl.zeros([T, 2 * WIDTH], tl.float32)
    for chunk in range(0, DIM, CHUNK):
        n = chunk + tl.arange(0, CHUNK)
        grad_out = tl.load(grad_row + n[None, :], mask=live[:, None] & (n < dim)[None, :], other=0.0)
        transposed = tl.load(matrix + n[:, None], mask=has_row[None, :] & (n < dim)[:, None], other=0.0)
        joined = tl.dot(grad_out, transposed, joined, input_precision="tf32x3")
    grad_read, grad_bias = tl.split(tl.reshape(joined, [T, WIDTH, 2]))
    bias = tl.sum(grad_bias, axis=1)  # 0 but for the first
    if IDS > 1:
        grad_read = tl.reshape(tl.broadcast_to(grad_read[:, None, :], [T, IDS, WIDTH]), [T * IDS, WIDTH])
        bias = tl.reshape(tl.broadcast_to(bias[:, None], [T, IDS]), [T * IDS])
    return grad_read, bias


@triton.jit
def merged(ids, live, step):
    """Of lanes with the same id, the first one's ``step`` (``[T, UNITS, VEC]``) is the sum of theirs; and whether a lane is the first."""
    lane = tl.arange(0, ids.shape[0])
    same = (ids[:, None] == ids[None, :]) & live[:, None] & live[None, :]
    first = tl.min(tl.where(same, lane[None, :], ids.shape[0]), axis=1)
    WIDTH: tl.constexpr = step.shape[1] * step.shape[2]
    flat = tl.reshape(step, [ids.shape[0], WIDTH])
    if ids.shape[0] >= 16 and WIDTH >= 16:
        sums = tl.dot(same.to(tl.float32), flat, input_precision="tf32x3")
    else:
        sums = tl.sum(tl.where(same[:, :, None], flat[None, :, :], 0.0), axis=1)
    return tl.reshape(sums, step.shape), first == lane


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
    ADDS: tl.constexpr,
    ALIGNED: tl.constexpr,
    POOLING: tl.constexpr,
):
    """One program: `CHUNK` columns of a projection's gradient over every so many of the ``tiles`` of ``T`` rows, to the program's own
    row of ``partials`` or, if it ``ADDS``, to the one that all add to."""
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
    there = has_row[:, None] & (n < dim)[None, :]
    if ADDS:
        sums = partials + tl.load(feature + PROJECTION)
        tl.atomic_add(sums + k[:, None] * dim + n[None, :], total, mask=there, sem="relaxed")
    else:
        sums = partials + program.to(tl.int64) * partial_stride + tl.load(feature + PARTIAL)
        tl.store(sums + k[:, None] * dim + n[None, :], total, mask=there)
