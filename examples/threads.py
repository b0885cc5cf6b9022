"""How many threads a training on the CPU takes, and how they wait for each other. Imported before torch is.

By default torch takes a thread a core, and threads that are done wait busily for the others. Beside another process that has the core
which the last of them needs, a step of 16 rows then takes several times as long; alone it gains nothing (docs/research/2026-11-30-threads.md).
"""

import logging
import os

logger: logging.Logger = logging.getLogger("__main__")

# Turns of GNU OpenMP's loop before a thread that waits sleeps, instead of 300,000. Read when torch is loaded.
SPINS = "3000"
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
    os.environ["GOMP_SPINCOUNT"] = SPINS

_OF_A_THREAD = 50_000_000  # multiply-adds of a step: some 10 ms


def number(multiply_adds: int, cores: int) -> int:
    """Threads for steps of so many multiply-adds in dense layers, forward: one for every `_OF_A_THREAD`."""
    return max(min(multiply_adds // _OF_A_THREAD, cores), 1)


def choose(multiply_adds: int) -> None:
    """Sets torch's threads for such steps. ``OMP_NUM_THREADS``, given by the user or by torchrun, stands."""
    if "OMP_NUM_THREADS" in os.environ:
        return
    import torch

    ranks = max(int(os.environ.get("LOCAL_WORLD_SIZE", 1)), 1)
    torch.set_num_threads(number(multiply_adds, torch.get_num_threads() // ranks))
    logger.info("%d threads (OMP_NUM_THREADS takes another number)", torch.get_num_threads())
