"""``torch.ops.torchrec_pss.read``: the lookup of those who serve. It leaves nothing for a backward, and has none."""

import torch

from torchrec_pss.ops import reference
from torchrec_pss.ops.arguments import check_arguments, check_devices
from torchrec_pss.ops.features import PoolingMode
from torchrec_pss.ops.few_bits import check_packed
from torchrec_pss.ops.lookup import HAS_CPU_KERNEL, _library, _on_gpu
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
        elements: an array ``[numel]`` and no ``scales``, with ``bits`` 32; or the codes and scales of
            `pack`.
        features: as `lookup`'s, and so all that are not named here.
        numel: how many elements the array has.
        bits: of an element, 32, 8, 4, 3 or 2.

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


def _by(lookup, lookup_packed):
    def read(elements, scales, numel, bits, *arguments):
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
    elements,
    scales,
    numel,
    bits,
    features,
    hot_keys,
    projections,
    indices,
    offsets,
    weights,
    total_width,
    read_width,
    pooling_mode,
    hash,
    sign,
) -> torch.Tensor:
    _check_elements(elements, scales, numel, bits)
    check_devices(elements, features, hot_keys, projections, indices, offsets, weights)
    rows = indices.shape[0] if pooling_mode == PoolingMode.NONE else (offsets.shape[0] - 1) // max(features.shape[0], 1)
    return projections.new_empty(rows, total_width)


def _refuse(ctx, *_):
    raise NotImplementedError(
        "torchrec_pss::read is for serving and has no gradient: train with lookup, or lookup_packed"
    )


torch.library.register_autograd("torchrec_pss::read", _refuse)
