"""Every contestant at equal stored bytes in 4 bits an element, full tables in fp32 beside: the array untuned, the others by the trials that
the main study chose for them. What rivals that are no layout of the array learn has 4 bits, projections too, which have 8 in the array."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.quality import rivals, splits, tables
from benchmarks.quality.click_trial import ClickTrial
from benchmarks.quality.jobs import Job, Results, Trial
from benchmarks.quality.pair_trial import PairTrial
from benchmarks.quality.sequence_trial import SequenceTrial

BITS = 4
_SHARED = Path(__file__).parents[3] / "shared" / "data"
_SPLITS = 12
_SEEDS = 3
_PASSES = 2  # over click logs, the embeddings begun anew before the second
_ALL = ("pss", "full", "narrow", "row hashing", "PSS plain", "ROBE", "CAFE", "CCE", "double hashing", "mixed dimensions", "QR", "tensor train")  # fmt: skip


@dataclass(frozen=True)
class Set:
    """Data, all of whose runs are means of.

    Attributes:
        tuned_as: the main study's name of the data by which rivals were tuned.
        model: of the main study.
        data: a job's data by its seed.
        compressions: of full tables' bytes.
        batch_size: of click logs, of which there are two passes.
    """

    tuned_as: str
    model: str
    data: Sequence[str]
    compressions: Sequence[int]
    batch_size: int | None = None


def _criteo(file: str, model: str) -> Set:
    data = [f"shuffled:{split}:{_SHARED / file}" for split in range(_SPLITS)]
    return Set("criteo", model, data, (10, 100, 1000), 128)


def _generated(name: str, model: str, compressions: Sequence[int]) -> Set:
    return Set(name, model, [name] * _SEEDS, compressions, 256)


SETS = {
    "Criteo, 80,000 rows": _criteo("criteo_80k.tsv.gz", "dlrm"),
    "Criteo, 70,036 rows": _criteo("criteo_70k_mod10000.tsv.gz", "dlrm"),
    "Criteo, 80,000 rows, DCN": _criteo("criteo_80k.tsv.gz", "dcn"),
    "generated, skew 1.1": _generated("generated:200000:0.02:1.1", "dlrm", (10, 100, 1000, 10_000)),
    "generated, skew 1.4": _generated("generated:200000:0.02:1.4", "dlrm", (10, 100, 1000)),
    "generated, skew 1.1, DCN": _generated("generated:200000:0.02:1.1", "dcn", (10, 100, 1000, 10_000)),
    "Gowalla, two-tower": Set("gowalla", "two-tower", ["gowalla"] * _SEEDS, (10, 100, 1000)),
    "Gowalla, sequence": Set("gowalla", "sequence", ["gowalla"] * _SEEDS, (10, 100, 1000)),
}  # fmt: skip


def study(
    results: Results,
    workers: int,
    quick: bool,
    only: str,
    chosen_in: Path,
    contestants: Sequence[str],
    seeds: int,
    least: int = 0,
) -> list[dict]:
    """A row for each set and compression: of every contestant the mean held-out AUROC (validation and test rows), and what the array is
    above it by, seed by seed or split by split, with its 95 % interval. ``only``: a set, or those whose names have this in them; ``contestants``: those
    besides the array, none for all; ``seeds``: or splits, so many at most; ``least``: compressions from that
    on, for lower ones take longest."""
    chosen = {(r["data"], r["model"], r["compression"]): r["contestants"] for r in json.loads(chosen_in.read_text())}
    rows = []
    for name, of in SETS.items():
        if name != only and (only in SETS or only not in name):
            continue
        compressions = [c for c in of.compressions if c >= least]
        names = [n for n in _ALL if not contestants or n == "pss" or n in contestants]
        number = 2 if quick else min(seeds, len(of.data))
        jobs = {
            (compression, n): [
                Job(data, _trial(of, n, compression, seed, chosen)) for seed, data in enumerate(of.data[:number])
            ]
            for compression in compressions
            for n in names
        }
        for compression in sorted(compressions, reverse=True):  # the quickest first
            runs = [j for (c, _), of_one in jobs.items() if c == compression for j in of_one]
            results.run(runs, workers, f"{name}, {compression}x")
        rows += [
            {"data": name, "compression": c, **_compared({n: [results.of(j) for j in jobs[c, n]] for n in names})}
            for c in compressions
        ]
    return rows


def _trial(of: Set, name: str, compression: int, seed: int, chosen: dict) -> Trial:
    number = 0 if name == "pss" else _chosen(of, name, compression, chosen)
    compression = rivals.FULL if name == "full" else float(compression)
    common = {"trial": number, "seed": seed, "bits": 32 if name == "full" else BITS}
    if of.model == "two-tower":
        return PairTrial(name, compression, **common)
    if of.model == "sequence":
        return SequenceTrial(name, compression, **common)
    trial = ClickTrial(name, compression, model=of.model, batch_size=of.batch_size, passes=_PASSES)
    return replace(trial, **common)


def _chosen(of: Set, name: str, compression: int, chosen: dict) -> int:
    """The main study's trial at that compression; of a contestant that fits there in few bits alone, at the next lower one."""
    tried = {
        c: found[name].get("trial")
        for (data, model, c), found in chosen.items()
        if (data, model) == (of.tuned_as, of.model)
    }
    return next((tried[c] for c in sorted(tried, reverse=True) if c <= compression and tried[c] is not None), 0)


def _compared(found: dict[str, list[dict]]) -> dict:
    held_out = {
        name: [splits.held_out(r) for r in runs] for name, runs in found.items() if all("auroc_val" in r for r in runs)
    }
    compared = {}
    for name, theirs in held_out.items():
        compared[name] = {"mean": statistics.mean(theirs), "held_out": theirs, "bytes": found[name][0]["bytes"]}
        if name != "pss":
            above = [o - t for o, t in zip(held_out["pss"], theirs, strict=True)]
            mean, half = tables.interval(above)
            compared[name] |= {"pss_above_by": mean, "half": half, "pss_above_in": sum(a > 0 for a in above)}
    refused = {name: [r["impossible"] for r in runs if "impossible" in r] for name, runs in found.items()}
    impossible = {name: reasons[0] for name, reasons in refused.items() if reasons}
    return {"contestants": compared, "impossible": impossible}
