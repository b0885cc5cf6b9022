"""Processes that take jobs in turn. One that dies, or whose device is lost, costs the job in hand and is replaced.

Each has a pipe of its own: a queue's lock may be held by a process that dies, and then all others wait for it.
"""

import multiprocessing as mp
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from benchmarks.gpu_day.lines import is_lost, said

Job = tuple[str, Callable[[], dict | None]]


def done_by(jobs: list[Job], processes: int, method: str = "spawn") -> Iterator[tuple[str, dict]]:
    """What each job returns, with its seconds, or ``{"error": ...}``, as they come.

    Args:
        jobs: by name; functions of modules, or partials of them.
        method: of `multiprocessing`.
    """
    context = mp.get_context(method)
    waiting = list(enumerate(jobs))
    running: dict[Connection, tuple[Any, int]] = {}  # by a worker's pipe: its process, and the job in hand
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                pipe, end = context.Pipe()
                process = context.Process(target=_work, args=(end,), daemon=True)
                process.start()
                _hand(pipe, process, waiting, running)
                end.close()
            for pipe in wait(list(running)):
                process, job = running.pop(pipe)
                try:
                    result, goes_on = pipe.recv()
                except (EOFError, OSError):
                    process.join()
                    result, goes_on = {"error": f"the process died with exit code {process.exitcode}"}, False
                if goes_on:
                    _hand(pipe, process, waiting, running)
                yield jobs[job][0], result
    finally:
        for process, _ in running.values():
            process.kill()


def _hand(pipe: Connection, process: Any, waiting: list[tuple[int, Job]], running: dict) -> None:
    """The next job, or word that there is none; nothing to a process that has gone since it answered."""
    try:
        pipe.send(waiting[0][1] if waiting else None)
    except OSError:
        return
    if waiting:
        running[pipe] = process, waiting.pop(0)[0]


def _work(pipe: Connection) -> None:
    """Until there is no job, or nobody to give one."""
    giver = mp.parent_process()
    torch.set_num_threads(1)  # of so many processes
    while pipe in wait([pipe, *([giver.sentinel] if giver else [])]) and (job := pipe.recv()) is not None:
        started, goes_on = time.perf_counter(), True
        try:
            result = job[1]() or {}
        except Exception as error:
            traceback.print_exc()
            result, goes_on = {"error": said(error)}, not is_lost(error)
        pipe.send(({"seconds": round(time.perf_counter() - started, 3)} | result, goes_on))
        if not goes_on:
            return
