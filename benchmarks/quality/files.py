"""`examples/train_criteo.py`, nothing tuned, on files of other kinds: the array against row hashing and narrow tables.

A Criteo file as it is, and what is made of it by simple rules: real labels, other tables. Generated rows of several skews. And files
of another generator, on which nothing was tuned but the layouts of few bytes and of few examples (docs/research/2026-11-27-other-files.md says on which).
"""

import gzip
import logging
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.quality import dense_rows, other_rows
from benchmarks.quality.click_data import CRITEO_ROWS
from benchmarks.quality.dense_rows import DenseRows, Ratings, Usage
from benchmarks.quality.other_rows import OtherRows
from benchmarks.quality.script_run import each, results_of
from torchrec_pss.datasets.rows import NUM_DENSE
from torchrec_pss.whole_file import write_text

logger: logging.Logger = logging.getLogger(__name__)

RIVALS = {10: ("hash", "narrow"), 100: ("hash",)}  # by compression; narrow tables do not fit 100x
_COLUMNS_KEPT = {2, 3, 8, 11, 13, 20}  # of 26, tables of many rows and of few
_FIRST_TOKEN = 1 + NUM_DENSE

Row = list[str]


def _modulo(rows: int) -> Callable[[Row], Row]:
    def change(row: Row) -> Row:
        return row[:_FIRST_TOKEN] + [format(int(t, 16) % rows, "x") if t else "" for t in row[_FIRST_TOKEN:]]

    return change


def _six_columns(row: Row) -> Row:
    return row[:_FIRST_TOKEN] + [t if i in _COLUMNS_KEPT else "" for i, t in enumerate(row[_FIRST_TOKEN:])]


def _no_numbers(row: Row) -> Row:
    return row[:1] + [""] * NUM_DENSE + row[_FIRST_TOKEN:]


@dataclass(frozen=True)
class Kind:
    """A file to make of the Criteo file or by another generator, or flags that generate rows.

    Attributes:
        change: of each row of the Criteo file.
        limit: rows of it to keep.
        rows: of another generator's file, or of a dense log's.
        flags: of the script, where it generates rows itself.
        seeds: of the script.
    """

    change: Callable[[Row], Row] | None = None
    limit: int | None = None
    rows: OtherRows | DenseRows | None = None
    flags: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1)


def _generated(skew: float) -> Kind:
    flags = ("--synthetic_rows", "100000", "--synthetic_scale", "0.01", "--synthetic_skew", str(skew))
    return Kind(flags=flags, seeds=(0,))


def _dense(rows: DenseRows) -> Kind:
    return Kind(rows=rows, seeds=(0,))


def _other(num_rows: int, num_ids: tuple[int, int], skew: tuple[float, float], seed: int, **more: Any) -> Kind:
    return Kind(rows=OtherRows(num_rows, num_ids, skew, seed=seed, **more), seeds=(0,))


KINDS = {
    "Criteo, 80,000 rows": Kind(list),
    "its first 20,000 rows": Kind(list, limit=20_000),
    "six of its 26 columns": Kind(_six_columns),
    "without its numbers": Kind(_no_numbers),
    "its tokens modulo 1,000": Kind(_modulo(1000)),
    "its tokens modulo 50": Kind(_modulo(50)),
    "generated, skew 1.05": _generated(1.05),
    "generated, skew 1.4": _generated(1.4),
    "other generator, 120,000 rows": _other(120_000, (3, 60_000), (0.7, 1.5), seed=201),
    "other generator, 60,000 rows": _other(60_000, (10, 60_000), (0.9, 1.3), seed=205),
    "other generator, clusters": _other(60_000, (10, 20_000), (0.9, 1.3), clusters=True, seed=202),
    "other generator, other clusters": _other(60_000, (10, 20_000), (0.9, 1.3), clusters=True, seed=204),
    "other generator, 30,000 rows": _other(30_000, (3, 5000), (0.8, 1.4), seed=203),
    "other generator, main effects alone": _other(100_000, (4, 20_000), (1.0, 1.1), pairs=0, seed=206),
    "dense, ratings": _dense(Ratings(800_000, seed=1)),
    "dense, usage": _dense(Usage(288_000, seed=2)),
    # Drawn once, when nothing was changed any more.
    "unseen, 80,000 rows": _other(80_000, (3, 40_000), (0.8, 1.4), seed=501),
    "unseen, 150,000 rows": _other(150_000, (10, 100_000), (0.9, 1.2), seed=502),
    "unseen, clusters": _other(60_000, (10, 20_000), (0.9, 1.3), clusters=True, seed=503),
    "unseen, main effects alone": _other(100_000, (4, 30_000), (0.8, 1.3), pairs=0, seed=504),
    "unseen, 40,000 rows": _other(40_000, (5, 10_000), (0.8, 1.4), seed=505),
    "unseen, other clusters": _other(100_000, (5, 50_000), (0.7, 1.4), clusters=True, seed=506),
}


def study(out: Path, workers: int, quick: bool, bits: int = 32, only: str = "") -> list[dict]:
    """A row for each kind, compression and rival: means over seeds of ``auroc_held_out``, and what the array is above by, seed by
    seed. All have elements of so many ``bits``; ``only``: kinds whose names have this in them.

    Raises:
        ValueError: the script refused the array.
        subprocess.CalledProcessError: the script failed; its log is in its folder.
    """
    names = list(KINDS)[1:2] if quick else [name for name in KINDS if only in name]
    seeds = {name: KINDS[name].seeds[: 1 if quick else None] for name in names}
    flags = {name: _flags_of(name, out / "files") for name in names}
    runs = [
        (name, compression, embedding, seed)
        for name in names
        for seed in seeds[name]
        for compression, rivals in RIVALS.items()
        for embedding in ("pss", *rivals)
    ]

    def run(name: str, compression: int, embedding: str, seed: int) -> float | str:
        """The AUROC, or why there is none."""
        own = ("--embedding", embedding, "--compression", str(compression), "--seed", str(seed))
        own += ("--bits", str(bits)) if bits < 32 else ()
        of_bits = f"_{bits}_bits" if bits < 32 else ""
        folder = out / "files" / folder_name(name) / f"{embedding}_{compression}x_{seed}{of_bits}"
        try:
            found = results_of(folder, (*flags[name], *own, "--cache_dir", str(folder / "cache")))["auroc_held_out"]
        except ValueError as error:
            if embedding == "pss":
                raise
            found = str(error)
        logger.info("%s, %sx, %s, seed %s: %s", name, compression, embedding, seed, found)
        return found

    found = each(run, runs, workers, "files")
    return [
        row(name, c, rival, [(found[name, c, "pss", s], found[name, c, rival, s]) for s in seeds[name]])
        for name in names
        for c, rivals in RIVALS.items()
        for rival in rivals
    ]


def row(name: str, compression: int, rival: str, pairs: list[tuple[float, float | str]]) -> dict:
    """Of runs of the array and of a rival (or why there is none), a pair a seed."""
    shown = {"data": name, "compression": compression, "rival": rival, "pss": [ours for ours, _ in pairs]}
    refused = [theirs for _, theirs in pairs if isinstance(theirs, str)]
    if refused:
        return shown | {"impossible": refused[0]}
    above = [ours - theirs for ours, theirs in pairs]
    return shown | {"of_rival": [theirs for _, theirs in pairs], "pss_above_by": above}


def markdown(rows: list[dict]) -> str:
    lines = ["| data | compression | pss | rival | held-out AUROC | pss is above by |", "|---" * 6 + "|"]
    for r in rows:
        cells = [r["data"], f"{r['compression']}x", _mean(r["pss"]), r["rival"]]
        if "impossible" in r:
            lines.append("| " + " | ".join([*cells, "does not fit", "-"]) + " |")
            continue
        above = ", ".join(f"{d:+.4f}" for d in r["pss_above_by"])
        lines.append("| " + " | ".join([*cells, _mean(r["of_rival"]), above]) + " |")
    return "\n".join(lines) + "\n"


def _mean(values: list[float]) -> str:
    return f"{statistics.fmean(values):.4f}".lstrip("0")


def _flags_of(name: str, folder: Path) -> tuple[str, ...]:
    kind = KINDS[name]
    return kind.flags or ("--data_path", str(make(name, folder)))


def make(name: str, folder: Path) -> Path:
    """Of a kind that is a file, the file; once made, it is left."""
    kind = KINDS[name]
    path = folder / folder_name(name) / "rows.tsv"
    if path.exists():
        return path
    if kind.rows is not None:
        module = other_rows if isinstance(kind.rows, OtherRows) else dense_rows
        module.write(kind.rows, path)
    else:
        with gzip.open(CRITEO_ROWS, "rt") as stream:
            rows = (kind.change(line.rstrip("\n").split("\t")) for line in islice(stream, kind.limit))
            write_text(path, "".join("\t".join(row) + "\n" for row in rows))
    return path


def folder_name(name: str) -> str:
    return name.replace(",", "").replace(" ", "_")
