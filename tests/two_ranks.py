"""Runs a function in real processes, gloo or NCCL between them."""

import os
import traceback
from collections.abc import Callable
from typing import Any

import forked
import torch
import torch.distributed as dist


def _worker(rank: int, world_size: int, port_file: str, backend: str, function: Callable, args: tuple, results) -> None:
    torch.set_num_threads(1)
    try:
        if backend == "nccl":
            torch.cuda.set_device(rank)
        dist.init_process_group(backend, init_method=f"file://{port_file}", rank=rank, world_size=world_size)
        results.put((rank, function(rank, world_size, *args), None))
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        results.put((rank, None, traceback.format_exc()))
        raise


def run(function: Callable, tmp_path, *args: Any, world_size: int = 2, backend: str = "gloo") -> list:
    """What ``function(rank, world_size, *args)`` returns on each rank. Results must be picklable and not tensors' views. With nccl
    each rank has a GPU of its own."""
    context = forked.context()
    results = context.SimpleQueue()
    port_file = os.path.join(tmp_path, f"rendezvous-{os.urandom(4).hex()}")
    processes = [
        context.Process(target=_worker, args=(rank, world_size, port_file, backend, function, args, results))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    answers = {}
    try:
        while len(answers) < world_size:
            dead = all(not p.is_alive() for p in processes)  # asked first: a rank may answer and end in between
            if dead and results.empty():
                raise RuntimeError(f"ranks died without an answer: exit codes {[p.exitcode for p in processes]}")
            if not results.empty():
                rank, answer, error = results.get()
                assert error is None, f"rank {rank}:\n{error}"
                answers[rank] = answer
    finally:
        for process in processes:
            process.join(timeout=20 if len(answers) == world_size else 0)
            process.kill()
    return [answers[rank] for rank in range(world_size)]
