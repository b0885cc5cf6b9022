"""Random configurations of the lookup by the Triton kernels, against the reference on the CPU."""

import itertools
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from lookup_cases import of_backward, random_case

from torchrec_pss.ops import FeatureColumn, PoolingMode, reference
from torchrec_pss.ops.update_kinds import UpdateKind, UpdateNumbers

NUMBERS = list(UpdateNumbers(0.1, 1e-3, 0.9, 0.99, 0.05, 0.4, 0.3))
_EXACT = 1 << 24  # integers up to it are exact in fp32
_MOST_INDICES = 300  # that the interpreter gets through


def moved(value, device):
    return value.to(device) if isinstance(value, torch.Tensor) else value


def tolerance(case: dict) -> dict[str, float]:
    """Of sums of up to a thousand products in another order, in the case's dtype."""
    low = case["array"].dtype != torch.float32
    return {"rtol": 3e-2, "atol": 3e-2} if low else {"rtol": 1e-3, "atol": 1e-3}


def suitable(number: int, device: str, **fixed) -> list[int]:
    """Seeds of the first random cases that the kernels take, and that the interpreter gets through."""
    seeds = []
    for seed in itertools.count():
        if len(seeds) == number:
            return seeds
        case = random_case(seed, **fixed)
        if case["array"].dtype != torch.float64 and (device == "cuda" or case["indices"].numel() <= _MOST_INDICES):
            seeds.append(seed)


def verify_case(seed: int, device: str) -> None:
    """Output, every gradient, the same sums by sorting, and every fused update.

    Raises:
        AssertionError: they differ from the reference's.
    """
    from torchrec_pss.ops.triton import lookup as gpu

    case = random_case(seed)
    out, saved = reference.lookup(**case)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed))
    here = list(of_backward(case).values())[1:]
    there = [moved(v, device) for v in here]
    array = case["array"].to(device)
    found, found_saved = gpu.lookup(*(moved(v, device) for v in case.values()))
    pairs = [(found, out)]
    truth = reference.lookup_backward(grad, saved, case["array"], *here)
    for by_sorting in (False, True):
        torch.use_deterministic_algorithms(by_sorting)
        try:
            results = gpu.lookup_backward(grad.to(device), found_saved, array, *there)
        finally:
            torch.use_deterministic_algorithms(False)
        pairs += zip(results, truth, strict=True)
    for kind in UpdateKind:
        sides = []
        for function, kept, arguments, where in ((gpu, found_saved, there, device), (reference, saved, here, "cpu")):
            sink = torch.zeros(len(array), device=where)
            states = [torch.full_like(sink, 0.5), torch.full_like(sink, 0.3)]
            own = case["array"].clone().to(where)
            function.lookup_backward_update_(grad.to(where), kept, own, sink, *states, *arguments, int(kind), NUMBERS)
            sides.append([own.float(), sink, *states])
        pairs += zip(*sides, strict=True)
    for actual, expected in pairs:
        torch.testing.assert_close(actual.cpu(), expected, **tolerance(case), msg=lambda m: f"seed {seed}: {m}")


def address_seeds(number: int, device: str) -> list[int]:
    """Seeds of the first random cases whose output can show addresses."""
    seeds = []
    for seed in itertools.count(1):
        if len(seeds) == number:
            return seeds
        case = random_case(seed, torch.float32)
        small = case["indices"].numel() <= _MOST_INDICES or device == "cuda"
        if case["pooling_mode"] == PoolingMode.NONE and small:
            seeds.append(seed)


def verify_addresses(seed: int, device: str) -> int:
    """Reads an array of its own indices by CPU and GPU; returns how many addresses were equal.

    Raises:
        AssertionError: one differs.
    """
    from torchrec_pss.ops.triton import lookup as gpu

    case = random_case(seed, torch.float32)
    case |= {"array": torch.arange(len(case["array"])).float(), "sign": False, "read_width": 0}
    case["features"][:, FeatureColumn.INNER] = 0
    case |= {"per_sample_weights": None, "total_width": int(case["features"][0, FeatureColumn.WIDTH])}
    assert len(case["array"]) < _EXACT
    out, _ = torch.ops.torchrec_pss.lookup(*case.values())
    found, _ = gpu.lookup(*(moved(v, device) for v in case.values()))
    assert torch.equal(found.cpu(), out), f"seed {seed}: addresses differ"
    return out.numel()
