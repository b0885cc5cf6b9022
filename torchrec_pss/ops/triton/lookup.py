"""The op's functions on a GPU, by the Triton kernels; arguments and results as in `torchrec_pss.ops.reference`.

Nothing waits for the GPU, so that a step can be captured in a CUDA graph; the features' metadata are read on the host when a
lookup is first made with them. An id out of an exact table's range, or offsets that describe no bags, read zeros, get no
gradient and fail an assertion on the device, as an index out of range of `torch.nn.Embedding` does.

Gradients are added up in the order in which they come, unless ``torch.use_deterministic_algorithms`` is on: then contributions are
sorted by place first (`index_put_`), and the same inputs give the same bits. fp64 arrays go through the reference.
"""

import torch

from torchrec_pss.ops import reference
from torchrec_pss.ops.features import PoolingMode, check_read_width
from torchrec_pss.ops.triton.backward import backward_kernel, projection_kernel
from torchrec_pss.ops.triton.forward import forward_kernel
from torchrec_pss.ops.triton.launches import Launch, plan
from torchrec_pss.ops.triton.update import update_kernel
from torchrec_pss.ops.update_kinds import UpdateKind

_UPDATE_BLOCK = 1024
_CHUNK = 32  # columns of a projection at a time
_PROGRAMS = 1024  # of a launch's backward: enough to fill a GPU, few partial gradients of projections

_fine: dict[torch.device, torch.Tensor] = {}


def lookup(
    array, features, hot_keys, projections, indices, offsets, per_sample_weights, total_width, read_width,
    pooling_mode, hash, sign,
):  # fmt: skip
    """Forward; see `torchrec_pss.ops.reference.lookup`."""
    if array.dtype == torch.float64:
        return reference.lookup(
            array, features, hot_keys, projections, indices, offsets, per_sample_weights, total_width, read_width,
            pooling_mode, hash, sign,
        )  # fmt: skip
    batch_size, rows = _sizes(features, indices, offsets, pooling_mode)
    planned = plan(features, projections.numel(), pooling_mode, hash, array.element_size())
    check_read_width(read_width, planned.read_width)
    # Unpooled, features of a smaller read leave columns unwritten; malformed offsets, rows.
    empty = torch.zeros if pooling_mode == PoolingMode.NONE else torch.empty
    out = empty(rows, total_width, dtype=torch.float32, device=array.device)
    read = empty(rows, read_width, dtype=torch.float32, device=array.device)
    projections, fine = projections.contiguous(), _fine_flag(array.device)
    array, indices, offsets, weights = _contiguous(array, indices, offsets, per_sample_weights)
    for launch in planned.launches:
        tiles = -(-rows // launch.tile)
        if tiles:
            forward_kernel[(tiles, launch.num_features)](
                array, launch.metadata, hot_keys, projections, indices, offsets, weights, out, read, fine, batch_size,
                indices.numel(), out.stride(0), read.stride(0),
                **_constants(launch, array, pooling_mode, per_sample_weights, hash, sign),
            )  # fmt: skip
    _assert_fine(fine)
    return out, [read]


def lookup_backward(
    grad, saved, array, features, hot_keys, projections, indices, offsets, per_sample_weights, pooling_mode, hash, sign
):
    """Gradients; see `torchrec_pss.ops.reference.lookup_backward`."""
    arguments = (features, hot_keys, projections, indices, offsets, per_sample_weights, pooling_mode, hash, sign)
    if array.dtype == torch.float64:
        return reference.lookup_backward(grad, saved, array, *arguments)
    grad_array = torch.zeros_like(array, dtype=torch.float32)
    grad_projections, grad_weights = _backward(grad, *saved, array, grad_array, 1.0, *arguments)
    return grad_array.to(array.dtype), grad_projections, grad_weights


def lookup_backward_update_(
    grad, saved, array, sink, state, second, features, hot_keys, projections, indices, offsets, per_sample_weights,
    pooling_mode, hash, sign, update, numbers,
):  # fmt: skip
    """Gradients and the optimizer's step; see `torchrec_pss.ops.reference.lookup_backward_update_`."""
    arguments = (features, hot_keys, projections, indices, offsets, per_sample_weights, pooling_mode, hash, sign)
    if array.dtype == torch.float64:
        return reference.lookup_backward_update_(grad, saved, array, sink, state, second, *arguments, update, numbers)
    if update == UpdateKind.SGD and array.dtype == torch.float32 and per_sample_weights is None:
        # Straight into the array: backward reads nothing else of it.
        return _backward(grad, *saved, array, array, -numbers[0], *arguments)
    results = _backward(grad, *saved, array, sink, 1.0, *arguments)
    if array.numel():
        unused = sink
        update_kernel[(-(-array.numel() // _UPDATE_BLOCK),)](
            array, sink, unused if state is None else state, unused if second is None else second, array.numel(),
            *numbers, KIND=int(update), BLOCK=_UPDATE_BLOCK,
        )  # fmt: skip
    return results


def _backward(
    grad, read, array, grad_array, factor, features, hot_keys, projections, indices, offsets, per_sample_weights,
    pooling_mode, hash, sign,
):  # fmt: skip
    """Adds ``factor`` times the array's gradient to ``grad_array`` (fp32); returns the projections', and the weights'."""
    batch_size, rows = _sizes(features, indices, offsets, pooling_mode)
    projections, fine = projections.contiguous(), _fine_flag(array.device)
    grad_weights = grad.new_zeros(0 if per_sample_weights is None else indices.numel())
    array, indices, offsets, weights = _contiguous(array, indices, offsets, per_sample_weights)
    grad = grad.contiguous()
    planned = plan(features, projections.numel(), pooling_mode, hash, array.element_size())
    shares = [_share(rows, launch) for launch in planned.launches]
    partials = grad.new_zeros(max((programs for programs, _ in shares), default=0), planned.partial_numel)
    by_sorting = torch.are_deterministic_algorithms_enabled()
    for launch, (programs, tiles) in zip(planned.launches, shares, strict=True):
        if not programs:
            continue
        places = contributions = grad
        if by_sorting:
            shape = (indices.numel(), launch.units)
            dummy = -(-grad_array.numel() // launch.vec)
            places = torch.full(shape, dummy, dtype=torch.int64, device=grad.device)
            contributions = grad.new_zeros(*shape, launch.vec)
        constants = _constants(launch, array, pooling_mode, per_sample_weights, hash, sign)
        chunk = min(launch.dim, _CHUNK)
        backward_kernel[(programs, launch.num_features)](
            grad, array, launch.metadata, hot_keys, projections, indices, offsets, weights, grad_array, places, contributions,
            grad_weights, fine, batch_size, indices.numel(), grad.stride(0), factor, tiles, **constants,
            SORTED=by_sorting, CHUNK=chunk,
        )  # fmt: skip
        if launch.projected:
            projection_kernel[(programs, launch.num_features, launch.dim // chunk)](
                grad, read, launch.metadata, offsets, partials, fine, batch_size, indices.numel(), grad.stride(0),
                read.stride(0), partials.stride(0), tiles, T=launch.tile, WIDTH=launch.units * launch.vec, CHUNK=chunk,
                ALIGNED=launch.aligned, POOLING=int(pooling_mode),
            )  # fmt: skip
        if by_sorting:
            _add_sorted(grad_array, places, contributions, launch.vec)
    _assert_fine(fine)
    return _added(partials.sum(0), planned.repeated, projections.numel()), grad_weights


def _added(gradients, repeated: list[tuple[int, int, int]], num_projected: int) -> torch.Tensor:
    """The gradient of the projections, with those that features of one table have apart."""
    for there, here, number in repeated:
        gradients[there : there + number] += gradients[here : here + number]
    return gradients[:num_projected]


def _add_sorted(grad_array, places, contributions, vec: int) -> None:
    """Adds each place's contributions in a fixed order; the place behind the array takes those of nobody."""
    units = -(-grad_array.numel() // vec)
    sums = grad_array.new_zeros(units + 1, vec)
    sums.index_put_((places.flatten(),), contributions.view(-1, vec), accumulate=True)
    grad_array.add_(sums.flatten()[: grad_array.numel()])


def _share(rows: int, launch: Launch) -> tuple[int, int]:
    """Programs a feature, and tiles a program."""
    tiles = -(-rows // launch.tile)
    per_program = max(1, -(-tiles * launch.num_features // _PROGRAMS))
    return -(-tiles // per_program), per_program


def _sizes(features, indices, offsets, pooling_mode: int) -> tuple[int, int]:
    """Batch size, and rows of the output."""
    batch_size = (offsets.numel() - 1) // max(features.shape[0], 1)
    return batch_size, indices.numel() if pooling_mode == PoolingMode.NONE else batch_size


def _contiguous(array, indices, offsets, weights):
    """With something in the weights' place where there are none."""
    weights = array if weights is None else weights.contiguous()
    return array.contiguous(), indices.contiguous(), offsets.contiguous(), weights


def _constants(launch: Launch, array, pooling_mode: int, weights, hash: int, sign: bool) -> dict:
    return {
        "T": launch.tile,
        "VEC": launch.vec,
        "UNITS": launch.units,
        "DIM": launch.dim,
        "PROJECTED": launch.projected,
        "HASHED": launch.hashed,
        "HOT": launch.hot,
        "CHECKED": launch.checked,
        "ALIGNED": launch.aligned,
        "POOLING": int(pooling_mode),
        "WEIGHTED": weights is not None,
        "HASH": int(hash),
        "SIGN": bool(sign),
        "NARROW": array.numel() < 1 << 31,
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
