"""Counting distinct ids in bounded memory (HyperLogLog with linear counting, 2^14 registers a feature)."""

from collections.abc import Sequence

import numpy as np

from torchrec_pss.datasets.mixing import mix64
from torchrec_pss.datasets.rows import NUM_SPARSE

_BITS = 14
_REGISTERS = 1 << _BITS


class DistinctCounter:
    """Estimates how many distinct ids each feature has; standard error 0.8 % (1.04 / sqrt(2^14))."""

    def __init__(self, num_features: int = NUM_SPARSE) -> None:
        self._registers = np.zeros((num_features, _REGISTERS), np.uint8)

    def add(self, ids: Sequence[np.ndarray]) -> None:
        """Adds int64 ids, those of each feature."""
        for registers, of_feature in zip(self._registers, ids, strict=True):
            hashes = mix64(of_feature.view(np.uint64))
            register = (hashes >> np.uint64(64 - _BITS)).astype(np.int64)
            # Leading zeros of the remaining 50 bits, plus one; float64 holds those bits exactly.
            rest = (hashes & np.uint64((1 << (64 - _BITS)) - 1)).astype(np.float64)
            np.maximum.at(registers, register, (64 - _BITS + 1 - np.frexp(rest)[1]).astype(np.uint8))

    def estimates(self) -> list[int]:
        """Distinct ids of each feature, at least 1."""
        return [max(1, round(_estimate(registers))) for registers in self._registers]


def _estimate(registers: np.ndarray) -> float:
    alpha = 0.7213 / (1 + 1.079 / _REGISTERS)
    raw = alpha * _REGISTERS**2 / np.sum(2.0 ** -registers.astype(np.float64))
    empty = int((registers == 0).sum())
    if raw <= 2.5 * _REGISTERS and empty:
        return _REGISTERS * np.log(_REGISTERS / empty)
    return raw
