"""Which layout the array of a dense log has: each candidate is trained for a pass, and the one that validates best goes on."""

import argparse
import copy
import logging
from pathlib import Path

import criteo_data
import criteo_model
import torch
from criteo_trainer import Trainer

from torchrec_pss.distributed import NotFiniteError

logger: logging.Logger = logging.getLogger("__main__")


def trainer_of(args: argparse.Namespace, folder: Path, device: torch.device, progress: dict | None) -> Trainer:
    """The run's trainer, of a dense log after its first pass: of `layout_candidates.candidates`, the one whose first
    pass ended at the highest validation AUROC. A run that goes on (``progress``) keeps its layout. Collective."""
    if progress is not None and args.layout == "auto":
        args.layout = progress["config"].get("layout") or "auto"
    data = criteo_data.load(args)
    if args.layout != "auto" or not args.vocabulary:
        return Trainer(args, folder, device, data)
    names = list(criteo_model.array_candidates(args, criteo_model.tables_of(args, data), data))
    if len(names) == 1:
        return Trainer(args, folder, device, data)
    best, found = None, {}
    for name in names:
        own = copy.copy(args)
        own.layout = name
        trainer = Trainer(own, folder, device, copy.copy(data))
        try:
            found[name] = trainer.first_pass()
        except NotFiniteError as error:
            if name == names[-1] and best is None:
                raise
            logger.warning("layout %s is left out: %s", name, error)
            continue
        logger.info("layout %s: validation AUROC %.5f after a pass", name, found[name])
        if best is None or found[name] > found[best.args.layout]:
            best = trainer
    logger.info("layout %s goes on", best.args.layout)
    best.layout_trials = found
    return best
