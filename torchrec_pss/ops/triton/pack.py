"""An array packed on a GPU: the codes and scales of `torchrec_pss.ops.packed.pack_reference`, bit for bit."""

import torch
import triton
import triton.language as tl

from torchrec_pss.ops.few_bits import GROUP
from torchrec_pss.ops.triton.launch import launch

_SMALLEST, _NAN = tl.constexpr(0x0080), tl.constexpr(0x7FC0)  # of a scale, as bits of bf16
_GROUP = tl.constexpr(GROUP)
_GROUPS, _WARPS = 32, 4  # of a program


@triton.jit(do_not_specialize=("numel",))
def pack_kernel(array, codes, scales, numel, FACTOR: tl.constexpr, BITS: tl.constexpr, G: tl.constexpr):
    """One program: ``G`` groups, eight codes a word."""
    HALF: tl.constexpr = 2.0 ** (BITS - 1)
    group = tl.program_id(0).to(tl.int64) * G + tl.arange(0, G)
    live = group * _GROUP < numel
    word_of_group = tl.arange(0, _GROUP // 8)
    lane = tl.arange(0, 8)
    at = (group[:, None] * _GROUP + word_of_group[None, :] * 8)[:, :, None] + lane[None, None, :]
    values = tl.load(array + at, mask=at < numel, other=0.0)
    # Numbers without their sign are in the order of their bits, NaN above all.
    sizes = values.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    largest = tl.max(tl.max(sizes, axis=2), axis=1).to(tl.float32, bitcast=True)
    # bf16, rounded to even; its bits, for the interpreter rounds otherwise.
    rounded = (largest * FACTOR).to(tl.int32, bitcast=True)
    rounded = (rounded + 0x7FFF + ((rounded >> 16) & 1)) >> 16
    rounded = tl.where(largest == largest, tl.maximum(rounded, _SMALLEST), _NAN)
    tl.store(scales + group, rounded.to(tl.int16), mask=live)
    scale = (rounded << 16).to(tl.float32, bitcast=True)
    inverse = tl.div_rn(tl.full([G], 1.0, tl.float32), scale)
    level = tl.floor(values * inverse[:, None, None])
    level = tl.where(level > -HALF, level, -HALF)  # a NaN too: the scale is one then
    level = tl.where(level < HALF - 1, level, HALF - 1)
    code = tl.where(at < numel, level + HALF, 0.0).to(tl.int64)
    word = tl.sum(code << (lane * BITS).to(tl.int64)[None, None, :], axis=2)
    to = codes + (group[:, None] * (_GROUP // 8) + word_of_group[None, :]) * BITS
    for byte in tl.static_range(BITS):
        tl.store(to + byte, ((word >> (8 * byte)) & 255).to(tl.uint8), mask=live[:, None])


def pack(array: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, bits: int) -> None:
    """Writes the codes and scales of fp32 ``array``; of codes, those of whole groups."""
    if array.numel():
        constants = {"FACTOR": 1 / (2 ** (bits - 1) - 0.5), "BITS": bits, "G": _GROUPS}
        programs = -(-array.numel() // (GROUP * _GROUPS))
        launch(
            pack_kernel,
            programs,
            (array.contiguous(), codes, scales.view(torch.int16)),
            (array.numel(),),
            constants,
            _WARPS,
        )
