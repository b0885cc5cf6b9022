"""The array against its rivals on many random splits of the same rows: differences split by split, nothing tuned."""

import statistics

from benchmarks.quality import tables
from benchmarks.quality.click_trial import ClickTrial
from benchmarks.quality.jobs import Job, Results
from torchrec_pss.optim.recipe import num_passes

SPLITS = 12
RIVALS = {10.0: ("row hashing", "narrow", "full"), 100.0: ("row hashing",)}  # by compression
_BATCH_SIZE = 32  # what train_criteo.py takes for so few rows
_PASSES = num_passes(64_000)  # likewise; here full tables too
_FULL = 1.0


def study(results: Results, workers: int, quick: bool) -> list[dict]:
    """A row for each compression and rival: mean held-out AUROC (validation and test rows, of which nothing is chosen), and the mean
    difference of the array's, with its 95 % interval and the number of splits in which it is above."""
    splits = range(2 if quick else SPLITS)

    def job(name: str, compression: float, split: int) -> Job:
        trial = ClickTrial(
            name, _FULL if name == "full" else compression, seed=split, batch_size=_BATCH_SIZE, passes=_PASSES
        )
        return Job(f"shuffled:{split}", trial)

    names = [(c, name) for c, rivals in RIVALS.items() for name in ("pss", *rivals)]
    results.run([job(name, c, split) for split in splits for c, name in names], workers, "splits")
    held_out = {(c, name): [_held_out(results.of(job(name, c, split))) for split in splits] for c, name in names}
    rows = []
    for compression, name in names:
        found, ours = held_out[compression, name], held_out[compression, "pss"]
        mean, half = tables.interval([o - f for o, f in zip(ours, found, strict=True)])
        rows.append({
            "compression": compression, "contestant": name, "mean": statistics.mean(found), "pss_above_by": mean, "half": half,
            "splits": len(found), "pss_above_in": sum(o > f for o, f in zip(ours, found, strict=True)), "held_out": found,
        })  # fmt: skip
    return rows


def _held_out(result: dict) -> float:
    return (result["auroc_val"] + result["auroc_test"]) / 2


def markdown(rows: list[dict]) -> str:
    lines = ["| compression | contestant | held-out AUROC | the array is above by | in |", "|---|---|---|---|---|"]
    for r in rows:
        ours = r["contestant"] == "pss"
        above = "-" if ours else f"{r['pss_above_by']:+.4f} ±{r['half']:.4f}"
        wins = "-" if ours else f"{r['pss_above_in']} of {r['splits']}"
        lines.append(f"| {r['compression']:g}x | {r['contestant']} | {r['mean']:.4f} | {above} | {wins} |")
    return "\n".join(lines)
