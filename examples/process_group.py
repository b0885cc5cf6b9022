"""Joining the other processes, also after torchrun has started them anew."""

import os
from datetime import timedelta

import torch.distributed as dist

# Counting ids of a large file on rank 0 may take long.
_TIMEOUT = timedelta(hours=12)


def restarts() -> int:
    """How often torchrun has started the workers anew because one had died (--max-restarts, torchx --max_retries)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def join(backend: str) -> None:
    """`init_process_group` by the launcher's environment; alone without one.

    The workers' store may be the one of before a restart (`torchrun --standalone`, torch 2.13), with addresses of processes that are
    dead: each start has names of its own there.
    """
    if "RANK" not in os.environ:
        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_WORLD_SIZE="1", MASTER_ADDR="localhost", MASTER_PORT="0")
    store, rank, world_size = next(dist.rendezvous("env://", timeout=_TIMEOUT))
    store = dist.PrefixStore(f"start{restarts()}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=_TIMEOUT)
