"""AUROC against steps on generated rows: the array at several compressions, and full tables."""

from pathlib import Path

from benchmarks.quality import rivals, tables
from benchmarks.quality.click_trial import ClickTrial
from benchmarks.quality.jobs import Job, Results


def study(results: Results, workers: int, quick: bool, out: Path) -> dict:
    """Steps that each needs to reach the AUROC at which full tables end."""
    data = "generated:100000:0.02:1.1" if quick else "generated:1600000:0.02:1.1"
    compressions = {"full": rivals.FULL} | {f"pss {c}x": float(c) for c in (10, 100, 1000, 10_000)}
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
