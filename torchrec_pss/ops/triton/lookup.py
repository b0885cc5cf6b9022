"""The op's functions on a GPU, by the Triton kernels; arguments and results as in `torchrec_pss.ops.reference`.

Nothing waits for the GPU, so that a step can be captured in a CUDA graph; the features' metadata are read on the host when a
lookup is first made with them. An id out of an exact table's range, or offsets that describe no bags, read zeros, get no
gradient and fail an assertion on the device, as an index out of range of `torch.nn.Embedding` does.

Gradients are added up in the order in which they come, unless ``torch.use_deterministic_algorithms`` is on: then contributions are
sorted by place first (`index_put_`), and the same inputs give the same bits. fp64 arrays go through the reference.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from torchrec_pss.ops import reference
from torchrec_pss.ops.arguments import check_arguments
from torchrec_pss.ops.features import PoolingMode, check_read_width, check_total_width
from torchrec_pss.ops.few_bits import CODES_BEHIND, GROUP, check_packed, check_trained, code_bytes
from torchrec_pss.ops.triton import pack as pack_kernels
from torchrec_pss.ops.triton import tiling
from torchrec_pss.ops.triton.backward import backward_kernel, projection_kernel
from torchrec_pss.ops.triton.forward import forward_kernel
from torchrec_pss.ops.triton.launch import launch
from torchrec_pss.ops.triton.launches import Launch, Plan, plan
from torchrec_pss.ops.triton.product import product_kernel, read_gradient_kernel
from torchrec_pss.ops.triton.update import update_kernel
from torchrec_pss.ops.triton.variants import Projection
from torchrec_pss.ops.update_kinds import UpdateKind

_UPDATE_BLOCK, _UPDATE_WARPS = 1024, 4
_PROGRAMS = 1024  # of a launch that adds up projections' gradients: enough to fill a GPU
_MOST_PARTIALS = 128  # of a projection's gradient

_fine: dict[torch.device, torch.Tensor] = {}


class _Elements(NamedTuple):
    """What is read: an array, or codes and the scales of groups; ``like`` has the array's size and dtype."""

    values: torch.Tensor
    scales: torch.Tensor
    like: torch.Tensor
    bits: int

    @classmethod
    def of(cls, array: torch.Tensor) -> "_Elements":
        array = array.contiguous()
        return cls(array, array, array, 32)

    @classmethod
    def packed(cls, codes: torch.Tensor, scales: torch.Tensor, numel: int, bits: int) -> "_Elements":
        like = torch.empty(numel, dtype=torch.float32, device="meta")
        return cls(codes.contiguous(), scales.contiguous(), like, bits)


def lookup(
    array: torch.Tensor, features: torch.Tensor, hot_keys: torch.Tensor, projections: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor, per_sample_weights: torch.Tensor | None, total_width: int, read_width: int,
    pooling_mode: int, hash: int, sign: bool,
) -> tuple[torch.Tensor, list[torch.Tensor]]:  # fmt: skip
    """Forward; see `torchrec_pss.ops.reference.lookup`."""
    check_arguments(array, features, hot_keys, projections, indices, offsets, per_sample_weights, pooling_mode, hash)
    if array.dtype == torch.float64:
        return reference.lookup(
            array, features, hot_keys, projections, indices, offsets, per_sample_weights, total_width, read_width,
            pooling_mode, hash, sign,
        )  # fmt: skip
    return _forward(
        _Elements.of(array), features, hot_keys, projections, indices, offsets, per_sample_weights, total_width, read_width,
        pooling_mode, hash, sign,
    )  # fmt: skip


def pack(array: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """See `torchrec_pss.ops.packed.pack`."""
    check_trained(array, bits)
    codes = array.new_empty(code_bytes(array.numel(), bits), dtype=torch.uint8)
    codes[-CODES_BEHIND:].zero_()
    scales = array.new_empty(-(-array.numel() // GROUP), dtype=torch.bfloat16)
    pack_kernels.pack(array, codes, scales, bits)
    return codes, scales


def lookup_packed(
    codes: torch.Tensor, scales: torch.Tensor, array: torch.Tensor | None, numel: int, bits: int, features: torch.Tensor, hot_keys: torch.Tensor, projections: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor, per_sample_weights: torch.Tensor | None, total_width: int,
    read_width: int, pooling_mode: int, hash: int, sign: bool,
) -> tuple[torch.Tensor, list[torch.Tensor]]:  # fmt: skip
    """Forward; see `torchrec_pss.ops.packed.lookup_packed_reference`."""
    check_packed(codes, scales, numel, bits, array)
    elements = _Elements.packed(codes, scales, numel, bits)
    arguments = (features, hot_keys, projections, indices, offsets, per_sample_weights)
    check_arguments(codes.new_empty(0, dtype=torch.float32), *arguments, pooling_mode, hash)
    return _forward(elements, *arguments, total_width, read_width, pooling_mode, hash, sign)


def _forward(
    elements: _Elements, features: torch.Tensor, hot_keys: torch.Tensor, projections: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor, per_sample_weights: torch.Tensor | None, total_width: int, read_width: int, pooling_mode: int, hash: int,
    sign: bool,
) -> tuple[torch.Tensor, list[torch.Tensor]]:  # fmt: skip
    device = elements.values.device
    batch_size, rows = _sizes(features, indices, offsets, pooling_mode)
    planned = plan(features, elements.like, hot_keys, projections, pooling_mode, hash)
    check_read_width(read_width, planned.read_width)
    check_total_width(total_width, planned.dims, pooling_mode)
    # Unpooled, features of a smaller read leave columns unwritten; malformed offsets, rows.
    empty = torch.zeros if pooling_mode == PoolingMode.NONE else torch.empty
    out = empty(rows, total_width, dtype=torch.float32, device=device)
    read = empty(rows, read_width, dtype=torch.float32, device=device)
    numbers = indices.new_empty(indices.numel() if hot_keys.numel() else 0, dtype=torch.int32)
    projections, fine = projections.contiguous(), _fine_flag(device)
    num_indices = indices.numel()
    indices, offsets, weights = _contiguous(offsets, indices, out, per_sample_weights)
    choice, ids_a_bag = tiling.current(), num_indices / max(offsets.numel() - 1, 1)
    for group in planned.launches if rows else ():
        variant = choice.forward(group, ids_a_bag)
        if pooling_mode == PoolingMode.NONE:
            variant = replace(variant, ids=1)
        product = variant.product if group.projected else None
        tensors = (
            elements.values,
            elements.scales,
            group.metadata,
            hot_keys,
            projections,
            indices,
            offsets,
            weights,
            out,
            read,
            numbers,
            fine,
        )
        sizes = (group.num_features, batch_size, num_indices, out.stride(0), read.stride(0))
        constants = _constants(group, elements, pooling_mode, per_sample_weights, hash, sign)
        constants |= {"T": variant.rows, "IDS": variant.ids, "PROBES": variant.probes, "STORE": variant.store}
        constants |= {"MULTIPLIES": group.projected and product is None}
        launch(forward_kernel, -(-rows // variant.rows) * group.num_features, tensors, sizes, constants, variant.warps)
        if product is not None:
            constants = {
                "WIDTH": group.vec * group.units,
                "DIM": group.dim,
                "ALIGNED": group.aligned,
                "POOLING": int(pooling_mode),
            }
            constants |= {"T": product.rows, "DOT": product.dot, "STORE": product.store}
            tensors = (read, group.metadata, projections, offsets, out)
            launch(
                product_kernel, -(-rows // product.rows) * group.num_features, tensors, sizes, constants, product.warps
            )
    _assert_fine(fine)
    return out, [read, numbers]


def lookup_backward(
    grad: torch.Tensor,
    saved: Sequence[torch.Tensor],
    array: torch.Tensor,
    features: torch.Tensor,
    hot_keys: torch.Tensor,
    projections: torch.Tensor,
    indices: torch.Tensor,
    offsets: torch.Tensor,
    per_sample_weights: torch.Tensor | None,
    pooling_mode: int,
    hash: int,
    sign: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients; see `torchrec_pss.ops.reference.lookup_backward`."""
    arguments = (features, hot_keys, projections, indices, offsets, per_sample_weights, pooling_mode, hash, sign)
    if array.dtype == torch.float64:
        return reference.lookup_backward(grad, saved, array, *arguments)
    read, seen = saved
    grad_array = torch.zeros_like(array, dtype=torch.float32)
    grad_projections, grad_weights = _backward(grad, read, seen, _Elements.of(array), grad_array, 1.0, *arguments)
    return grad_array.to(array.dtype), grad_projections, grad_weights


def lookup_packed_backward(
    grad: torch.Tensor,
    saved: Sequence[torch.Tensor],
    codes: torch.Tensor,
    scales: torch.Tensor,
    numel: int,
    bits: int,
    *arguments: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients; see `torchrec_pss.ops.packed.lookup_packed_backward_reference`."""
    read, seen = saved
    grad_array = torch.zeros(numel, dtype=torch.float32, device=grad.device)
    elements = _Elements.packed(codes, scales, numel, bits)
    return grad_array, *_backward(grad, read, seen, elements, grad_array, 1.0, *arguments)


def lookup_backward_update_(
    grad: torch.Tensor, saved: Sequence[torch.Tensor], array: torch.Tensor, sink: torch.Tensor, state: torch.Tensor | None, second: torch.Tensor | None, features: torch.Tensor, hot_keys: torch.Tensor, projections: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor, per_sample_weights: torch.Tensor | None,
    pooling_mode: int, hash: int, sign: bool, update: int, numbers: Sequence[float],
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Gradients and the optimizer's step; see `torchrec_pss.ops.reference.lookup_backward_update_`."""
    arguments = (features, hot_keys, projections, indices, offsets, per_sample_weights, pooling_mode, hash, sign)
    if array.dtype == torch.float64:
        return reference.lookup_backward_update_(grad, saved, array, sink, state, second, *arguments, update, numbers)
    read, seen = saved
    if update == UpdateKind.SGD and array.dtype == torch.float32 and per_sample_weights is None:
        # Straight into the array: backward reads nothing else of it.
        return _backward(grad, read, seen, _Elements.of(array), array, -numbers[0], *arguments)
    results = _backward(grad, read, seen, _Elements.of(array), sink, 1.0, *arguments)
    if array.numel() and update != UpdateKind.NONE:
        unused = sink
        tensors = (array, sink, unused if state is None else state, unused if second is None else second)
        constants = {"KIND": int(update), "ALIGNED": array.numel() % 4 == 0, "BLOCK": _UPDATE_BLOCK}
        sizes = (array.numel(), *map(float, numbers))
        launch(update_kernel, -(-array.numel() // _UPDATE_BLOCK), tensors, sizes, constants, _UPDATE_WARPS)
    return results


def _backward(
    grad: torch.Tensor, read: torch.Tensor, numbers: torch.Tensor, elements: _Elements, grad_array: torch.Tensor, factor: float, features: torch.Tensor, hot_keys: torch.Tensor, projections: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor, per_sample_weights: torch.Tensor | None,
    pooling_mode: int, hash: int, sign: bool,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Adds ``factor`` times the array's gradient to ``grad_array`` (fp32); returns the projections', and the weights'."""
    batch_size, rows = _sizes(features, indices, offsets, pooling_mode)
    projections, fine = projections.contiguous(), _fine_flag(grad.device)
    grad_weights = grad.new_zeros(0 if per_sample_weights is None else indices.numel())
    num_indices = indices.numel()
    grad = grad.contiguous()
    indices, offsets, weights = _contiguous(offsets, indices, grad, per_sample_weights)
    planned = plan(features, elements.like, hot_keys, projections, pooling_mode, hash)
    by_sorting = torch.are_deterministic_algorithms_enabled()
    choice, ids_a_bag = tiling.current(), num_indices / max(offsets.numel() - 1, 1)
    grad_read = torch.empty_like(read)
    variants = [choice.projection(group) for group in planned.projections]
    of_projections = _projections_gradient(
        grad, read, grad_read, planned, variants, offsets, projections, batch_size, rows, pooling_mode
    )
    read_by = {(g.width, g.dim) for g, v in zip(planned.projections, variants, strict=True) if v.reads}
    for group in planned.launches if rows else ():
        places = contributions = grad
        if by_sorting:
            shape = (num_indices, group.units)
            dummy = -(-grad_array.numel() // group.vec)
            places = torch.full(shape, dummy, dtype=torch.int64, device=grad.device)
            contributions = grad.new_zeros(*shape, group.vec)
        variant = choice.backward(group, ids_a_bag)
        if pooling_mode == PoolingMode.NONE:
            variant = replace(variant, ids=1)
        tensors = (
            grad, grad_read, elements.values, elements.scales, group.metadata, numbers, projections, indices, offsets, weights, grad_array, places, contributions,
            grad_weights, fine,
        )  # fmt: skip
        sizes = (group.num_features, batch_size, num_indices, grad.stride(0), read.stride(0), factor)
        constants = _constants(group, elements, pooling_mode, per_sample_weights, hash, sign)
        multiplies = group.projected and (group.vec * group.units, group.dim) not in read_by
        constants |= {"SORTED": by_sorting, "T": variant.rows, "CHUNK": variant.columns, "IDS": variant.ids}
        constants |= {"MULTIPLIES": multiplies, "MERGES": variant.merges}
        launch(backward_kernel, -(-rows // variant.rows) * group.num_features, tensors, sizes, constants, variant.warps)
        if by_sorting:
            _add_sorted(grad_array, places, contributions, group.vec)
    # Forward has met the same offsets and ids: an assertion that fails has failed there.
    return of_projections, grad_weights


def _projections_gradient(
    grad: torch.Tensor,
    read: torch.Tensor,
    grad_read: torch.Tensor,
    planned: Plan,
    variants: list[Projection],
    offsets: torch.Tensor,
    projections: torch.Tensor,
    batch_size: int,
    rows: int,
    pooling_mode: int,
) -> torch.Tensor:
    """Each program adds up its share of the rows; then the programs' sums are added up, always in the same order."""
    if not rows or not planned.partial_numel:
        return torch.zeros_like(projections)
    adds = all(v.adds for v in variants) and not torch.are_deterministic_algorithms_enabled()
    partials = grad.new_zeros(1 if adds else _MOST_PARTIALS, projections.numel() if adds else planned.partial_numel)
    for group, variant in zip(planned.projections, variants, strict=True):
        tiles = -(-rows // variant.rows)
        chunks = 1 if variant.reads else group.dim // variant.columns
        programs = min(tiles, _MOST_PARTIALS, -(-_PROGRAMS // (group.num_features * chunks)))
        strides = (grad.stride(0), read.stride(0), partials.stride(0), tiles)
        constants = {"WIDTH": group.width, "DIM": group.dim, "ALIGNED": group.aligned, "POOLING": int(pooling_mode)}
        constants |= {"T": variant.rows, "ADDS": adds}
        sizes = (group.num_features, batch_size, *strides)
        if variant.reads:
            tensors = (grad, read, grad_read, group.metadata, projections, offsets, partials)
            launch(read_gradient_kernel, programs * group.num_features, tensors, sizes, constants, variant.warps)
        else:
            constants |= {"CHUNK": variant.columns}
            tensors = (grad, read, group.metadata, offsets, partials)
            launch(projection_kernel, programs * group.num_features * chunks, tensors, sizes, constants, variant.warps)
    if adds:
        return partials[0]
    gradients = partials.sum(0)
    for there, here, number in planned.repeated:
        gradients[there : there + number] += gradients[here : here + number]
    return gradients[: projections.numel()]


def _add_sorted(grad_array: torch.Tensor, places: torch.Tensor, contributions: torch.Tensor, vec: int) -> None:
    """Adds each place's contributions in a fixed order; the place behind the array takes those of nobody."""
    units = -(-grad_array.numel() // vec)
    sums = grad_array.new_zeros(units + 1, vec)
    sums.index_put_((places.flatten(),), contributions.view(-1, vec), accumulate=True)
    grad_array.add_(sums.flatten()[: grad_array.numel()])


def _sizes(features: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor, pooling_mode: int) -> tuple[int, int]:
    """Batch size, and rows of the output."""
    batch_size = (offsets.numel() - 1) // max(features.shape[0], 1)
    return batch_size, indices.numel() if pooling_mode == PoolingMode.NONE else batch_size


def _contiguous(
    offsets: torch.Tensor, indices: torch.Tensor, no_weights: torch.Tensor, weights: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """With something to be read in place of weights and indices where there are none."""
    weights = no_weights if weights is None else weights.contiguous()
    indices = indices if indices.numel() else offsets
    return indices.contiguous(), offsets.contiguous(), weights


def _constants(
    group: Launch, elements: "_Elements", pooling_mode: int, weights: torch.Tensor | None, hash: int, sign: bool
) -> dict[str, Any]:
    return {
        "VEC": group.vec,
        "UNITS": group.units,
        "DIM": group.dim,
        "PROJECTED": group.projected,
        "HASHED": group.hashed,
        "HOT": group.hot,
        "CHECKED": group.checked,
        "ALIGNED": group.aligned,
        "POOLING": int(pooling_mode),
        "WEIGHTED": weights is not None,
        "HASH": int(hash),
        "SIGN": bool(sign),
        "NARROW": elements.like.numel() < 1 << 31,
        "BITS": elements.bits,
    }


def _fine_flag(device: torch.device) -> torch.Tensor:
    """1, to be set to 0 by a kernel that meets bad input; kept, for a lookup in a CUDA graph must find it again."""
    if device.type == "cpu":  # Triton's interpreter
        return torch.ones(1, dtype=torch.int32)
    if device not in _fine:
        _fine[device] = torch.ones(1, dtype=torch.int32, device=device)
    return _fine[device]


def _assert_fine(fine: torch.Tensor) -> None:
    torch._assert_async(
        fine,
        "torchrec_pss: an id is out of range of its exact table, or offsets do not describe bags; the same batch on the CPU "
        "says which",
    )
