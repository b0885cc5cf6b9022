"""Elements as the kernels read them: of an array, or of codes and scales (docs/hashing.md, section 6)."""

import triton
import triton.language as tl

from torchrec_pss.ops import few_bits

GROUP = tl.constexpr(few_bits.GROUP)
_BYTE = tl.constexpr(8)


@triton.jit
def load_elements(array, group_scales, element, there, BITS: tl.constexpr):
    """fp32 elements at the places ``element``, 0 where they are not ``there``.

    ``array`` holds 32 or 16 bits an element, or for BITS below 32 codes, with ``group_scales``.
    """
    if BITS == 32:
        return tl.load(array + element, mask=there, other=0.0).to(tl.float32)
    bit = element % _BYTE * BITS
    byte = element // _BYTE * BITS + bit // _BYTE  # the number of bits may need more bits than that of elements
    word = tl.load(array + byte, mask=there, other=0).to(tl.int32)
    if _BYTE % BITS != 0:
        word |= tl.load(array + byte + 1, mask=there, other=0).to(tl.int32) << _BYTE
    code = (word >> (bit % _BYTE).to(tl.int32)) & (2**BITS - 1)
    scale = tl.load(group_scales + element // GROUP, mask=there, other=0.0).to(tl.float32)
    return (code.to(tl.float32) - (2 ** (BITS - 1) - 0.5)) * scale
