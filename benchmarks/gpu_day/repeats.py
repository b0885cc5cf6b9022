"""The same batch again and again: the same bits by sorting; otherwise the same output, and gradients within rounding."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from benchmarks.gpu_day.configurations import moved, of_backward, random_case
from benchmarks.gpu_day.problems import Problem
from benchmarks.lookup_cases import MB, Case

_PROBLEMS = [
    Problem(Case("kaggle", layout, 2 * MB, dim, 4096, bag, ids, 0), most_rows=100_000)
    for layout, dim, bag, ids in (
        ("default", 16, 1, "power_law"),
        ("plain", 64, 20, "power_law"),
        ("default", 64, 20, "equal"),
        ("plain", 16, 5, "uniform"),
    )
]
_LOW_BITS = 3e-2  # relative to the largest gradient: of arrays in bf16 and fp16
_ROUNDING = 1e-4


def problems(device: str) -> list[Problem]:
    """Where many programs add to one element."""
    return [p.shrunk() for p in _PROBLEMS[:2]] if device == "cpu" else _PROBLEMS


@contextmanager
def _by_sorting(on: bool) -> Iterator[None]:
    torch.use_deterministic_algorithms(on)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def verify_bits(seed: int, device: str, repetitions: int) -> None:
    """A random case's gradients by sorting, to the bit.

    Raises:
        AssertionError: a repetition differs.
    """
    from torchrec_pss.ops.triton import lookup as gpu

    case = {name: moved(value, device) for name, value in random_case(seed).items()}
    behind = list(of_backward(case).values())
    with _by_sorting(True):
        results = []
        for _ in range(repetitions):
            out, kept = gpu.lookup(*case.values())
            grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed)).to(device)
            results.append([out, *gpu.lookup_backward(grad, kept, *behind)])
    for number, found in enumerate(results):
        same = all(map(torch.equal, found, results[0]))
        assert same, f"seed {seed}: repetition {number} has other bits, by sorting"


def verify_races(problem: Problem, device: str, repetitions: int) -> dict:
    """A large batch by autograd: outputs to the bit, gradients within rounding of what sorting adds up; by sorting to the bit.

    Raises:
        AssertionError: a repetition differs, or is not finite.
    """
    module = problem.collection(device)
    kjt = problem.batch(0, device)
    grad = torch.randn(problem.case.batch_size, len(problem.rows) * problem.case.embedding_dim, device=device)

    def gradients() -> tuple[torch.Tensor, torch.Tensor]:
        module.zero_grad()
        out = module(kjt).values()
        out.backward(grad)
        return out.detach(), module.array.grad.float().clone()

    with _by_sorting(True):
        _, sorted_gradient = gradients()
        for number in range(max(repetitions // 5, 1)):
            _, again = gradients()
            assert torch.equal(again, sorted_gradient), f"repetition {number}: other bits, by sorting"
    largest = float(sorted_gradient.abs().max())
    low = module.array.dtype != torch.float32
    worst, (first, _) = 0.0, gradients()
    for number in range(repetitions):
        out, again = gradients()
        assert torch.equal(out, first), f"repetition {number}: the output differs"
        assert bool(again.isfinite().all()), f"repetition {number}: a gradient is not finite"
        worst = max(worst, float((again - sorted_gradient).abs().max()) / largest)
    assert worst < (_LOW_BITS if low else _ROUNDING), f"gradients differ by {worst:.1e} of the largest"
    return {"largest_difference": worst, "repetitions": repetitions}


def named(problem: Problem) -> str:
    """A problem's name, which says its rows too."""
    return replace(problem, most_rows=None).name
