"""Trains a DLRM whose 26 embedding tables live in one small shared array, through TorchRec.

    torchx run dist.ddp -- train_criteo.py --data_path /data/criteo/train.txt --compression 1000
    torchx run -s local_cwd dist.ddp -j 1x2 --script examples/train_criteo.py -- --output_dir runs/demo

Without --data_path it trains on generated rows whose best possible AUROC is known. Everything lands in --output_dir.
"""

import argparse
import logging
from datetime import timedelta
from pathlib import Path

import _launcher  # noqa: F401
import threads  # noqa: F401  before torch

# isort: split
import criteo_checkpoint
import criteo_flags
import layout_trials
import process_group
import run_folder
import torch
import torch.distributed as dist
from script_end import one_line_errors
from stopwatch import Stopwatch

from torchrec_pss.distributed.together import on_first_rank
from torchrec_pss.export import saved_model
from torchrec_pss.whole_file import write_json

logger: logging.Logger = logging.getLogger("__main__")


def main(argv: list[str] | None = None) -> None:
    stopwatch = Stopwatch()
    args = criteo_flags.parse(argv)
    folder = run_folder.prepare(args.output_dir)
    device = process_group.own_device()
    started_anew = process_group.join(
        "nccl" if device.type == "cuda" else "gloo", timedelta(seconds=args.collective_timeout_s)
    )
    with run_folder.locked(folder):
        run_folder.set_up_logging(folder, dist.get_rank())
        stopwatch.lap(f"processes joined, on {device}")
        run(args, folder, device, started_anew, stopwatch)
    process_group.leave()


def run(args: argparse.Namespace, folder: Path, device: torch.device, started_anew: bool, stopwatch: Stopwatch) -> None:
    """Trains from the beginning, or from where the checkpoint says. Collective."""
    may_go_on, checkpoint = args.auto_resume or started_anew, folder / "checkpoint"
    goes_on = on_first_rank(lambda: args.resume or (may_go_on and criteo_checkpoint.exists(checkpoint)))
    progress = criteo_checkpoint.read_progress(checkpoint) if goes_on else None  # before the data, which may take long
    trainer = layout_trials.trainer_of(args, folder, device, progress, stopwatch)
    if progress is not None:
        trainer.resume(progress)
    if trainer.data.numbering is not None:
        on_first_rank(lambda: trainer.data.numbering.save(folder / "ids.npz"))
    on_first_rank(lambda: saved_model.remove(folder))
    results = trainer.run()
    stopwatch.lap("trained and evaluated")
    on_first_rank(lambda: write_results(folder, results))
    trainer.save_model(results)


def write_results(folder: Path, results: dict) -> None:
    """``results.json``, ``curves.png``, and what they say."""
    bayes, auroc = results["auroc_bayes"], results["auroc_test"]
    write_json(folder / "results.json", results)
    title = f"{results['embedding']}, {results['compression']:,.0f}x"
    run_folder.plot_curves(folder / "curves.png", title, results["history"], bayes)
    share = (
        f", {(auroc - 0.5) / (bayes - 0.5):.1%} of the way from 0.5 to Bayes {bayes:.5f} (dense values alone {results['auroc_dense_only']:.5f})"
        if bayes
        else ""
    )
    interval, grouped = results["auroc_test_half_interval"], results["grouped_auroc_test"]
    logger.info(
        "test log loss %.5f nats, calibration %.4f%s%s", results["logloss_test"], results["calibration_test"],
        "" if interval is None else f", AUROC +- {interval:.5f} (95 %, of these rows)",
        "" if grouped is None else f", AUROC by {results['grouped_by']} {grouped:.5f} ({results['grouped_groups']:,} of both classes, {results['grouped_rows_share']:.1%} of the rows)",
    )  # fmt: skip
    logger.info("test AUROC %.5f%s; results in %s", auroc, share, folder / "results.json")


if __name__ == "__main__":
    with one_line_errors():
        main()
