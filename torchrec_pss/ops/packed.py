"""``torch.ops.torchrec_pss.pack`` and ``lookup_packed``: an array in few bits an element, and the lookup in it (docs/how/hashing.md, section 6).

What is read are codes and scales as they are stored, and behind the codes some bytes more: kernels load eight at once. A lookup needs no
array; one that is trained is given the gradient, straight through.
"""

from collections.abc import Sequence
from typing import Any

import torch

from torchrec_pss.ops import reference
from torchrec_pss.ops.arguments import check_arguments, refuse_forward_mode
from torchrec_pss.ops.eager import is_unwatched, kernels_of, lookup_of
from torchrec_pss.ops.features import PoolingMode
from torchrec_pss.ops.few_bits import CODES_BEHIND, GROUP, check_packed, check_trained, code_bytes
from torchrec_pss.ops.library import HAS_CPU_KERNEL
from torchrec_pss.ops.lookup import _fake_backward, _fake_lookup, _fake_update, _library, _no_second_derivative, _on_gpu
from torchrec_pss.ops.quantize import codes_of, scales_of, values_of


def pack_reference(array: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`pack` in plain PyTorch."""
    scales = scales_of(array, bits)
    unsigned = codes_of(array, scales, bits).to(torch.int64) + 2 ** (bits - 1)
    eights = torch.nn.functional.pad(unsigned, (0, -len(array) % GROUP)).view(-1, 8)
    words = (eights << bits * torch.arange(8, device=array.device)).sum(1)  # of 64 bits at most, whatever their sign
    codes = (words[:, None] >> 8 * torch.arange(bits, device=array.device)) & 0xFF
    return torch.nn.functional.pad(codes.flatten().to(torch.uint8), (0, CODES_BEHIND)), scales


def unpack_reference(codes: torch.Tensor, scales: torch.Tensor, numel: int, bits: int) -> torch.Tensor:
    """What the codes stand for: fp32 ``[numel]``."""
    eights = codes[: code_bytes(numel, bits) - CODES_BEHIND].view(-1, bits).to(torch.int64)
    words = (eights << 8 * torch.arange(bits, device=codes.device)).sum(1)
    unsigned = (words[:, None] >> bits * torch.arange(8, device=codes.device)) & 2**bits - 1
    return values_of((unsigned.flatten()[:numel] - 2 ** (bits - 1)).to(torch.int8), scales)


def lookup_packed_reference(
    codes: torch.Tensor, scales: torch.Tensor, array: torch.Tensor | None, numel: int, bits: int, *arguments: Any
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The op in plain PyTorch: the lookup in what the codes stand for."""
    check_packed(codes, scales, numel, bits, array)
    return reference.lookup(unpack_reference(codes, scales, numel, bits), *arguments)


def lookup_packed_backward_reference(
    grad: torch.Tensor,
    saved: Sequence[torch.Tensor],
    codes: torch.Tensor,
    scales: torch.Tensor,
    numel: int,
    bits: int,
    *arguments: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Its gradients, that of an fp32 array among them."""
    return reference.lookup_backward(grad, saved, unpack_reference(codes, scales, numel, bits), *arguments)


def lookup_packed_backward_update_reference(
    grad: torch.Tensor,
    saved: Sequence[torch.Tensor],
    codes: torch.Tensor,
    scales: torch.Tensor,
    bits: int,
    array: torch.Tensor,
    sink: torch.Tensor,
    state: torch.Tensor | None,
    second: torch.Tensor | None,
    *arguments: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients, of which the array's becomes a step on it, as in `reference.lookup_backward_update_`."""
    *others, kind, numbers = arguments
    gradient, *found = lookup_packed_backward_reference(grad, saved, codes, scales, array.numel(), bits, *others)
    reference.step(array, gradient, sink, state, second, kind, numbers)
    return found[0], found[1]


def pack(array: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """An array as it is read in few bits.

    Args:
        array: fp32 ``[N]``.
        bits: one of `FEW_BITS`.

    Returns:
        Codes, uint8 ``[code_bytes(N, bits)]``, and scales, bf16 ``[N / GROUP, rounded up]``; in fresh memory, for a backward may want those
        of an earlier forward.

    Raises:
        ValueError: other bits, or an array that is no fp32 vector.
        NotImplementedError: the array has a forward-mode derivative.
    """
    check_trained(array, bits)
    refuse_forward_mode(array)
    if is_unwatched(array):
        with torch._C._AutoDispatchBelowAutograd():
            return kernels_of(array).pack(array, bits)
    return torch.ops.torchrec_pss.pack(array, bits)


def lookup_packed(
    codes: torch.Tensor,
    scales: torch.Tensor,
    features: torch.Tensor,
    indices: torch.Tensor,
    offsets: torch.Tensor,
    per_sample_weights: torch.Tensor | None = None,
    *,
    numel: int,
    bits: int,
    array: torch.Tensor | None = None,
    hot_keys: torch.Tensor | None = None,
    projections: torch.Tensor | None = None,
    total_width: int,
    read_width: int = 0,
    pooling_mode: int = PoolingMode.SUM,
    hash_kind: int = 0,
    sign: bool = True,
) -> torch.Tensor:
    """`lookup` in ``numel`` elements of ``bits`` bits.

    Args:
        codes, scales: of `pack`. Or stored ones, the codes lengthened to `code_bytes`.
        array: fp32 ``[numel]``, the one that was packed, if it is trained: it is given the gradient, and not read.

    Raises:
        ValueError, NotImplementedError, IndexError: as `lookup`; codes, scales or an array of other sizes or dtypes.
    """
    if hot_keys is None:
        hot_keys = features.new_zeros(0, dtype=torch.int32)
    if projections is None:
        projections = codes.new_empty(0, dtype=torch.float32)
    refuse_forward_mode(array, projections, per_sample_weights)
    arguments = features, hot_keys, projections, indices, offsets, per_sample_weights
    sizes, widths, flags = (numel, bits), (total_width, read_width), (int(pooling_mode), hash_kind, sign)
    unwatched = is_unwatched(codes, scales, array, *arguments)
    if not unwatched or array is not None:  # the op checks codes and scales, not the array
        check_packed(codes, scales, numel, bits, array)
    if unwatched:
        return lookup_of(array, (codes, scales), sizes, arguments, widths, flags)
    check_arguments(codes.new_empty(0, dtype=torch.float32), *arguments, pooling_mode, hash_kind)
    return torch.ops.torchrec_pss.lookup_packed(codes, scales, array, *sizes, *arguments, *widths, *flags)[0]


def lookup_trained(
    array: torch.Tensor, features: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor,
    per_sample_weights: torch.Tensor | None = None, *, bits: int, **arguments: Any,
) -> torch.Tensor:  # fmt: skip
    """`lookup` in an array that is trained in fp32 and read in few bits: packed anew, for nothing says
    whether it has changed."""
    codes, scales = pack(array, bits)
    return lookup_packed(
        codes, scales, features, indices, offsets, per_sample_weights, numel=len(array), bits=bits, array=array, **arguments
    )  # fmt: skip


_REFERENCES = {
    "pack": pack_reference,
    "lookup_packed": lookup_packed_reference,
    "lookup_packed_backward": lookup_packed_backward_reference,
    "lookup_packed_backward_update_": lookup_packed_backward_update_reference,
}
for _name, _reference in _REFERENCES.items():
    _library.impl(_name, _reference if _on_gpu is reference else getattr(_on_gpu, _name), "CUDA")
    if not HAS_CPU_KERNEL:
        _library.impl(_name, _reference, "CPU")


@torch.library.register_fake("torchrec_pss::pack")
def _(array: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    numel = array.shape[0]
    codes = array.new_empty(code_bytes(numel, bits), dtype=torch.uint8)
    return codes, array.new_empty(-(-numel // GROUP), dtype=torch.bfloat16)


@torch.library.register_fake("torchrec_pss::lookup_packed")
def _(
    codes: torch.Tensor, scales: torch.Tensor, array: torch.Tensor, numel: int, bits: int, *arguments: Any
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    check_packed(codes, scales, numel, bits, array)
    return _fake_lookup(codes.new_empty(numel, dtype=torch.float32), *arguments)


@torch.library.register_fake("torchrec_pss::lookup_packed_backward")
def _(
    grad: torch.Tensor,
    saved: Sequence[torch.Tensor],
    codes: torch.Tensor,
    scales: torch.Tensor,
    numel: int,
    bits: int,
    *arguments: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return _fake_backward(grad, (*saved, scales), codes.new_empty(numel, dtype=torch.float32), *arguments)


@torch.library.register_fake("torchrec_pss::lookup_packed_backward_update_")
def _(
    grad: torch.Tensor,
    saved: Sequence[torch.Tensor],
    codes: torch.Tensor,
    scales: torch.Tensor,
    bits: int,
    *arguments: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    return _fake_update(grad, (*saved, codes, scales), *arguments)


def _setup_pack(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.mark_non_differentiable(*output)


def _setup_lookup(ctx: Any, inputs: Any, output: Any) -> None:
    codes, scales, _, numel, bits, *tensors, _, _, pooling_mode, hash_kind, sign = inputs
    ctx.mark_non_differentiable(*output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(codes, scales, *tensors, *output[1])
    ctx.flags = (numel, bits), (pooling_mode, hash_kind, sign)


def _backward(ctx: Any, grad: torch.Tensor | None, _: Any) -> tuple[torch.Tensor | None, ...]:
    codes, scales, *tensors = ctx.saved_tensors
    (arguments, saved), (sizes, flags) = (tensors[:6], tensors[6:]), ctx.flags
    if grad is None:
        return (None,) * 16
    grad_array, grad_projections, grad_weights = torch.ops.torchrec_pss.lookup_packed_backward(
        grad, saved, codes, scales, *sizes, *arguments, *flags
    )
    wants_weights = arguments[5] is not None and ctx.needs_input_grad[10]
    grad_array = grad_array if ctx.needs_input_grad[2] else None
    grad_weights = grad_weights if wants_weights else None
    return None, None, grad_array, *[None] * 4, grad_projections, None, None, grad_weights, *[None] * 5


torch.library.register_autograd("torchrec_pss::pack", lambda ctx, *_: (None, None), setup_context=_setup_pack)
torch.library.register_autograd("torchrec_pss::lookup_packed", _backward, setup_context=_setup_lookup)
torch.library.register_autograd("torchrec_pss::lookup_packed_backward", _no_second_derivative)
