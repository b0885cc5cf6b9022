"""Every contestant on every data set, model and compression, and what they chose again in several passes."""

import statistics
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.quality import pair_trial, rivals, sequence_trial, tables
from benchmarks.quality.click_trial import ClickTrial
from benchmarks.quality.jobs import Job, Results, Trial, data_of
from benchmarks.quality.pair_trial import PairTrial
from benchmarks.quality.sequence_trial import SequenceTrial
from torchrec_pss.optim.recipe import num_passes

_GENERATED = "generated:200000:0.02:1.1"
_SKEWED = "generated:200000:0.02:1.4"
MAIN = {  # data: models, compressions, rows a step
    "criteo": (("dlrm", "dcn"), (10, 100, 1000), 64),
    "gowalla": (("two-tower", "sequence"), (10, 100, 1000), None),
    _GENERATED: (("dlrm", "dcn"), (10, 100, 1000, 10_000), 256),
    _SKEWED: (("dlrm", "dcn"), (10, 100, 1000), 256),
}
_SEEDS = (0, 1, 2)


def trials_of(model: str, name: str, compression: float, batch_size: int | None, quick: bool) -> list[Trial]:
    """The trials by which a contestant is tuned."""
    epochs = {"epochs": 1} if quick else {}
    if model == "two-tower":
        number = len(pair_trial.CONTESTANTS[name])
        trials = [PairTrial(name, compression, k, **epochs) for k in range(number)]
    elif model == "sequence":
        number = len(sequence_trial.CONTESTANTS[name])
        trials = [SequenceTrial(name, compression, k, **epochs) for k in range(number)]
    else:
        number = len(rivals.CONTESTANTS[name].trials)
        trials = [ClickTrial(name, compression, k, model=model, batch_size=batch_size) for k in range(number)]
    return trials[:1] if quick else trials


def jobs_of(
    data: str, model: str, compression: float, batch_size: int | None, seeds: Sequence[int], quick: bool
) -> dict[str, list[list[Job]]]:
    """Of every contestant: for each trial, a job a seed."""
    return {
        name: [
            [Job(data, replace(t, seed=seed)) for seed in seeds]
            for t in trials_of(model, name, rivals.FULL if name == "full" else float(compression), batch_size, quick)
        ]
        for name in rivals.CONTESTANTS
    }


def study(data_sets: list[str], results: Results, workers: int, quick: bool) -> list[dict]:
    """A row for each data set, model and compression: of every contestant the trial that validates best, or why there is none."""
    seeds = _SEEDS[:1] if quick else _SEEDS
    cells = [
        (data, model, compression, jobs_of(data, model, compression, MAIN[data][2], seeds, quick))
        for data in data_sets
        for model in MAIN[data][0]
        for compression in MAIN[data][1]
    ]
    results.run([j for *_, jobs in cells for trials in jobs.values() for t in trials for j in t], workers, "main")
    rows = []
    for data, model, compression, jobs in cells:
        row = {"data": data, "model": model, "compression": compression, "bayes": None, "contestants": {}}
        for name, trials in jobs.items():
            possible = [found for found in ([results.of(j) for j in t] for t in trials) if "auroc_val" in found[0]]
            if not possible:
                row["contestants"][name] = {"impossible": results.of(trials[0][0])["impossible"]}
                continue
            found = max(possible, key=lambda runs: statistics.mean(r["auroc_val"] for r in runs))
            row["bayes"] = found[0]["bayes"]
            row["contestants"][name] = _summary(found)
        rows.append(row)
    return rows


def _summary(found: list[dict]) -> dict:
    """Of a trial's runs, one a seed."""
    mean, half = tables.interval([r["auroc_test"] for r in found])
    return {
        "mean": mean, "half": half, "bytes": found[0]["bytes"], "trial": found[0]["job"]["trial"],
        "auroc_test": [r["auroc_test"] for r in found],
    }  # fmt: skip


def study_passes(main_rows: list[dict], results: Results, workers: int, quick: bool) -> list[dict]:
    """``main_rows``, of click logs, with each contestant's figure that of its trial there in `num_passes` passes."""
    seeds = _SEEDS[:1] if quick else _SEEDS
    cells = []
    for row in main_rows:
        data, model = row["data"], row["model"]
        passes = num_passes(data_of(data).num_train, cross_layers=model == "dcn")
        tuned = jobs_of(data, model, row["compression"], MAIN[data][2], seeds, quick=False)
        jobs = {
            name: [Job(data, replace(job.trial, passes=passes)) for job in tuned[name][chosen["trial"]]]
            for name, chosen in row["contestants"].items()
            if "trial" in chosen
        }
        cells.append((row | {"passes": passes}, jobs))
    results.run([job for _, jobs in cells for runs in jobs.values() for job in runs], workers, "passes")
    return [
        row
        | {"contestants": row["contestants"] | {n: _summary([results.of(j) for j in runs]) for n, runs in jobs.items()}}
        for row, jobs in cells
    ]
