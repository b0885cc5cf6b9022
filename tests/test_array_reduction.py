"""The ways to reduce the array's gradient over ranks: means, equal on all ranks, and as few elements sent as they say."""

import itertools

import pytest
import torch
import torch.distributed as dist
import two_ranks

from torchrec_pss import get_default_pss_sharders
from torchrec_pss.distributed import array_reduction
from torchrec_pss.distributed.array_reduction import ArrayReduction

LENGTH = 1000
TOUCHED = [(0, 0), (0, 7), (20, 3), (499, 499), (500, 20), (1000, 1000)]  # elements of each rank's gradient
SCALES = {
    torch.float32: 1.0,
    torch.bfloat16: 1.0,
    torch.float16: 30000.0,
    torch.float64: 1.0,
}  # a sum of fp16 would be infinite
CASES = list(itertools.product(ArrayReduction, TOUCHED, SCALES))
TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 0.01, torch.float16: 0.01, torch.float64: 1e-14}


def reduced(rank, world_size):
    """Of each case: what the gradient became, the mean, and the shapes that collectives moved."""
    found = []
    for way, touched, dtype in CASES:
        generator = torch.Generator().manual_seed(rank)
        gradient = torch.zeros(LENGTH)
        places = torch.randperm(LENGTH, generator=generator)[: touched[rank]]
        gradient[places] = torch.randn(touched[rank], generator=generator).clamp(-2, 2)
        gradient = (SCALES[dtype] * gradient.double() / 3).to(dtype).mul_(3)
        mean = gradient.double().clone()
        dist.all_reduce(mean)
        with torch.profiler.profile(record_shapes=True) as profile:
            array_reduction.start(way, gradient, dist.group.WORLD)()
        moved = [e.input_shapes for e in profile.events() if e.name.startswith("gloo:")]
        assert gradient.dtype == dtype
        found.append((gradient.double().numpy(), (mean / world_size).numpy(), str(moved)))
    return found


def test_every_reduction_is_the_mean(tmp_path):
    first, second = two_ranks.run(reduced, tmp_path)
    for (way, touched, dtype), (here, mean, moved), (there, _, _) in zip(CASES, first, second, strict=True):
        assert (here == there).all(), (way, touched, dtype)
        tolerance = TOLERANCES[torch.bfloat16 if way == ArrayReduction.BF16 else dtype]
        torch.testing.assert_close(
            torch.from_numpy(here), torch.from_numpy(mean), rtol=tolerance, atol=tolerance * SCALES[dtype]
        )
        # Sparse, the whole array moves only where the elements with their indices are more.
        whole = way != ArrayReduction.SPARSE or 2 * max(touched) >= LENGTH
        assert (str(LENGTH) in moved) == whole, (way, touched, moved)


def test_an_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="'halved' is not a valid ArrayReduction"):
        get_default_pss_sharders("halved")
