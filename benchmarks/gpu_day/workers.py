"""Processes that take jobs in turn. One that dies, or whose device is lost, costs the job in hand and is replaced."""

import multiprocessing as mp
import queue
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
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
    waiting, answers = list(enumerate(jobs)), context.Queue()
    running: dict[int, tuple[Any, int]] = {}  # by worker: its process, and the job in hand
    pipes: dict[int, Any] = {}
    left, fresh = len(jobs), 0
    try:
        while left:
            while waiting and len(running) < processes:
                number, (pipe, end) = fresh, context.Pipe()
                fresh += 1
                process = context.Process(target=_work, args=(number, end, answers), daemon=True)
                process.start()
                running[number], pipes[number] = (process, _hand(pipe, waiting)), pipe
            try:
                worker, result, goes_on = answers.get(timeout=1)
            except queue.Empty:
                for worker, (process, job) in list(running.items()):
                    if not process.is_alive() and answers.empty():
                        del running[worker]
                        left -= 1
                        yield jobs[job][0], {"error": f"the process died with exit code {process.exitcode}"}
                continue
            process, job = running.pop(worker)
            left -= 1
            if goes_on and waiting:
                running[worker] = process, _hand(pipes[worker], waiting)
            elif goes_on:
                pipes[worker].send(None)
            yield jobs[job][0], result
    finally:
        for process, _ in running.values():
            process.kill()


def _hand(pipe, waiting: list[tuple[int, Job]]) -> int:
    number, job = waiting.pop(0)
    pipe.send(job)
    return number


def _work(worker: int, pipe, answers) -> None:
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
        answers.put((worker, {"seconds": round(time.perf_counter() - started, 3)} | result, goes_on))
        if not goes_on:
            return
