"""``torch.ops.torchrec_pss.read``: the lookup of those who serve. It leaves nothing for a backward, and has none."""

from collections.abc import Callable
from typing import Any, NoReturn

import torch

from torchrec_pss.ops import reference
from torchrec_pss.ops.arguments import check_arguments, check_devices
from torchrec_pss.ops.features import PoolingMode
from torchrec_pss.ops.few_bits import check_packed
from torchrec_pss.ops.library import HAS_CPU_KERNEL
from torchrec_pss.ops.lookup import _library, _on_gpu
from torchrec_pss.ops.packed import lookup_packed_reference

_IN_FULL = 32  # bits: elements are an array


def read(
    elements: torch.Tensor,
    scales: torch.Tensor | None,
    features: torch.Tensor,
    indices: torch.Tensor,
    offsets: torch.Tensor,
    per_sample_weights: torch.Tensor | None = None,
    *,
    numel: int,
    bits: int,
    hot_keys: torch.Tensor,
    projections: torch.Tensor,
    total_width: int,
    read_width: int,
    pooling_mode: int = PoolingMode.SUM,
    hash_kind: int = 0,
    sign: bool = True,
) -> torch.Tensor:
    """What `lookup` returns, to the bit.

    Args:
        elements: an array ``[numel]``, with ``bits`` 32; or the codes of `pack`, uint8.
        scales: of the codes, bf16 ``[numel / 64, rounded up]``; None beside an array.
        features, indices, offsets, per_sample_weights: as `lookup`'s.
        numel: elements of the array.
        bits: of an element.
        hot_keys, projections: as `lookup`'s, which are there, perhaps empty.
        total_width, read_width, pooling_mode, hash_kind, sign: as `lookup`'s.

    Returns:
        As `lookup`: fp32 (fp64 for an fp64 array) ``[B, total_width]``, or ``[L, total_width]`` for NONE.

    Raises:
        ValueError, IndexError: as `lookup`, and of elements that are not ``numel``.
    """
    like = elements if bits == _IN_FULL else elements.new_empty(0, dtype=torch.float32)
    check_arguments(
        like, features, hot_keys, projections, indices, offsets, per_sample_weights, pooling_mode, hash_kind
    )
    return torch.ops.torchrec_pss.read(
        elements, scales, numel, bits, features, hot_keys, projections, indices, offsets, per_sample_weights, total_width, read_width,
        pooling_mode, hash_kind, sign,
    )  # fmt: skip


def _check_elements(elements: torch.Tensor, scales: torch.Tensor | None, numel: int, bits: int) -> None:
    if (scales is None) != (bits == _IN_FULL):
        raise ValueError(f"elements of {bits} bits have {'no ' if bits == _IN_FULL else ''}scales")
    if scales is not None:
        check_packed(elements, scales, numel, bits)
    elif elements.shape[0] != numel:
        raise ValueError(f"numel is {numel}, and there are {elements.shape[0]} elements")


def _by(lookup: Callable[..., Any], lookup_packed: Callable[..., Any]) -> Callable[..., torch.Tensor]:
    def read(elements: torch.Tensor, scales: torch.Tensor | None, numel: int, bits: int, *arguments: Any) -> Any:
        _check_elements(elements, scales, numel, bits)
        if scales is None:
            return lookup(elements, *arguments)[0]
        return lookup_packed(elements, scales, None, numel, bits, *arguments)[0]

    return read


read_reference = _by(reference.lookup, lookup_packed_reference)
_library.impl("read", read_reference if _on_gpu is reference else _by(_on_gpu.lookup, _on_gpu.lookup_packed), "CUDA")
if not HAS_CPU_KERNEL:
    _library.impl("read", read_reference, "CPU")


@torch.library.register_fake("torchrec_pss::read")
def _(
    elements: torch.Tensor,
    scales: torch.Tensor | None,
    numel: int,
    bits: int,
    features: torch.Tensor,
    hot_keys: torch.Tensor,
    projections: torch.Tensor,
    indices: torch.Tensor,
    offsets: torch.Tensor,
    weights: torch.Tensor | None,
    total_width: int,
    read_width: int,
    pooling_mode: int,
    hash: int,
    sign: bool,
) -> torch.Tensor:
    _check_elements(elements, scales, numel, bits)
    check_devices(elements, features, hot_keys, projections, indices, offsets, weights)
    rows = indices.shape[0] if pooling_mode == PoolingMode.NONE else (offsets.shape[0] - 1) // max(features.shape[0], 1)
    return projections.new_empty(rows, total_width)


def _refuse(ctx: Any, *_: Any) -> NoReturn:
    raise NotImplementedError(
        "torchrec_pss::read is for serving and has no gradient: train with lookup, or lookup_packed"
    )


torch.library.register_autograd("torchrec_pss::read", _refuse)
