"""The array against its rivals on many random splits of the same rows: differences split by split, nothing tuned."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.quality import files, rivals, tables
from benchmarks.quality.click_trial import ClickTrial
from benchmarks.quality.jobs import Job, Results
from torchrec_pss.optim.recipe import default_batch_size, num_passes

SPLITS = 12
SPLITS_OF_A_KIND = 6
# By compression; row hashing at its first width.
RIVALS = {10.0: ("row hashing", "narrow", "full"), 100.0: ("row hashing",)}
RIVALS_OF_A_KIND = {10.0: (rivals.UNTUNED_ROW_HASHING, "narrow"), 100.0: (rivals.UNTUNED_ROW_HASHING,)}
_ROWS = 80_000

_Rivals = Mapping[float, Sequence[str]]


def study(results: Results, workers: int, quick: bool) -> list[dict]:
    """A row for each compression and rival: mean held-out AUROC (validation and test rows, of which nothing is chosen), and the mean
    difference of the array's, with its 95 % interval and the number of splits in which it is above."""
    data = [f"shuffled:{split}" for split in range(2 if quick else SPLITS)]
    results.run(_jobs(data, RIVALS, _ROWS), workers, "splits")
    return _compared(results, data, RIVALS, _ROWS)


def study_kinds(results: Results, out: Path, workers: int, quick: bool) -> list[dict]:
    """`study`'s rows, with ``data``, of the other kinds of files that `files` makes, in ``out/files``."""
    kinds = {name: kind for name, kind in files.KINDS.items() if kind.change not in (None, list) or kind.limit}
    of_kind = {}
    for name in list(kinds)[: 1 if quick else None]:
        path = files.make(name, out / "files")
        of_kind[name] = [f"shuffled:{split}:{path}" for split in range(2 if quick else SPLITS_OF_A_KIND)]
    jobs = [j for name, data in of_kind.items() for j in _jobs(data, RIVALS_OF_A_KIND, kinds[name].limit or _ROWS)]
    results.run(jobs, workers, "kinds")
    return [
        {"data": name, **row}
        for name, data in of_kind.items()
        for row in _compared(results, data, RIVALS_OF_A_KIND, kinds[name].limit or _ROWS)
    ]


def _job(name: str, compression: float, data: str, num_rows: int) -> Job:
    """With the steps and passes that `train_criteo.py` takes for so many rows (which makes one pass over full tables)."""
    num_train = round(0.8 * num_rows)
    split = int(data.split(":")[1])
    trial = ClickTrial(
        name,
        rivals.FULL if name == "full" else compression,
        seed=split,
        batch_size=default_batch_size(num_train),
        passes=num_passes(num_train),
    )
    return Job(data, trial)


def _contestants(rivals: _Rivals) -> list[tuple[float, str]]:
    return [(c, name) for c, names in rivals.items() for name in ("pss", *names)]


def _jobs(data: Iterable[str], rivals: _Rivals, num_rows: int) -> list[Job]:
    return [_job(name, c, split, num_rows) for split in data for c, name in _contestants(rivals)]


def _compared(results: Results, data: Sequence[str], rivals: _Rivals, num_rows: int) -> list[dict]:
    rows = []
    for compression, name in _contestants(rivals):
        found = [held_out(results.of(_job(name, compression, split, num_rows))) for split in data]
        ours = [held_out(results.of(_job("pss", compression, split, num_rows))) for split in data]
        row = {"compression": compression, "contestant": name}
        refused = [f for f in found if isinstance(f, str)]
        if refused:
            rows.append(row | {"impossible": refused[0]})
            continue
        mean, half = tables.interval([o - f for o, f in zip(ours, found, strict=True)])
        rows.append(row | {
            "mean": statistics.mean(found), "pss_above_by": mean, "half": half,
            "splits": len(found), "pss_above_in": sum(o > f for o, f in zip(ours, found, strict=True)), "held_out": found,
        })  # fmt: skip
    return rows


def held_out(result: dict) -> float | str:
    """AUROC of validation and test rows, or why there is none."""
    return result.get("impossible") or (result["auroc_val"] + result["auroc_test"]) / 2


def markdown(rows: list[dict]) -> str:
    with_data = any("data" in r for r in rows)
    header = [
        *(["data"] if with_data else []),
        "compression",
        "contestant",
        "held-out AUROC",
        "the array is above by",
        "in",
    ]
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for r in rows:
        cells = [*([r["data"]] if with_data else []), f"{r['compression']:g}x", r["contestant"]]
        if "impossible" in r:
            cells += ["does not fit", "-", "-"]
        elif r["contestant"] == "pss":
            cells += [f"{r['mean']:.4f}", "-", "-"]
        else:
            above = f"{r['pss_above_by']:+.4f} ±{r['half']:.4f}"
            cells += [f"{r['mean']:.4f}", above, f"{r['pss_above_in']} of {r['splits']}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
