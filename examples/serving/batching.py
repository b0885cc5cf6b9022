"""`Batcher`: requests that wait together are answered together."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from model_file import Model, ModelFile
from rows import MOST_ROWS, BadRowError, Row, arrays_of, joined

Outcome = np.ndarray | Exception
MOST_WAITING = 256


class BusyError(RuntimeError):
    """More requests wait than there is room for."""


class Batcher:
    """While one batch is with the model, the next one gathers: nobody waits for company.

    Args:
        file: whose model of the moment answers a whole batch.
        seen: called with the rows of each batch.
    """

    def __init__(self, file: ModelFile, seen: Callable[[int], None]) -> None:
        self._file, self._seen = file, seen
        self._waiting: asyncio.Queue[tuple[list[Row], asyncio.Future]] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._task: asyncio.Task | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Once everything that waits is answered."""
        await self._waiting.join()
        self._task.cancel()
        self._thread.shutdown()

    async def answer(self, rows: list[Row]) -> np.ndarray:
        """Probabilities of the rows.

        Raises:
            BadRowError: see `arrays_of`; other requests of the batch are answered.
            BusyError: too many wait.
        """
        if self._waiting.qsize() >= MOST_WAITING:
            raise BusyError(f"{MOST_WAITING} requests wait already")
        future = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((rows, future))
        return await future

    async def _work(self) -> None:
        left = None
        while True:
            batch = [left or await self._waiting.get()]
            left, number = None, len(batch[0][0])
            while not self._waiting.empty():
                more = self._waiting.get_nowait()
                number += len(more[0])
                if number > MOST_ROWS:
                    left = more
                    break
                batch.append(more)
            requests = [rows for rows, _ in batch]
            run = asyncio.get_running_loop().run_in_executor
            try:
                outcomes = await run(self._thread, _outcomes, self._file.model, requests)
            except Exception as error:  # the next batch may be another matter
                outcomes = [error] * len(batch)
            self._seen(sum(map(len, requests)))
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                self._waiting.task_done()
                if future.cancelled():
                    continue
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)


def _outcomes(model: Model, requests: list[list[Row]]) -> list[Outcome]:
    """Of each request its probabilities, or why there are none."""
    found: list[Outcome | None] = [None] * len(requests)
    parts, places = [], []
    for place, rows in enumerate(requests):
        try:
            parts.append(arrays_of(rows, model))
            places.append(place)
        except BadRowError as error:
            found[place] = error
    if parts:
        try:
            answers = np.split(model.run(*joined(parts)), np.cumsum([len(p.dense) for p in parts])[:-1])
        except Exception as error:
            answers = [error] * len(parts)
        for place, outcome in zip(places, answers, strict=True):
            found[place] = outcome
    return found
