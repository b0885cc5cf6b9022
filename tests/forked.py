"""Processes of their own for tests, forked from one that has imported what takes long: torch, TorchRec and what the scripts use."""

import multiprocessing as mp
import traceback
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

_IMPORTED = [
    "torchrec.distributed.model_parallel",
    "torch.distributed.checkpoint",
    "torchmetrics.classification",
    "matplotlib.figure",
    "torchrec_pss",
]


@cache
def context() -> mp.context.ForkServerContext | mp.context.SpawnContext:
    """Of all tests of a session. Its processes have the environment that the first of them was started in. Where there is a GPU, each is
    started anew: fbgemm_gpu asks for devices when it is imported, which sets the driver up, and a process that is forked from such a one
    has no CUDA."""
    if torch.cuda.is_available():
        return mp.get_context("spawn")
    forking = mp.get_context("forkserver")
    forking.set_forkserver_preload(_IMPORTED)
    return forking


def call(function: Callable, *args: Any) -> Any:
    """What ``function`` returns in a process of its own: for what changes limits, the environment or process groups."""
    results = context().SimpleQueue()
    process = context().Process(target=_answer, args=(function, args, results))
    process.start()
    while results.empty() and process.is_alive():
        process.join(timeout=0.02)
    assert not results.empty(), f"no answer, exit code {process.exitcode}"
    answer, error = results.get()
    process.join()
    assert error is None, error
    return answer


def _answer(function: Callable, args: tuple, results) -> None:
    try:
        results.put((function(*args), None))
    except BaseException:
        results.put((None, traceback.format_exc()))
