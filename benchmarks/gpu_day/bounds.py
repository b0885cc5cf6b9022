"""That the kernels stay inside their tensors: forward, backward, every update, packing and packed reads, between canaries."""

import torch

from benchmarks.gpu_day.configurations import NUMBERS, moved, of_backward, random_case, tolerance
from benchmarks.gpu_day.guarded import Guarded
from torchrec_pss.ops import few_bits, reference
from torchrec_pss.ops.update_kinds import UpdateKind


def verify_bounds(seed: int, device: str) -> dict:
    """A random case between canaries, which must stand; its output must still be the reference's.

    Raises:
        AssertionError: a canary fell, an output lay elsewhere, or what lies outside a tensor was read.
    """
    from torchrec_pss.ops.triton import lookup as gpu

    case = random_case(seed)
    expected, saved = reference.lookup(**case)
    truth = reference.lookup_backward(torch.ones_like(expected), saved, *of_backward(case).values())
    guard = Guarded()
    there = {
        name: guard.inside(moved(value, device)) if isinstance(value, torch.Tensor) else value
        for name, value in case.items()
    }
    behind = list(of_backward(there).values())
    with guard:
        out, kept = gpu.lookup(*there.values())
        assert guard.has(out), "the output lies in no guarded buffer: its allocation is none that is known"
        grad = guard.inside(torch.ones_like(expected).to(device))
        gradients = gpu.lookup_backward(grad, kept, *behind)
        for kind in UpdateKind:
            sink = torch.zeros(len(case["array"]), device=device)
            states = torch.full_like(sink, 0.5), torch.full_like(sink, 0.3)
            own = guard.inside(case["array"].to(device))
            gpu.lookup_backward_update_(grad, kept, own, sink, *states, *behind[1:], int(kind), NUMBERS)
        _packed(gpu, guard, there, behind, grad, few_bits.FEW_BITS[seed % len(few_bits.FEW_BITS)])
    buffers = guard.check(f"seed {seed}")
    for actual, wanted in zip((out, *gradients), (expected, *truth), strict=True):
        torch.testing.assert_close(actual.cpu(), wanted, **tolerance(case), msg=lambda m: f"seed {seed}: {m}")
    return {"buffers": buffers}


def _packed(gpu, guard: Guarded, there: dict, behind: list, grad: torch.Tensor, bits: int) -> None:
    numel = len(there["array"])
    codes, scales = gpu.pack(guard.inside(there["array"].float()), bits)
    assert guard.has(codes) and guard.has(scales), "codes or scales lie in no guarded buffer"
    _, kept = gpu.lookup_packed(codes, scales, None, numel, bits, *list(there.values())[1:])
    gpu.lookup_packed_backward(grad, kept, codes, scales, numel, bits, *behind[1:])
    for kind in UpdateKind:
        own = guard.inside(there["array"].float())
        sink = torch.zeros_like(own)
        states = torch.full_like(sink, 0.5), torch.full_like(sink, 0.3)
        step = (own, sink, *states, *behind[1:], int(kind), NUMBERS)
        gpu.lookup_packed_backward_update_(grad, kept, codes, scales, bits, *step)
