"""Trials as jobs: run in worker processes, each once, results kept in a JSON-lines file as they come."""

import json
import logging
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.quality import click_data, click_trial, pair_trial, sequence_trial
from benchmarks.quality.click_trial import ClickTrial
from benchmarks.quality.pair_trial import PairTrial
from benchmarks.quality.sequence_trial import SequenceTrial

logger: logging.Logger = logging.getLogger(__name__)


Trial = ClickTrial | PairTrial | SequenceTrial
_RUN = {ClickTrial: click_trial.run, PairTrial: pair_trial.run, SequenceTrial: sequence_trial.run}


@dataclass(frozen=True)
class Job:
    """A trial on a data set: "criteo" (or ``criteo:PATH``), ``shuffled:SEED`` or ``shuffled:SEED:PATH`` (the same,
    shuffled), "gowalla", or ``generated:ROWS:SCALE:SKEW``."""

    data: str
    trial: Trial

    @property
    def key(self) -> str:
        trial = asdict(self.trial)
        if trial["bits"] == 32:  # as before there were others
            del trial["bits"]
        return json.dumps({"data": self.data, **trial}, sort_keys=True)


@cache
def data_of(name: str):
    kind, *rest = name.split(":")
    if kind == "gowalla":
        return pair_trial.gowalla()
    if kind == "criteo":
        return click_data.criteo(*map(Path, rest))
    if kind == "shuffled":
        return click_data.criteo(*map(Path, rest[1:]), shuffle=int(rest[0]))
    return click_data.generated(int(rest[0]), float(rest[1]), float(rest[2]))


def _run(job: Job) -> dict:
    torch.set_num_threads(1)
    started = time.perf_counter()
    data = data_of(job.data)
    try:
        result = _RUN[type(job.trial)](data, job.trial)
    except ValueError as error:
        result = {"impossible": str(error)}
    bayes = getattr(data, "bayes", None)
    return {"job": json.loads(job.key), **result, "bayes": bayes, "seconds": round(time.perf_counter() - started, 1)}


class Results:
    """Results by job, in a file that a later run goes on from."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, dict] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                result = json.loads(line)
                self._found[json.dumps(result["job"], sort_keys=True)] = result

    def of(self, job: Job) -> dict:
        return self._found[job.key]

    def run(self, jobs: list[Job], workers: int, description: str) -> None:
        """Runs the jobs that have no result yet."""
        missing = list({j.key: j for j in jobs if j.key not in self._found}.values())
        if not missing:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        os.environ["OMP_NUM_THREADS"] = "1"
        context = multiprocessing.get_context("spawn")
        with (
            ProcessPoolExecutor(workers, mp_context=context) as pool,
            open(self._path, "a") as stream,
            tqdm(total=len(missing), desc=description, mininterval=10) as bar,
        ):
            for future in as_completed([pool.submit(_run, job) for job in missing]):
                result = future.result()
                self._found[json.dumps(result["job"], sort_keys=True)] = result
                stream.write(json.dumps(result) + "\n")
                stream.flush()
                bar.update()
                shown = result.get("auroc_test") or result["impossible"]
                logger.info("%s: %s", {k: result["job"][k] for k in ("data", "contestant", "compression")}, shown)
