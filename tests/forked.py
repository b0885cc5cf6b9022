"""Processes of their own for tests, forked from one that has imported what takes long: torch, TorchRec and what the scripts use."""

import multiprocessing as mp
from functools import cache

_IMPORTED = [
    "torchrec.distributed.model_parallel",
    "torch.distributed.checkpoint",
    "torchmetrics.classification",
    "matplotlib.figure",
    "torchrec_pss",
]


@cache
def context() -> mp.context.ForkServerContext:
    """Of all tests of a session. Its processes have the environment that the first of them was started in."""
    forking = mp.get_context("forkserver")
    forking.set_forkserver_preload(_IMPORTED)
    return forking
