"""A fused optimizer's pass over the array: the formulas of `torchrec_pss.ops.fused.UpdateKind`."""

import triton
import triton.language as tl

from torchrec_pss.ops.update_kinds import UpdateKind

_SGD = tl.constexpr(UpdateKind.SGD.value)
_ADAGRAD = tl.constexpr(UpdateKind.ADAGRAD.value)
_ADAMW = tl.constexpr(UpdateKind.ADAMW.value)


@triton.jit(do_not_specialize=("numel",))
def update_kernel(
    array, sink, state, second, numel, rate, eps, beta1, beta2, decay, correction1, correction2,
    KIND: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: ``BLOCK`` elements. Zeroes the sink that it reads."""
    if ALIGNED:
        numel = numel // 4 * 4
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = at < numel
    gradient = tl.load(sink + at, mask=live, other=0.0)
    value = tl.load(array + at, mask=live, other=0.0).to(tl.float32)
    # Of an array of 16-bit numbers, a thread zeroes other elements than it reads.
    tl.debug_barrier()
    tl.store(sink + at, tl.zeros_like(gradient), mask=live)
    if KIND == _SGD:
        value -= rate * gradient
    elif KIND == _ADAGRAD:
        squares = tl.load(state + at, mask=live, other=0.0) + gradient * gradient
        tl.store(state + at, squares, mask=live)
        value -= tl.where(gradient == 0, 0.0, rate * gradient / (tl.sqrt(squares) + eps))
    else:
        if KIND == _ADAMW:
            value -= rate * decay * value
        else:
            gradient += decay * value
        mean = tl.load(state + at, mask=live, other=0.0)
        mean += (1 - beta1) * (gradient - mean)
        squares = beta2 * tl.load(second + at, mask=live, other=0.0) + (1 - beta2) * gradient * gradient
        tl.store(state + at, mean, mask=live)
        tl.store(second + at, squares, mask=live)
        value -= rate / correction1 * mean / (tl.sqrt(squares) / correction2 + eps)
    tl.store(array + at, value.to(array.dtype.element_ty), mask=live)
