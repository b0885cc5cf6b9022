"""Adam's defaults by global batch, the batch size and the number of passes, for a click model on a shared array; docs/research/2026-11-25-training-recipe.md has what
they rest on."""

import math

_PASSES_BELOW = ((250_000, 3), (3_000_000, 2))


def adam_learning_rates(global_batch: int) -> tuple[float, float]:
    """Of the dense layers and of the array, with `WeightAverage`: averaging is why the dense layers' is high."""
    return 0.008 * min(global_batch / 1024, 1) ** (1 / 2), 0.006 * (global_batch / 4096) ** (1 / 4)


def array_eps(global_batch: int) -> float:
    """Of the array's Adam: high enough that rows of a few reads do not move as far as frequent ones. The gradient is a mean
    over the global batch, so it falls with it."""
    return min(1e-4, 0.0256 / global_batch)


def default_batch_size(num_rows: int, world_size: int = 1) -> int:
    """Of a process: the largest power of two, 16 to 2048, that leaves an epoch over so many training rows 2000 steps."""
    return max(16, min(2048, 2 ** int(math.log2(max(num_rows / world_size / 2000, 1)))))


def num_passes(num_rows: int, cross_layers: bool = False) -> int:
    """Over so many training rows, the array begun anew before each (`torchrec_pss.modules.array_restart`): from few rows the dense
    layers do not learn in one pass what they could. More rows are worth less of it, and cost more time. With
    ``cross_layers`` (DCN) two at most: in a third they learn the rows of a small array by heart."""
    passes = next((passes for limit, passes in _PASSES_BELOW if num_rows < limit), 1)
    return min(passes, 2) if cross_layers else passes
