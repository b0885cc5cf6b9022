"""AUROC against steps on generated rows: the array at several compressions, and full tables."""

from pathlib import Path

from benchmarks.quality import rivals, tables
from benchmarks.quality.click_trial import ClickTrial
from benchmarks.quality.jobs import Job, Results

_POINTS = 20
_FIFTH = _POINTS // 5


def study(results: Results, workers: int, quick: bool, out: Path) -> dict:
    """At which multiple of a fifth of the steps each first has the AUROC, less .001, that full tables have there: up to five times; None where it
    has it at none."""
    data = "generated:100000:0.02:1.1" if quick else "generated:1600000:0.02:1.1"
    arrays = [(c, 32) for c in (10, 100, 1000, 10_000)] + [(c, 4) for c in (1000, 10_000)]
    trials = {"full": ClickTrial("full", rivals.FULL, batch_size=256, points=_POINTS)} | {
        f"pss {c}x, {bits} bits": ClickTrial("pss", float(c), batch_size=256, points=_POINTS, bits=bits)
        for c, bits in arrays
    }
    jobs = {name: Job(data, trial) for name, trial in trials.items()}
    results.run(list(jobs.values()), workers, "steps")
    found = {name: results.of(job) for name, job in jobs.items() if "curve" in results.of(job)}
    of_full, target = found["full"]["curve"][_FIFTH - 1]
    reached = {name: next((s for s, a in r["curve"] if a >= target - 0.001), None) for name, r in found.items()}
    tables.plot_curves(out / "steps.png", {n: r["curve"] for n, r in found.items()}, f"{data}, DLRM")
    return {
        "data": data, "bayes": found["full"]["bayes"], "target": target - 0.001,
        "multiple_to_target": {n: s and round(s / of_full, 2) for n, s in reached.items()},
        "auroc_test": {n: r["auroc_test"] for n, r in found.items()}, "curves": {n: r["curve"] for n, r in found.items()},
    }  # fmt: skip
