"""The quality lab: contestants at equal bytes.

    python -m benchmarks.quality.run main [--quick] [--data criteo,gowalla,...] [--out DIR]
    python -m benchmarks.quality.run passes [--quick] [--data criteo,...]
    python -m benchmarks.quality.run steps [--quick]
    python -m benchmarks.quality.run calibrate [--install]
    python -m benchmarks.quality.run headline [--quick]
    python -m benchmarks.quality.run splits [--quick]
    python -m benchmarks.quality.run kinds [--quick]
    python -m benchmarks.quality.run files [--quick]
    python -m benchmarks.quality.run pair_files [--quick]

``main``: every contestant on every data set, model and compression. Each has the same number of trials, each with three seeds; the
figure is the mean test AUROC, with a 95 % interval, of the trial whose mean validation AUROC is best.
``passes``: of the click logs in ``main``, the trials that it chose, trained again in as many passes as `train_criteo.py` takes.
``steps``: AUROC against steps on generated rows, the array at several compressions and full tables.
``headline``: `train_criteo.py` at Kaggle's shape, 1000x and 10,000x, and at MLPerf's with an array of 10 MB.
``splits``: the array against row hashing, narrow and full tables on random splits of Criteo's rows, split by split.
``kinds``: likewise on the other kinds of files that ``files`` makes of them, against row hashing and narrow tables.
``files``: `train_criteo.py`, nothing tuned, on a Criteo file, what can be made of it, and generated rows: the array, row hashing, narrow tables.
``pair_files``: `train_interactions.py`, nothing tuned, on Gowalla and generated pairs: the array, narrow tables, row hashing.
``calibrate``: the array and full tables over many compressions and data sets, for `torchrec_pss.advise`; --install puts the runs into the package.

Results land in --out as they come; started again, a study goes on where it stopped.
"""

import argparse
import json
import logging
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.quality import files, headline, pair_files, pair_trial, rivals, sequence_trial, splits, tables
from benchmarks.quality.click_trial import ClickTrial
from benchmarks.quality.jobs import Job, Results, Trial, data_of
from benchmarks.quality.pair_trial import PairTrial
from benchmarks.quality.sequence_trial import SequenceTrial
from torchrec_pss.advise.prediction import CALIBRATION, Calibration
from torchrec_pss.optim.recipe import num_passes
from torchrec_pss.whole_file import write_json

logger: logging.Logger = logging.getLogger("benchmarks.quality")

RECORDED_MAIN = Path(__file__).parents[1] / "results" / "quality" / "main.json"
GENERATED = "generated:200000:0.02:1.1"
SKEWED = "generated:200000:0.02:1.4"
MAIN = {  # data: models, compressions, rows a step
    "criteo": (("dlrm", "dcn"), (10, 100, 1000), 64),
    "gowalla": (("two-tower", "sequence"), (10, 100, 1000), None),
    GENERATED: (("dlrm", "dcn"), (10, 100, 1000, 10_000), 256),
    SKEWED: (("dlrm", "dcn"), (10, 100, 1000), 256),
}
CALIBRATE = {  # data: rows a step
    "criteo": 64,
    "generated:200000:0.02:1.05": 256,
    "generated:200000:0.02:1.2": 256,
    "generated:200000:0.02:1.4": 256,
    "generated:400000:0.01:1.1": 256,
    "generated:100000:0.05:1.1": 128,
}
CALIBRATED_COMPRESSIONS = (4, 10, 30, 100, 300, 1000, 3000)
SEEDS = (0, 1, 2)
FULL = 1.0  # the compression under which full tables stand, trained once for all rows of a table


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
            for t in trials_of(model, name, FULL if name == "full" else float(compression), batch_size, quick)
        ]
        for name in rivals.CONTESTANTS
    }


def main_study(data_sets: list[str], results: Results, workers: int, quick: bool) -> list[dict]:
    seeds = SEEDS[:1] if quick else SEEDS
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


def passes_study(main_rows: list[dict], results: Results, workers: int, quick: bool) -> list[dict]:
    """``main_rows``, of click logs, with each contestant's figure that of its trial there in `num_passes` passes."""
    seeds = SEEDS[:1] if quick else SEEDS
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


def steps_study(results: Results, workers: int, quick: bool, out: Path) -> dict:
    """Steps that each needs to reach the AUROC at which full tables end."""
    data = "generated:100000:0.02:1.1" if quick else "generated:1600000:0.02:1.1"
    compressions = {"full": FULL} | {f"pss {c}x": float(c) for c in (10, 100, 1000, 10_000)}
    jobs = {
        name: Job(data, ClickTrial(name.split()[0], c, batch_size=256, points=16)) for name, c in compressions.items()
    }
    results.run(list(jobs.values()), workers, "steps")
    found = {name: results.of(job) for name, job in jobs.items() if "curve" in results.of(job)}
    target = found["full"]["curve"][-1][1] - 0.001
    reached = {name: next((step for step, a in r["curve"] if a >= target), None) for name, r in found.items()}
    tables.plot_curves(out / "steps.png", {n: r["curve"] for n, r in found.items()}, f"{data}, DLRM")
    return {
        "data": data, "bayes": found["full"]["bayes"], "target": target, "steps_to_target": reached,
        "auroc_test": {n: r["auroc_test"] for n, r in found.items()}, "curves": {n: r["curve"] for n, r in found.items()},
    }  # fmt: skip


def calibrate_study(results: Results, workers: int, quick: bool) -> dict:
    """Runs of the array with what full tables lose it, and how the advisor's interval does on data sets left out."""
    data_sets = dict(list(CALIBRATE.items())[:2] if quick else CALIBRATE)

    def job(data: str, name: str, compression: float) -> Job:
        return Job(data, ClickTrial(name, compression, batch_size=data_sets[data], points=16))

    full = {data: job(data, "full", FULL) for data in data_sets}
    arrays = {(data, c): job(data, "pss", float(c)) for data in data_sets for c in CALIBRATED_COMPRESSIONS}
    results.run([*full.values(), *arrays.values()], workers, "calibrate")
    runs = []
    for (data, compression), array in arrays.items():
        ours, theirs = results.of(array), results.of(full[data])
        if "impossible" in ours:
            continue
        target = min(ours["auroc_test"], theirs["auroc_test"]) - 0.0005
        steps = [next(step for step, auroc in r["curve"] if auroc >= target) for r in (ours, theirs)]
        runs.append({
            "data": data, "compression": compression, "unresolved": ours["unresolved"],
            "drop": theirs["auroc_test"] - ours["auroc_test"], "steps_ratio": steps[0] / steps[1],
        })  # fmt: skip
    calibration = Calibration(runs)
    shown = {share: vars(calibration.steps_ratio(share)) for share in (0.02, 0.1, 0.3, 0.5)}
    return {"coverage": calibration.coverage(), "steps_ratio_at_unresolved": shown, "runs": runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "study", choices=["main", "passes", "steps", "calibrate", "headline", "splits", "kinds", "files", "pair_files"]
    )
    parser.add_argument(
        "--data", default=",".join(MAIN), help=f"of main and passes, comma-separated: {', '.join(MAIN)}"
    )
    parser.add_argument(
        "--install", action="store_true", help="of calibrate: write torchrec_pss/advise/calibration.json"
    )
    parser.add_argument("--quick", action="store_true", help="one trial, one seed: minutes instead of hours")
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each")
    parser.add_argument("--out", type=Path, help="default runs/quality, or runs/quality_quick")
    args = parser.parse_args()
    # By force: an import has configured the root logger already.
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True)
    logger.setLevel(logging.INFO)
    out = args.out or Path("runs/quality_quick" if args.quick else "runs/quality")
    out.mkdir(parents=True, exist_ok=True)
    results = Results(out / "trials.jsonl")
    if args.study == "steps":
        found = steps_study(results, args.workers, args.quick, out)
        print(json.dumps({k: v for k, v in found.items() if k != "curves"}, indent=2))
    elif args.study == "headline":
        found = headline.study(out, args.workers, args.quick)
        text = tables.headline(found)
        (out / "headline.md").write_text(text)
        print(text)
    elif args.study == "splits":
        found = splits.study(results, args.workers, args.quick)
        print(splits.markdown(found))
    elif args.study == "kinds":
        found = splits.study_kinds(results, out, args.workers, args.quick)
        print(splits.markdown(found))
    elif args.study == "files":
        found = files.study(out, args.workers, args.quick)
        print(files.markdown(found))
    elif args.study == "pair_files":
        found = pair_files.study(out, args.workers, args.quick)
        print(files.markdown(found))
    elif args.study == "calibrate":
        found = calibrate_study(results, args.workers, args.quick)
        print(json.dumps({k: v for k, v in found.items() if k != "runs"}, indent=2))
        if args.install:
            write_json(CALIBRATION, {"runs": found["runs"]})
    else:
        data_sets = args.data.split(",")
        unknown = [d for d in data_sets if d not in MAIN]
        if unknown:
            parser.error(f"unknown data {unknown}; there are {', '.join(MAIN)}")
        if args.study == "main":
            found = main_study(data_sets, results, args.workers, args.quick)
        else:
            chosen_in = next(p for p in (out / "main.json", RECORDED_MAIN) if p.exists())
            click_logs = [d for d in data_sets if MAIN[d][2]]  # those with rows a step
            chosen = [r for r in json.loads(chosen_in.read_text()) if r["data"] in click_logs]
            if not chosen:
                parser.error(f"{chosen_in} has no click log of {args.data}")
            found = passes_study(chosen, results, args.workers, args.quick)
        text = tables.markdown(found, list(rivals.CONTESTANTS))
        (out / f"{args.study}.md").write_text(text)
        tables.plot(out / f"{args.study}.png", found)
        print(text)
    write_json(out / f"{args.study}.json", found)


if __name__ == "__main__":
    main()
