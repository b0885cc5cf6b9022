"""The op's functions on a GPU, by the Triton kernels; arguments and results as in `torchrec_pss.ops.reference`.

Nothing waits for the GPU, so that a step can be captured in a CUDA graph; the features' metadata are read on the host when a
lookup is first made with them. An id out of an exact table's range, or offsets that describe no bags, read zeros, get no
gradient and fail an assertion on the device, as an index out of range of `torch.nn.Embedding` does.

Gradients are added up in the order in which they come, unless ``torch.use_deterministic_algorithms`` is on: then contributions are
sorted by place first (`index_put_`), and the same inputs give the same bits. fp64 arrays go through the reference.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any, TypeVar

import torch

from torchrec_pss.ops import reference
from torchrec_pss.ops.features import PoolingMode
from torchrec_pss.ops.few_bits import CODES_BEHIND, GROUP, check_packed, check_trained, code_bytes
from torchrec_pss.ops.triton import pack as pack_kernels
from torchrec_pss.ops.triton.launch import ALIGNMENT, launch, raw_stream
from torchrec_pss.ops.triton.prepared import Prepared, Projections, Step, output_rows, prepared
from torchrec_pss.ops.triton.update import update_kernel
from torchrec_pss.ops.update_kinds import UpdateKind

_UPDATE_BLOCK, _UPDATE_WARPS = 1024, 4
_PROGRAMS = 1024  # of a launch that adds up projections' gradients: enough to fill a GPU
_MOST_PARTIALS = 128  # of a projection's gradient

_fine: dict[torch.device, torch.Tensor] = {}
_Result = TypeVar("_Result")


def _on_its_device(function: Callable[..., _Result]) -> Callable[..., _Result]:
    """Launches where the first tensor is, as PyTorch's own operators do, whatever device is the current one."""

    @wraps(function)
    def on_its_device(tensor: torch.Tensor, *arguments: Any) -> _Result:
        if tensor.is_cuda and tensor.get_device() != torch._C._cuda_getDevice():
            with torch.cuda.device(tensor.device):
                return function(tensor, *arguments)
        return function(tensor, *arguments)

    return on_its_device


@_on_its_device
def lookup(
    array: torch.Tensor, features: torch.Tensor, hot_keys: torch.Tensor, projections: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor, per_sample_weights: torch.Tensor | None, total_width: int, read_width: int,
    pooling_mode: int, hash: int, sign: bool,
) -> tuple[torch.Tensor, list[torch.Tensor]]:  # fmt: skip
    """Forward; see `torchrec_pss.ops.reference.lookup`."""
    arguments = (
        features, hot_keys, projections, indices, offsets, per_sample_weights, total_width, read_width, pooling_mode, hash, sign
    )  # fmt: skip
    if array.dtype == torch.float64:
        return reference.lookup(array, *arguments)
    return _forward(array, array, array.numel(), 32, *arguments)


@_on_its_device
def pack(array: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """See `torchrec_pss.ops.packed.pack`."""
    check_trained(array, bits)
    codes = array.new_empty(code_bytes(array.numel(), bits), dtype=torch.uint8)
    codes[-CODES_BEHIND:].zero_()
    scales = array.new_empty(-(-array.numel() // GROUP), dtype=torch.bfloat16)
    pack_kernels.pack(array, codes, scales, bits)
    return codes, scales


@_on_its_device
def lookup_packed(
    codes: torch.Tensor, scales: torch.Tensor, array: torch.Tensor | None, numel: int, bits: int, *arguments: Any
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Forward; see `torchrec_pss.ops.packed.lookup_packed_reference`."""
    check_packed(codes, scales, numel, bits, array)
    return _forward(codes, scales, numel, bits, *arguments)


def _forward(
    values: torch.Tensor, scales: torch.Tensor, numel: int, bits: int, features: torch.Tensor, hot_keys: torch.Tensor, projections: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor, weights: torch.Tensor | None, total_width: int,
    read_width: int, pooling_mode: int, hash: int, sign: bool,
) -> tuple[torch.Tensor, list[torch.Tensor]]:  # fmt: skip
    """
    Args:
        values, scales: the array twice, or codes and the scales of groups.
        numel, bits: of the array.
    """
    known, batch_size = prepared(
        values, numel, bits, features, hot_keys, projections, indices, offsets, weights, pooling_mode, hash, sign
    )
    known.check_widths(total_width, read_width)
    rows, num_indices, device = output_rows(indices, batch_size, pooling_mode), indices.shape[0], values.device
    # Unpooled, features of a smaller read leave columns unwritten; malformed offsets, rows.
    empty = torch.zeros if pooling_mode == PoolingMode.NONE else torch.empty
    out = empty((rows, total_width), dtype=torch.float32, device=device)
    read = empty((rows, read_width), dtype=torch.float32, device=device)
    numbers = torch.empty(num_indices if hot_keys.shape[0] else 0, dtype=torch.int32, device=device)
    fine = _fine_flag(device)
    if rows:
        tensors = (
            *_contiguous(values, scales, hot_keys, projections, *_ids(indices, offsets)), out if weights is None else weights.contiguous(),
            out, read, numbers, fine,
        )  # fmt: skip
        _launch(known.forward, rows, tensors, (batch_size, num_indices, total_width, read_width), raw_stream(device))
    _assert_fine(fine)
    return out, [read, numbers]


@_on_its_device
def lookup_backward(
    grad: torch.Tensor,
    saved: Sequence[torch.Tensor],
    array: torch.Tensor,
    *arguments: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients; see `torchrec_pss.ops.reference.lookup_backward`."""
    if array.dtype == torch.float64:
        return reference.lookup_backward(grad, saved, array, *arguments)
    grad_array = torch.zeros_like(array, dtype=torch.float32, memory_format=torch.contiguous_format)
    found = _backward(grad, saved, array, array, array.numel(), 32, grad_array, 1.0, *arguments)
    return grad_array.to(array.dtype), *found


@_on_its_device
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
    grad_array = torch.zeros(numel, dtype=torch.float32, device=grad.device)
    return grad_array, *_backward(grad, saved, codes, scales, numel, bits, grad_array, 1.0, *arguments)


@_on_its_device
def lookup_backward_update_(
    grad: torch.Tensor, saved: Sequence[torch.Tensor], array: torch.Tensor, sink: torch.Tensor, state: torch.Tensor | None, second: torch.Tensor | None, features: torch.Tensor, hot_keys: torch.Tensor, projections: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor, per_sample_weights: torch.Tensor | None,
    pooling_mode: int, hash: int, sign: bool, update: int, numbers: Sequence[float],
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Gradients and the optimizer's step; see `torchrec_pss.ops.reference.lookup_backward_update_`."""
    arguments = (features, hot_keys, projections, indices, offsets, per_sample_weights, pooling_mode, hash, sign)
    if array.dtype == torch.float64:
        return reference.lookup_backward_update_(grad, saved, array, sink, state, second, *arguments, update, numbers)
    # Straight into the array, if backward reads nothing else of it.
    straight = update == UpdateKind.SGD and array.dtype == torch.float32 and per_sample_weights is None
    return _backward_and_step(
        grad, saved, array, array, 32, straight, array, sink, state, second, update, numbers, *arguments
    )


@_on_its_device
def lookup_packed_backward_update_(
    grad: torch.Tensor, saved: Sequence[torch.Tensor], codes: torch.Tensor, scales: torch.Tensor, bits: int, array: torch.Tensor, sink: torch.Tensor, state: torch.Tensor | None, second: torch.Tensor | None, features: torch.Tensor, hot_keys: torch.Tensor, projections: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor, per_sample_weights: torch.Tensor | None,
    pooling_mode: int, hash: int, sign: bool, update: int, numbers: Sequence[float],
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Gradients and the optimizer's step; see `torchrec_pss.ops.packed.lookup_packed_backward_update_reference`."""
    straight = update == UpdateKind.SGD  # backward reads codes
    return _backward_and_step(
        grad, saved, codes, scales, bits, straight, array, sink, state, second, update, numbers, features, hot_keys, projections, indices,
        offsets, per_sample_weights, pooling_mode, hash, sign,
    )  # fmt: skip


def _backward_and_step(
    grad: torch.Tensor,
    saved: Sequence[torch.Tensor],
    values: torch.Tensor,
    scales: torch.Tensor,
    bits: int,
    straight: bool,
    array: torch.Tensor,
    sink: torch.Tensor,
    state: torch.Tensor | None,
    second: torch.Tensor | None,
    update: int,
    numbers: Sequence[float],
    *arguments: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of what is read of ``values`` and ``scales``; by the array's a step on it, or, of NONE, its sum in ``sink``.

    Args:
        straight: whether gradients go into the array, times the rate of SGD; else by way of ``sink``, which is zero then.
    """
    numel = array.shape[0]
    to, factor = (array, -numbers[0]) if straight else (sink, 1.0)
    results = _backward(grad, saved, values, scales, numel, bits, to, factor, *arguments)
    if straight or not numel or update == UpdateKind.NONE:
        return results
    tensors = (array, sink, sink if state is None else state, sink if second is None else second)
    constants = {"KIND": int(update), "ALIGNED": numel % 4 == 0, "BLOCK": _UPDATE_BLOCK}
    launch(
        update_kernel,
        -(-numel // _UPDATE_BLOCK),
        tensors,
        (numel, *map(float, numbers)),
        constants,
        _UPDATE_WARPS,
    )
    return results


def _backward(
    grad: torch.Tensor, saved: Sequence[torch.Tensor], values: torch.Tensor, scales: torch.Tensor, numel: int, bits: int, grad_array: torch.Tensor, factor: float, features: torch.Tensor, hot_keys: torch.Tensor, projections: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor,
    weights: torch.Tensor | None, pooling_mode: int, hash: int, sign: bool,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Adds ``factor`` times the array's gradient to ``grad_array`` (fp32); returns the projections', and the weights'."""
    known, batch_size = prepared(
        values, numel, bits, features, hot_keys, projections, indices, offsets, weights, pooling_mode, hash, sign
    )
    read, numbers = saved
    rows, num_indices, device = output_rows(indices, batch_size, pooling_mode), indices.shape[0], grad.device
    grad_weights = (
        grad.new_empty(0) if weights is None else torch.zeros(num_indices, dtype=torch.float32, device=device)
    )
    if not rows:
        return torch.zeros_like(projections), grad_weights
    grad = grad.to(torch.float32).contiguous()
    values, scales, projections, indices, offsets = _contiguous(values, scales, projections, *_ids(indices, offsets))
    by_sorting = torch.are_deterministic_algorithms_enabled()
    projected, stream = known.projections(by_sorting), raw_stream(device)
    grad_read = torch.empty_like(read) if projected.read else read
    # First: it may give the reads' gradients.
    gradient = _projections_gradient(
        grad, read, grad_read, known, projected, projections, offsets, batch_size, rows, stream
    )
    tensors = (
        grad, values, scales, numbers, projections, indices, offsets, grad if weights is None else weights.contiguous(), grad_array,
        grad_weights, _fine_flag(device), grad_read,
    )  # fmt: skip
    sizes = (batch_size, num_indices, grad.shape[1], read.shape[1], factor)
    if by_sorting:
        for group, step in zip(known.plan.launches, known.backward(True, grad_array.dtype), strict=True):
            shape = (num_indices, group.units)
            places = torch.full(shape, -(-numel // group.vec), dtype=torch.int64, device=device)
            contributions = grad.new_zeros(*shape, group.vec)
            _launch((step,), rows, (*tensors, places, contributions), sizes, stream)
            _add_sorted(grad_array, places, contributions, group.vec)
    else:
        _launch(known.backward(False, grad_array.dtype), rows, (*tensors, grad, grad), sizes, stream)
    # Forward has met the same offsets and ids: an assertion that fails has failed there.
    return gradient, grad_weights


def _projections_gradient(
    grad: torch.Tensor,
    read: torch.Tensor,
    grad_read: torch.Tensor,
    known: Prepared,
    projected: Projections,
    projections: torch.Tensor,
    offsets: torch.Tensor,
    batch_size: int,
    rows: int,
    stream: int,
) -> torch.Tensor:
    """Each program adds up its share of the rows. Then the programs' sums are added up, always in the same order; or each has added
    its own to one sum."""
    if not known.plan.partial_numel:
        return torch.zeros_like(projections)
    tiles = [-(-rows // choice.rows) for _, choice in projected.steps]
    sums = [
        min(number, _MOST_PARTIALS, -(-_PROGRAMS // choice.programs))
        for number, (_, choice) in zip(tiles, projected.steps, strict=True)
    ]
    most = 1 if projected.adds else max(sums, default=1)
    is_written = known.is_all_projected and min(sums, default=0) == most and not projected.adds
    partials = (grad.new_empty if is_written else grad.new_zeros)((most, known.plan.partial_numel))
    tensors = (grad, read, grad_read, projections, offsets, partials)
    for (step, _), number, of_rows in zip(projected.steps, sums, tiles, strict=True):
        sizes = (batch_size, grad.shape[1], read.shape[1], known.plan.partial_numel, of_rows)
        _launch((step,), number, tensors, sizes, stream)
    gradients = partials.sum(0) if most > 1 else partials[0]
    if not projected.adds:
        for there, here, number in known.plan.repeated:
            gradients[there : there + number] += gradients[here : here + number]
    return gradients[: projections.shape[0]]


def _launch(
    steps: Iterable[Step], rows: int, tensors: tuple[torch.Tensor, ...], numbers: tuple[float, ...], stream: int
) -> None:
    """All kernels of some groups, in their order."""
    pointers = [tensor.data_ptr() for tensor in tensors]
    misaligned = 0
    for pointer in pointers:
        misaligned |= pointer
    is_usual = misaligned % ALIGNMENT == 0 and max(numbers) < 1 << 31
    for metadata, own_pointer, num_features, kernels in steps:
        values = (own_pointer, num_features, *pointers, *numbers)
        own_tensors = (metadata, num_features, *tensors, *numbers)
        for kernel in kernels:
            by = kernel.launch if is_usual else kernel.launch_any
            by(kernel.programs(rows), values, own_tensors, stream)


def _add_sorted(grad_array: torch.Tensor, places: torch.Tensor, contributions: torch.Tensor, vec: int) -> None:
    """Adds each place's contributions in a fixed order; the place behind the array takes those of nobody."""
    units = -(-grad_array.numel() // vec)
    sums = grad_array.new_zeros(units + 1, vec)
    sums.index_put_((places.flatten(),), contributions.view(-1, vec), accumulate=True)
    grad_array.add_(sums.flatten()[: grad_array.numel()])


def _ids(indices: torch.Tensor, offsets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and offsets; there is something to be read in the place of no ids."""
    return (indices if indices.shape[0] else offsets.to(indices.dtype)), offsets


def _contiguous(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tuple([tensor.contiguous() for tensor in tensors])


def _fine_flag(device: torch.device) -> torch.Tensor:
    """1, to be set to 0 by a kernel that meets bad input; kept, for a lookup in a CUDA graph must find it again."""
    fine = _fine.get(device)
    if fine is None:
        # Copied, which waits: the next lookup may be on another stream.
        fine = torch.ones(1, dtype=torch.int32, device="cpu").to(device)
        if device.type != "cpu":  # Triton's interpreter
            _fine[device] = fine
    return fine


def _assert_fine(fine: torch.Tensor) -> None:
    torch._assert_async(
        fine,
        "torchrec_pss: an id is out of range of its exact table, or offsets do not describe bags; the same batch on the CPU "
        "says which",
    )
