"""`LaunchColumn`'s numbers as the kernels read them, and what of a feature's row more than one kernel loads."""

import triton
import triton.language as tl

from torchrec_pss.ops.triton.launches import LaunchColumn

COLUMNS = tl.constexpr(len(LaunchColumn))
FEATURE = tl.constexpr(LaunchColumn.FEATURE.value)
KEY = tl.constexpr(LaunchColumn.KEY.value)
ROWS = tl.constexpr(LaunchColumn.ROWS.value)
UNITS_OF_ROW = tl.constexpr(LaunchColumn.UNITS.value)
PREFIX = tl.constexpr(LaunchColumn.PREFIX.value)
BASE = tl.constexpr(LaunchColumn.BASE.value)
BLOCK = tl.constexpr(LaunchColumn.BLOCK.value)
SLOTS = tl.constexpr(LaunchColumn.SLOTS.value)
FIRST = tl.constexpr(LaunchColumn.FIRST.value)
HOT_BEGIN = tl.constexpr(LaunchColumn.HOT_BEGIN.value)
HOT_END = tl.constexpr(LaunchColumn.HOT_END.value)
HOT_BASE = tl.constexpr(LaunchColumn.HOT_BASE.value)
HOT_DIRECTORY = tl.constexpr(LaunchColumn.HOT_DIRECTORY.value)
HOT_SHIFT = tl.constexpr(LaunchColumn.HOT_SHIFT.value)
HOT_DROP = tl.constexpr(LaunchColumn.HOT_DROP.value)
OUT_COLUMN = tl.constexpr(LaunchColumn.OUT_COLUMN.value)
READ_COLUMN = tl.constexpr(LaunchColumn.READ_COLUMN.value)
PROJECTION = tl.constexpr(LaunchColumn.PROJECTION.value)
WIDTH_OF_ROW = tl.constexpr(LaunchColumn.WIDTH.value)
PARTIAL = tl.constexpr(LaunchColumn.PARTIAL.value)
INNER = tl.constexpr(LaunchColumn.INNER.value)
DIM_OF_FEATURE = tl.constexpr(LaunchColumn.DIM.value)


@triton.jit
def output_columns(feature, stride, ALIGNED: tl.constexpr):
    """Of output or gradient: the row's stride, the feature's first column and its number of columns."""
    column = tl.load(feature + OUT_COLUMN)
    dim = tl.load(feature + DIM_OF_FEATURE).to(tl.int32)
    if ALIGNED:
        stride = stride // 4 * 4  # the compiler takes no hint about an argument
        column = tl.multiple_of(column, 4)
        dim = tl.multiple_of(dim, 4)
    return stride, column, dim
