"""Elements as the kernels read them: of an array, or of codes and scales (docs/how/hashing.md, section 6)."""

import triton
import triton.language as tl

from torchrec_pss.ops import few_bits

GROUP = tl.constexpr(few_bits.GROUP)


@triton.jit
def load_units(array, group_scales, place, there, VEC: tl.constexpr, BITS: tl.constexpr):
    """fp32 ``[T, UNITS, VEC]``: the units of ``VEC`` elements at the places ``[T, UNITS]``, 0 where they are not ``there``.

    ``array`` holds 32 or 16 bits an element, or for BITS below 32 codes, with ``group_scales``. A unit lies in one group.
    """
    lane = tl.arange(0, VEC)[None, None, :]
    if BITS == 32:
        values = tl.load(array + ((place * VEC)[:, :, None] + lane), mask=there[:, :, None], other=0.0).to(tl.float32)
    else:
        OF_UNIT: tl.constexpr = VEC * BITS
        # Where a unit's bits may begin in a byte: at multiples of this.
        STEP: tl.constexpr = 8 if OF_UNIT % 8 == 0 else OF_UNIT & -OF_UNIT
        BYTES: tl.constexpr = (OF_UNIT + 8 - STEP + 7) // 8
        bit = place % 8 * OF_UNIT
        first = array + (place // 8 * OF_UNIT + bit // 8)  # the number of bits may need more bits than that of elements
        word = tl.zeros([place.shape[0], place.shape[1]], tl.int32)
        for byte in tl.static_range(BYTES):
            word |= tl.load(first + byte, mask=there, other=0).to(tl.int32) << (8 * byte)
        word = word >> (bit % 8).to(tl.int32)
        code = (word[:, :, None] >> (lane * BITS)) & (2**BITS - 1)
        scale = tl.load(group_scales + place // (GROUP // VEC), mask=there, other=0.0).to(tl.float32)
        values = (code.to(tl.float32) - (2 ** (BITS - 1) - 0.5)) * scale[:, :, None]
    return values
