"""``torch.ops.torchrec_pss.quantize``: an array as it is read where its elements have few bits (docs/how/hashing.md, section 6).

Groups of `GROUP` consecutive elements have one scale. With `b` bits there are `2^b` levels, `(q + 1/2) * scale` for `q = -2^(b-1) ..
2^(b-1) - 1`: symmetric, and without a zero, which with few bits would cost a level. The scale follows from the group's largest element alone,
so that nothing beside the array is learned or kept, and every device has the same bits.
"""

from fractions import Fraction
from typing import Any

import torch

from torchrec_pss.ops.arguments import refuse_forward_mode
from torchrec_pss.ops.eager import is_unwatched
from torchrec_pss.ops.few_bits import FEW_BITS as FEW_BITS
from torchrec_pss.ops.few_bits import GROUP, check_trained
from torchrec_pss.ops.hashing import shortened
from torchrec_pss.ops.library import HAS_CPU_KERNEL
from torchrec_pss.ops.lookup import _library

SCALE_BYTES = 2  # bf16
PROJECTION_BITS = 8
KEY_BITS = 9  # that a key has beyond those that number the keys


def stored_bytes(numel: int, bits: int, itemsize: int = 4) -> int:
    """Bytes of ``numel`` elements with their scales; of 32 bits as they are trained, ``itemsize`` each."""
    if bits == 32:
        return numel * itemsize
    return -(-numel * bits // 8) + -(-numel // GROUP) * SCALE_BYTES


def element_bytes(bits: int) -> Fraction:
    """Of one element, its part of a scale included."""
    return Fraction(stored_bytes(GROUP, bits), GROUP)


def projection_bytes(numel: int, bits: int) -> int:
    """Of so many elements of projections: 8 bits each, with their scales, beside elements of few bits."""
    return stored_bytes(numel, 32 if bits == 32 else PROJECTION_BITS)


def key_bytes(number: int, short: bool) -> int:
    """Of so many keys of hot rows. Of ``H`` short ones a table has the upper `KEY_BITS` + log2 H bits of the hash, of which the first
    ``log2 H`` take two when all are in order (Elias and Fano)."""
    return -(-11 * number // 8) if short else 4 * number


def kept_keys(keys: torch.Tensor, short: bool) -> tuple[torch.Tensor, int]:
    """A table's keys as they are kept, ascending and each once, and the lower bits that they are without. How many are left says how long
    they may be: `key_bytes` has no room for the upper bits of more."""
    keys, drop = keys.unique(), 0
    while short and len(keys) and drop < (needed := 33 - KEY_BITS - len(keys).bit_length()):
        keys, drop = shortened(keys, needed).unique(), needed
    return keys, drop


def scales_of(array: torch.Tensor, bits: int) -> torch.Tensor:
    """bf16 ``[N / GROUP, rounded up]``: of each group, its largest element over the largest level."""
    missing = -len(array) % GROUP
    groups = torch.nn.functional.pad(array.to(torch.float32), (0, missing)).view(-1, GROUP)
    # Filled in there, not copied from the host, which would wait and cannot be captured in a CUDA graph.
    factor = torch.full((), 1 / (2 ** (bits - 1) - 0.5), dtype=torch.float32, device=array.device)
    return (groups.abs().amax(1) * factor).to(torch.bfloat16).clamp(min=torch.finfo(torch.bfloat16).tiny)


def codes_of(array: torch.Tensor, scales: torch.Tensor, bits: int) -> torch.Tensor:
    """int8 ``[N]``: of each element, the nearest level's ``q``."""
    inverse = scales.to(torch.float32).reciprocal().repeat_interleave(GROUP)[: len(array)]
    half = 2 ** (bits - 1)
    return (array.to(torch.float32) * inverse).floor().clamp(-half, half - 1).to(torch.int8)


def values_of(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """fp32 ``[N]``: what the codes stand for."""
    return (codes.to(torch.float32) + 0.5) * scales.to(torch.float32).repeat_interleave(GROUP)[: len(codes)]


def reference(array: torch.Tensor, bits: int) -> torch.Tensor:
    """The op in plain PyTorch."""
    scales = scales_of(array, bits)
    return values_of(codes_of(array, scales, bits), scales)


def quantize(array: torch.Tensor, bits: int) -> torch.Tensor:
    """What is read of an array whose elements have ``bits`` bits; its gradient is the array's (straight through).

    Args:
        array: fp32 ``[N]``.
        bits: one of `FEW_BITS`.

    Returns:
        fp32 ``[N]``.

    Raises:
        ValueError: other bits, or an array that is no fp32 vector.
        NotImplementedError: the array has a forward-mode derivative, which the op would drop.
    """
    check_trained(array, bits)
    refuse_forward_mode(array)
    if is_unwatched(array):
        quantized: torch.Tensor = _Quantize.apply(array, bits)
        return quantized
    return torch.ops.torchrec_pss.quantize(array, bits)


class _Quantize(torch.autograd.Function):
    """The op's autograd where nobody watches operators."""

    @staticmethod
    def forward(ctx: Any, array: torch.Tensor, bits: int) -> torch.Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            found: torch.Tensor = torch.ops.torchrec_pss.quantize(array, bits)
        return found

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad, None


if not HAS_CPU_KERNEL:
    _library.impl("quantize", reference, "CPU")
_library.impl("quantize", reference, "CUDA")


@torch.library.register_fake("torchrec_pss::quantize")
def _fake(array: torch.Tensor, bits: int) -> torch.Tensor:
    return torch.empty_like(array)


torch.library.register_autograd(
    "torchrec_pss::quantize", lambda ctx, grad: (grad, None), setup_context=lambda ctx, inputs, output: None
)
