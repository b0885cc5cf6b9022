"""Pooled reads of projected features: how they are multiplied by a projection, and kept for backward.

A bias is one more coordinate of the read, the sum of its scales. For `tl.dot` the two are joined: every other coordinate is one read,
the first of those between is the bias. So a row of 2^n places pads to 2^(n + 1), and joining and splitting move nothing.
"""

import triton
import triton.language as tl

from torchrec_pss.ops.triton.columns import INNER, READ_COLUMN, WIDTH_OF_ROW


@triton.jit
def with_bias(pooled, scales):
    """fp32 ``[T, W]`` and ``[T]``, joined: ``[T, 2 * W]``."""
    first = (tl.arange(0, pooled.shape[1]) == 0)[None, :]
    return tl.reshape(tl.join(pooled, tl.where(first, scales[:, None], 0.0)), [pooled.shape[0], 2 * pooled.shape[1]])


@triton.jit
def matrix_rows(feature, WIDTH: tl.constexpr):
    """The projection's row of each joined coordinate, int32 ``[2 * WIDTH]``, and whether it has one."""
    width = tl.load(feature + WIDTH_OF_ROW).to(tl.int32)
    inner = tl.load(feature + INNER).to(tl.int32)
    k = tl.arange(0, 2 * WIDTH)
    is_read = k % 2 == 0
    return tl.where(is_read, k // 2, width), tl.where(is_read, k // 2 < width, (k == 1) & (inner > width))


@triton.jit
def store_read(read, stride, row, live, pooled, scales, feature, WIDTH: tl.constexpr):
    """Keeps rows ``[T]`` of a feature's pooled reads, its bias behind each, zeros up to a multiple of 8."""
    width = tl.load(feature + WIDTH_OF_ROW).to(tl.int32)
    inner = tl.load(feature + INNER).to(tl.int32)
    k = tl.arange(0, WIDTH)
    biased = inner > width
    kept = tl.where((k == width)[None, :] & biased, scales[:, None], pooled)
    read_row = read + row * (stride // 8 * 8) + tl.load(feature + READ_COLUMN) // 8 * 8
    tl.store(read_row[:, None] + k[None, :], kept, mask=live[:, None] & (k < (inner + 7) // 8 * 8)[None, :])
    tl.store(read_row + width, scales, mask=live & biased & (width == WIDTH))


@triton.jit
def load_read(read, stride, row, live, feature, WIDTH: tl.constexpr):
    """What `store_read` kept: fp32 ``[T, WIDTH]`` and ``[T]``."""
    width = tl.load(feature + WIDTH_OF_ROW).to(tl.int32)
    inner = tl.load(feature + INNER).to(tl.int32)
    k = tl.arange(0, WIDTH)
    read_row = read + row * (stride // 8 * 8) + tl.load(feature + READ_COLUMN) // 8 * 8
    kept = tl.load(read_row[:, None] + k[None, :], mask=live[:, None] & (k < (inner + 7) // 8 * 8)[None, :], other=0.0)
    scales = tl.load(read_row + width, mask=live & (inner > width), other=0.0)
    return tl.where((k < width)[None, :], kept, 0.0), scales
