"""Products of pooled reads with their projections, in kernels of their own: they stream through what `forward_kernel` has read, and wait
for no addresses. Widths of a few coordinates may be multiplied without `tl.dot`, which pads them."""

import triton
import triton.language as tl

from torchrec_pss.ops.triton.columns import COLUMNS, INNER, PARTIAL, PROJECTION, READ_COLUMN, output_columns
from torchrec_pss.ops.triton.reads import load_read, matrix_rows, store_read, with_bias
from torchrec_pss.ops.triton.rows import NONE, SIZES, row_range


@triton.jit(do_not_specialize=SIZES)
def product_kernel(
    read,
    metadata,
    projections,
    offsets,
    out,
    num_features,
    batch_size,
    num_indices,
    out_stride,
    read_stride,
    T: tl.constexpr,
    WIDTH: tl.constexpr,
    DIM: tl.constexpr,
    DOT: tl.constexpr,
    ALIGNED: tl.constexpr,
    POOLING: tl.constexpr,
    STORE: tl.constexpr,
):
    """One program: the output of ``T`` rows of one feature."""
    feature = metadata + tl.program_id(0) % num_features * COLUMNS
    out_stride, column, dim = output_columns(feature, out_stride, ALIGNED)
    row, live = rows_of(offsets, feature, tl.program_id(0) // num_features, batch_size, num_indices, T, POOLING)
    n = tl.arange(0, DIM)
    matrix = projections + tl.load(feature + PROJECTION)
    if DOT:
        k, there = matrix_rows(feature, WIDTH)
        pooled, scales = load_read(read, read_stride, row, live, feature, WIDTH)
        projection = tl.load(
            matrix + k[:, None] * dim + n[None, :], mask=there[:, None] & (n < dim)[None, :], other=0.0
        )
        result = tl.dot(with_bias(pooled, scales), projection, input_precision="tf32x3")
    else:
        read_row = read + row * (read_stride // 8 * 8) + tl.load(feature + READ_COLUMN) // 8 * 8
        result = tl.zeros([T, DIM], tl.float32)
        for k in range(0, tl.load(feature + INNER).to(tl.int32)):
            factor = tl.load(read_row + k, mask=live, other=0.0)
            result += factor[:, None] * tl.load(matrix + k * dim + n, mask=n < dim, other=0.0)[None, :]
    out_row = out + row[:, None] * out_stride + column
    tl.store(out_row + n[None, :], result, mask=live[:, None] & (n < dim)[None, :], cache_modifier=STORE)


@triton.jit
def rows_of(offsets, feature, tile, batch_size, num_indices, T: tl.constexpr, POOLING: tl.constexpr):
    """The rows of a tile (int64 ``[T]``), and whether each exists; none outside of output and reads, whatever the offsets are."""
    begin, end = row_range(offsets, feature, batch_size, POOLING)
    row = begin + tile.to(tl.int64) * T + tl.arange(0, T)
    live = (row >= 0) & (row < end)
    if POOLING == NONE:
        live = live & (row < num_indices)
    return row, live


@triton.jit(do_not_specialize=SIZES)
def read_gradient_kernel(
    grad,
    read,
    grad_read,
    metadata,
    projections,
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
    ADDS: tl.constexpr,
    ALIGNED: tl.constexpr,
    POOLING: tl.constexpr,
):
    """One program: every so many of the ``tiles`` of ``T`` rows. Both gradients of a product, so that the output's is read once: the reads',
    to ``grad_read``, and the projection's, to the program's own row of ``partials`` or, if it ``ADDS``, to the one that all add to."""
    feature = metadata + tl.program_id(0) % num_features * COLUMNS
    program = tl.program_id(0) // num_features
    programs = tl.num_programs(0) // num_features
    grad_stride, column, dim = output_columns(feature, grad_stride, ALIGNED)
    begin, end = row_range(offsets, feature, batch_size, POOLING)
    n = tl.arange(0, DIM)
    k, has_row = matrix_rows(feature, WIDTH)
    there = has_row[:, None] & (n < dim)[None, :]
    projection = tl.load(
        projections + tl.load(feature + PROJECTION) + k[:, None] * dim + n[None, :], mask=there, other=0.0
    )
    total = tl.zeros([2 * WIDTH, DIM], tl.float32)
    for tile in range(program, tiles, programs):
        row = begin + tile * T + tl.arange(0, T)
        live = row < end
        grad_row = grad + row[:, None] * grad_stride + column
        grad_out = tl.load(grad_row + n[None, :], mask=live[:, None] & (n < dim)[None, :], other=0.0)
        pooled, scales = load_read(read, read_stride, row, live, feature, WIDTH)
        total = tl.dot(tl.trans(with_bias(pooled, scales)), grad_out, total, input_precision="tf32x3")
        joined = tl.dot(grad_out, tl.trans(projection), input_precision="tf32x3")
        of_reads, of_bias = tl.split(tl.reshape(joined, [T, WIDTH, 2]))
        store_read(grad_read, read_stride, row, live, of_reads, tl.sum(of_bias, axis=1), feature, WIDTH)
    if ADDS:
        sums = partials + tl.load(feature + PROJECTION)
        tl.atomic_add(sums + k[:, None] * dim + n[None, :], total, mask=there, sem="relaxed")
    else:
        sums = partials + program.to(tl.int64) * partial_stride + tl.load(feature + PARTIAL)
        tl.store(sums + k[:, None] * dim + n[None, :], total, mask=there)
