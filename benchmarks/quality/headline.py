"""The headline study: `examples/train_criteo.py` itself, on generated rows at Kaggle's and at MLPerf's shape.

Kaggle's 26 tables (33.8M rows, D = 16) as full tables, by the array's recipe and by torchrec_dlrm's, and 1000 and 10,000 times smaller, in
32 and in 4 bits an element, the same 12M rows; in 4 bits 10,000x over three times as many, too, and the same layouts read in fp32. MLPerf's
(204M rows, D = 128, 97 GiB as full tables, which do not fit here) with an array of 10 MB; to see the trend, beside full
tables at row counts scaled down until they fit.
"""

import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.quality import tables
from benchmarks.quality.script_run import results_of

logger: logging.Logger = logging.getLogger(__name__)

KAGGLE_ROWS, MLPERF_ROWS = 12_000_000, 2_000_000  # to train on
_UNQUANTIZED = Path(__file__).parent / "unquantized.py"
_MLPERF = (
    "--dataset_name",
    "criteo_1t",
    "--embedding_dim",
    "128",
    "--dense_arch_layer_sizes",
    "64,128",
    "--batch_size",
    "1024",
)
_ONE_PASS = ("--epochs", "1")  # as full tables, whatever the rows
_TEN_MB = ("--array_bytes", "10000000")
_SEEDS = {"kaggle": (0, 1, 2), "mlperf": (0,)}  # of the rows and what is behind them, and of the model


@dataclass(frozen=True)
class Run:
    """One call of the script.

    Attributes:
        name: of its line, the same for all seeds.
        shape: "kaggle" or "mlperf".
        flags: of the script.
        full: the name of the run of full tables on the same rows, if there is one.
        times: the shape's rows are trained on, of which there are always others.
        seed: the script's.
        script: `train_criteo.py`, if none is said.
    """

    name: str
    shape: str
    flags: tuple[str, ...]
    full: str | None = None
    times: int = 1
    seed: int = 0
    script: Path | None = None

    @property
    def folder(self) -> str:
        return re.sub(r"\W+", "_", self.name) + (f"_seed_{self.seed}" if self.seed else "")


def runs(quick: bool) -> list[Run]:
    full = ("--embedding", "full")
    found = [
        Run("kaggle full", "kaggle", full),
        Run("kaggle full, torchrec_dlrm's recipe", "kaggle", (*full, "--recipe", "torchrec_dlrm"), "kaggle full"),
    ]
    for compression in ("1000", "10000"):
        for bits in ("32", "4"):
            flags = ("--compression", compression, "--bits", bits)
            found.append(Run(f"kaggle pss {compression}x {bits} bits", "kaggle", flags, "kaggle full"))
        name = f"kaggle pss {compression}x 4 bits"
        found.append(Run(f"{name} read in fp32", "kaggle", flags, "kaggle full", script=_UNQUANTIZED))
    validated = (*flags, "--limit_val_batches", str(KAGGLE_ROWS // 10 // 4096 + 1))  # as many rows as of the others
    found.append(Run(f"{name}, 3 x the rows", "kaggle", validated, "kaggle full", times=3))
    for scale in ("0.001", "0.01"):
        at = (*_MLPERF, "--synthetic_scale", scale)
        full = f"mlperf x {scale} full"
        found.append(Run(full, "mlperf", (*at, "--embedding", "full")))
        found.append(Run(f"mlperf x {scale} pss 10 MB", "mlperf", (*at, *_TEN_MB), full))
    found.append(Run("mlperf x 1 pss 10 MB", "mlperf", (*_MLPERF, *_TEN_MB)))
    rows = {shape: 40_000 if quick else n for shape, n in (("kaggle", KAGGLE_ROWS), ("mlperf", MLPERF_ROWS))}
    return [
        replace(r, seed=seed, flags=(*r.flags, *_ONE_PASS, *_rows(r.times * rows[r.shape]), "--seed", str(seed)))
        for r in found
        for seed in (_SEEDS[r.shape][:1] if quick else _SEEDS[r.shape])
    ]


def _rows(rows: int) -> tuple[str, ...]:
    """So many, with some ten validations."""
    return "--synthetic_rows", str(rows), "--validation_freq_within_epoch", str(max(rows // 4096 // 10, 20))


def study(out: Path, processes: int, quick: bool, only: str = "", seeds: int = 3) -> list[dict]:
    """Runs what has no results yet; a line a run. ``only``: those whose names have this in them; ``seeds``: so many of the first.

    Raises:
        subprocess.CalledProcessError: the script failed; its log is in its folder.
    """
    lines, curves = [], {}
    for run in [r for r in runs(quick) if only in r.name and r.seed < seeds]:
        logger.info("%s, seed %d", run.name, run.seed)
        found = results_of(out / "headline" / run.folder, run.flags, processes, run.script)
        curve = [(h["step"], h["auroc_val"]) for h in found["history"] if "auroc_val" in h]
        if run.seed == 0:
            curves.setdefault(run.shape, {})[run.name] = curve
        bayes = found["auroc_bayes"]
        lines.append({
            "name": run.name, "full": run.full, "seed": run.seed, "flags": run.flags, "bytes": found["embedding_bytes"],
            "full_bytes": found["full_embedding_bytes"], "compression": found["compression"], "bayes": bayes,
            "auroc_test": found["auroc_test"], "share_of_bayes": (found["auroc_test"] - 0.5) / (bayes - 0.5),
            "steps": found["steps"], "curve": curve,
        })  # fmt: skip
    for shape, of_shape in curves.items():
        tables.plot_curves(
            out / f"headline_{shape}.png", of_shape, f"generated rows, {shape}'s shape", "validation AUROC"
        )
    return lines
