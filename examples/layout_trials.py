"""Which layout the array of a dense log has: each candidate is trained for a pass, and the one that validates best goes on."""

import argparse
import copy
import logging
from pathlib import Path

import criteo_data
import criteo_model
import data_checks
import torch
from criteo_trainer import Trainer
from stopwatch import Stopwatch

from torchrec_pss.distributed import NotFiniteError
from torchrec_pss.distributed.together import on_first_rank

logger: logging.Logger = logging.getLogger("__main__")


def trainer_of(
    args: argparse.Namespace, folder: Path, device: torch.device, progress: dict | None, stopwatch: Stopwatch
) -> Trainer:
    """The run's trainer; of a dense log after its first pass, with the layout of `layout_candidates.candidates` whose first pass ended at
    the highest validation AUROC. A run that goes on (``progress``) keeps its layout. Collective.

    Raises:
        OneClassError: see `data_checks.check_classes`; nothing is trained.
    """
    if progress is not None:
        then = progress["config"]
        if args.layout == "auto":
            args.layout = then.get("layout") or "auto"
        if args.vocabulary is None and args.embedding == "pss" and args.data_path:
            args.vocabulary = bool(then.get("vocabulary"))
    data = criteo_data.load(args)
    if progress is None:
        data_checks.check_classes(data, args)
        data_checks.warn_of_columns(data)
    stopwatch.lap("data ready: ids counted, columns looked at")
    if progress is not None or args.layout != "auto" or not args.vocabulary:
        return Trainer(args, folder, device, data, stopwatch)
    names = list(criteo_model.array_candidates(args, criteo_model.tables_of(args, data), data))
    if len(names) == 1:
        return Trainer(args, folder, device, data, stopwatch)
    best, found = None, {}
    for name in names:
        own = copy.copy(args)
        own.layout = name
        trainer = Trainer(own, folder, device, data.copied(), stopwatch)
        try:
            auroc = trainer.first_pass()
        except NotFiniteError as error:
            if name == names[-1] and best is None:
                raise
            logger.warning("layout %s is left out: %s", name, error)
            continue
        found[name] = on_first_rank(lambda auroc=auroc: auroc)  # one figure, however each rank rounds
        logger.info("layout %s: validation AUROC %.5f after a pass", name, found[name])
        if best is None or found[name] > found[best.args.layout]:
            best = trainer
    logger.info("layout %s goes on", best.args.layout)
    best.layout_trials = found
    return best
