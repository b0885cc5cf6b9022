"""The headline study: `examples/train_criteo.py` itself, on generated rows at Kaggle's and at MLPerf's shape.

Kaggle's 26 tables (33.8M rows, D = 16) as full tables, 1000 and 10,000 times smaller, the same 12M rows. MLPerf's
(204M rows, D = 128, 97 GiB as full tables, which do not fit here) with an array of 10 MB; to see the trend, beside full
tables at row counts scaled down until they fit.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from benchmarks.quality import tables
from benchmarks.quality.script_run import results_of

logger: logging.Logger = logging.getLogger(__name__)

KAGGLE_ROWS, MLPERF_ROWS = 12_000_000, 2_000_000  # to train on
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


@dataclass(frozen=True)
class Run:
    """One call of the script.

    Attributes:
        name: of its folder and its line.
        shape: "kaggle" or "mlperf".
        flags: of the script.
    """

    name: str
    shape: str
    flags: tuple[str, ...]


def runs(quick: bool) -> list[Run]:
    found = [
        Run("kaggle full", "kaggle", ("--embedding", "full")),
        Run("kaggle pss 1000x", "kaggle", ("--compression", "1000")),
        Run("kaggle pss 10000x", "kaggle", ("--compression", "10000")),
    ]
    for scale in ("0.001", "0.01"):
        at = (*_MLPERF, "--synthetic_scale", scale)
        found.append(Run(f"mlperf x {scale} full", "mlperf", (*at, "--embedding", "full")))
        found.append(Run(f"mlperf x {scale} pss 10 MB", "mlperf", (*at, *_TEN_MB)))
    found.append(Run("mlperf x 1 pss 10 MB", "mlperf", (*_MLPERF, *_TEN_MB)))
    rows = {shape: 40_000 if quick else n for shape, n in (("kaggle", KAGGLE_ROWS), ("mlperf", MLPERF_ROWS))}
    return [
        Run(r.name, r.shape, (*r.flags, *_ONE_PASS, "--synthetic_rows", str(rows[r.shape]), *_often(rows[r.shape])))
        for r in found
    ]


def _often(rows: int) -> tuple[str, str]:
    """Some ten validations a run."""
    return "--validation_freq_within_epoch", str(max(rows // 4096 // 10, 20))


def study(out: Path, processes: int, quick: bool) -> list[dict]:
    """Runs what has no results yet; a line a run.

    Raises:
        subprocess.CalledProcessError: the script failed; its log is in its folder.
    """
    lines, curves = [], {}
    for run in runs(quick):
        logger.info("%s", run.name)
        found = results_of(out / "headline" / run.name.replace(" ", "_"), run.flags, processes)
        curve = [(h["step"], h["auroc_val"]) for h in found["history"] if "auroc_val" in h]
        curves.setdefault(run.shape, {})[run.name] = curve
        bayes = found["auroc_bayes"]
        lines.append({
            "name": run.name, "flags": run.flags, "bytes": found["embedding_bytes"],
            "full_bytes": found["full_embedding_bytes"], "compression": found["compression"], "bayes": bayes,
            "auroc_test": found["auroc_test"], "share_of_bayes": (found["auroc_test"] - 0.5) / (bayes - 0.5),
            "steps": found["steps"], "curve": curve,
        })  # fmt: skip
    for shape, of_shape in curves.items():
        tables.plot_curves(
            out / f"headline_{shape}.png", of_shape, f"generated rows, {shape}'s shape", "validation AUROC"
        )
    return lines
