"""Which layout the array of a dense log has: each candidate is trained for a pass, those that validate about as well as the best to
their end, if rows are few, and the best is taken."""

import argparse
import copy
import logging
from pathlib import Path

import criteo_data
import criteo_model
import torch
from criteo_trainer import Trainer

from torchrec_pss.distributed import NotFiniteError
from torchrec_pss.distributed.together import on_first_rank

logger: logging.Logger = logging.getLogger("__main__")

_CLOSE = 0.003  # of validation AUROC after a pass: which of two is the better one later, it does not say
_FEW_ROWS = 2_000_000  # to train on, up to which there is time to see


def trainer_of(args: argparse.Namespace, folder: Path, device: torch.device, progress: dict | None) -> Trainer:
    """The run's trainer; of a dense log after its first pass or all of them, with the layout of `layout_candidates.candidates` that has
    the highest validation AUROC. A run that goes on (``progress``) keeps its layout. Collective.

    Raises:
        OneClassError: see `ClickData.check_classes`; nothing is trained.
    """
    if progress is not None:
        then = progress["config"]
        if args.layout == "auto":
            args.layout = then.get("layout") or "auto"
        if args.vocabulary is None and args.embedding == "pss" and args.data_path:
            args.vocabulary = bool(then.get("vocabulary"))
    data = criteo_data.load(args)
    if progress is None:
        data.check_classes(args)
    if progress is not None or args.layout != "auto" or not args.vocabulary:
        return Trainer(args, folder, device, data)
    names = list(criteo_model.array_candidates(args, criteo_model.tables_of(args, data), data))
    if len(names) == 1:
        return Trainer(args, folder, device, data)
    trainers, found = {}, {}
    for name in names:
        own = copy.copy(args)
        own.layout = name
        trainer = Trainer(own, folder, device, data.copied())
        try:
            _record(found, name, trainer.first_pass(), "a pass")
            trainers[name] = trainer
        except NotFiniteError as error:
            if name == names[-1] and not trainers:
                raise
            logger.warning("layout %s is left out: %s", name, error)
    close = [name for name in trainers if found[name] >= max(found.values()) - _CLOSE]
    if len(close) > 1 and len(data.splits.train) <= _FEW_ROWS and args.target_auroc is None:
        for name in close:
            _record(found, name, trainers[name].all_passes(), "its last")
    chosen = max(close, key=found.__getitem__)
    logger.info("layout %s goes on", chosen)
    trainers[chosen].layout_trials = found
    return trainers[chosen]


def _record(found: dict[str, float], name: str, auroc: float, when: str) -> None:
    found[name] = on_first_rank(lambda: auroc)  # one figure, however each rank rounds
    logger.info("layout %s: validation AUROC %.5f after %s", name, found[name], when)
