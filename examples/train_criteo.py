"""Trains a DLRM whose 26 embedding tables live in one small shared array, through TorchRec.

    torchx run dist.ddp -- train_criteo.py --data_path /data/criteo/train.txt --compression 1000
    torchx run -s local_cwd dist.ddp -j 1x2 --script examples/train_criteo.py -- --output_dir runs/demo

Without --data_path it trains on generated rows whose best possible AUROC is known. Everything lands in --output_dir.
"""

import logging
import os
from datetime import timedelta
from typing import NoReturn

import criteo_checkpoint
import criteo_flags
import process_group
import run_folder
import torch
import torch.distributed as dist
from click_metrics import OneClassError
from criteo_trainer import DivergedError, Trainer
from torchrec.distributed.planner.types import PlannerError

from torchrec_pss.datasets.errors import DataError
from torchrec_pss.distributed.replica_check import ReplicaMismatchError
from torchrec_pss.whole_file import write_json

logger: logging.Logger = logging.getLogger("__main__")


def _give_up(error: Exception) -> NoReturn:
    """Ends the program for a reason that lies with flags or data: one line, no traceback."""
    logger.error("error: %s", error)
    raise SystemExit(2) from error


def main(argv: list[str] | None = None) -> None:
    args = criteo_flags.parse(argv)
    folder = run_folder.prepare(args.output_dir)
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    started_anew = process_group.join("nccl" if on_gpu else "gloo", timedelta(seconds=args.collective_timeout_s))
    rank = dist.get_rank()
    run_folder.set_up_logging(folder, rank)
    try:
        lock = run_folder.lock(folder) if rank == 0 else None
        may_go_on = args.auto_resume or started_anew
        goes_on = [args.resume or (may_go_on and criteo_checkpoint.exists(folder / "checkpoint"))]
        dist.broadcast_object_list(goes_on)  # rank 0's view of the file system
        # Read first: the data may take long.
        progress = criteo_checkpoint.read_progress(folder / "checkpoint") if goes_on[0] else None
        trainer = Trainer(args, folder, device)
        if progress is None:
            trainer.data.check_classes(args)
        else:
            trainer.resume(progress)
    except (ValueError, FileNotFoundError, PlannerError, run_folder.FolderInUseError) as error:
        _give_up(error)
    try:
        results = trainer.run()
    except (DataError, OneClassError, DivergedError, ReplicaMismatchError) as error:
        _give_up(error)
    except RuntimeError as error:
        if process_group.has_lost_a_peer(error):
            logger.error(
                "error: another process has died, or has not answered for %g s (--collective_timeout_s), at step %d",
                args.collective_timeout_s, trainer.step,
            )  # fmt: skip
        raise
    if rank == 0:
        bayes = results["auroc_bayes"]
        run_folder.plot_curves(
            folder / "curves.png", f"{args.embedding}, {results['compression']:,.0f}x", results["history"], bayes
        )
        write_json(folder / "results.json", results)
        share = (
            f", {(results['auroc_test'] - 0.5) / (bayes - 0.5):.1%} of the way from 0.5 to Bayes {bayes:.5f} (dense values alone {results['auroc_dense_only']:.5f})"
            if bayes
            else ""
        )
        logger.info("test AUROC %.5f%s; results in %s", results["auroc_test"], share, folder / "results.json")
    dist.barrier()
    dist.destroy_process_group()
    if lock is not None:
        lock.close()


if __name__ == "__main__":
    main()
