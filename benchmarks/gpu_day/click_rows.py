"""Rows of the generated click log, made by several processes and kept on the device, so that no step waits for the host."""

import multiprocessing as mp
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from torchrec.datasets.utils import Batch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss.datasets.rows import NUM_DENSE, NUM_SPARSE
from torchrec_pss.datasets.synthetic import ClickLogConfig, ClickLogGenerator

_CHUNK = 1 << 16
NAMES = [f"f{i}" for i in range(NUM_SPARSE)]


@dataclass(frozen=True)
class ClickRows:
    """``dense`` fp32 ``[n, 13]``, ``ids`` int32 ``[26, n]``, ``labels`` fp32 ``[n]``, on one device."""

    dense: torch.Tensor
    ids: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, first: int, size: int) -> Batch:
        """Rows ``[first, first + size)``, an id a bag."""
        ids = self.ids[:, first : first + size].flatten().long()
        offsets = torch.arange(len(ids) + 1, device=ids.device)
        kjt = KeyedJaggedTensor(NAMES, ids, offsets=offsets)
        return Batch(self.dense[first : first + size], kjt, self.labels[first : first + size])


def generated(rows: Sequence[int], number: int, device: str, processes: int | None = None) -> ClickRows:
    """The first ``number`` rows over tables of ``rows``.

    Args:
        processes: of the generator; 0: this one alone. Default: one a core, at most 12.
    """
    made = ClickRows(
        torch.empty(number, NUM_DENSE, device=device),
        torch.empty(NUM_SPARSE, number, dtype=torch.int32, device=device),
        torch.empty(number, device=device),
    )
    windows = [(first, min(first + _CHUNK, number)) for first in range(0, number, _CHUNK)]
    make = partial(_window, tuple(rows))
    if processes == 0:
        parts = map(make, windows)
        _fill(made, parts)
        return made
    with mp.get_context("spawn").Pool(processes or min(os.cpu_count() or 1, 12)) as pool:
        _fill(made, pool.imap_unordered(make, windows))
    return made


def _fill(made: ClickRows, parts) -> None:
    for first, dense, ids, labels in parts:
        here = slice(first, first + len(labels))
        made.dense[here].copy_(torch.from_numpy(dense))
        made.ids[:, here].copy_(torch.from_numpy(ids))
        made.labels[here].copy_(torch.from_numpy(labels))


@cache
def _generator(rows: tuple[int, ...]) -> ClickLogGenerator:
    return ClickLogGenerator(ClickLogConfig(num_embeddings=rows))


def _window(rows: tuple[int, ...], window: tuple[int, int]) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    dense, ids, labels, _ = _generator(rows).rows(range(*window))
    return window[0], dense, ids.astype(np.int32), labels
