"""A floor under every lookup of one id a bag, measured: what must be done for each id even where rows cost nothing."""

import ctypes
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

_SOURCE = Path(__file__).with_suffix(".cpp")
_STREAMED = 1 << 20  # elements of the output from which it is written past the caches, as by csrc/lookup_cpu.cpp


@cache
def _library() -> ctypes.CDLL | None:
    """None where g++ or AVX2 is missing."""
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return None
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "floor.so"
        command = ["g++", "-O3", "-mavx2", "-fopenmp", "-shared", "-fPIC", str(_SOURCE), "-o", str(built)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return ctypes.CDLL(str(built))


def floor(batches: list[torch.Tensor], dim: int, threads: int, grad: torch.Tensor):
    """Forward and step, for a benchmark; None where it cannot be built.

    Args:
        batches: of ids, int64 ``[features, n]`` each.
        dim: D, a multiple of 8.
        grad: fp32 ``[n, features * dim]``.
    """
    library = _library()
    if library is None:
        return None
    features, n = batches[0].shape
    out = torch.empty_like(grad)
    numbers = torch.empty(features, n, dtype=torch.int32)
    counts = torch.empty(features, dtype=torch.int64)
    sizes = [ctypes.c_int64(v) for v in (features, n, dim)]

    def pointers(*tensors: torch.Tensor) -> list[ctypes.c_void_p]:
        return [ctypes.c_void_p(t.data_ptr()) for t in tensors]

    def forward(batch: int) -> None:
        stream = int(out.numel() > _STREAMED and out.data_ptr() % 32 == 0)
        library.forward(*pointers(batches[batch]), *sizes, *pointers(numbers, counts, out), stream, threads)

    def step(batch: int) -> None:
        forward(batch)
        library.backward(*sizes, *pointers(numbers, counts, grad), threads)

    return forward, step
