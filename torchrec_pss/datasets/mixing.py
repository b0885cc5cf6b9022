"""SplitMix64's finaliser on numpy arrays, for latents and counters (the array's own hash is in ops/hashing.py)."""

import numpy as np


def mix64(x: np.ndarray) -> np.ndarray:
    """A bijection of uint64 that mixes all bits into all."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = x ^ (x >> np.uint64(shift))
        x *= np.uint64(factor)
    return x ^ (x >> np.uint64(31))
