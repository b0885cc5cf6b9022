"""train_criteo.py's checkpoints: `torch.distributed.checkpoint`, and a JSON of how far the run had got."""

import json
import shutil
from pathlib import Path

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from run_folder import replace_folder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.keyed import KeyedOptimizer

from torchrec_pss.distributed.safe_checkpoint import load_checkpoint
from torchrec_pss.modules.array_layout import describe_difference
from torchrec_pss.optim import BestPass, WeightAverage
from torchrec_pss.whole_file import write_json

_PROGRESS = "progress.json"


def _parts(
    model: DistributedModelParallel, optimizer: KeyedOptimizer, average: WeightAverage | None, best: BestPass | None
) -> dict:
    """What a checkpoint holds the state of, by its name there."""
    parts = {"model": model, "optimizer": optimizer, "average": average, "best_pass": best}
    return {name: part for name, part in parts.items() if part is not None}


def _state(parts: dict) -> dict:
    return {name: part.state_dict() for name, part in parts.items()}


def save(
    folder: Path,
    model: DistributedModelParallel,
    optimizer: KeyedOptimizer,
    average: WeightAverage | None,
    best: BestPass | None,
    progress: dict,
) -> None:
    """Saves aside, then renames. Collective; ``progress`` is rank 0's."""
    aside = folder.with_name(f"{folder.name}.new")
    if dist.get_rank() == 0:
        shutil.rmtree(aside, ignore_errors=True)
    dist.barrier()
    dcp.save(_state(_parts(model, optimizer, average, best)), checkpoint_id=aside)
    if dist.get_rank() == 0:
        write_json(aside / _PROGRESS, progress)
        replace_folder(aside, folder)
    dist.barrier()


def exists(folder: Path) -> bool:
    """Whether there is one to go on from."""
    return any((place / _PROGRESS).exists() for place in _places(folder))


def _places(folder: Path) -> tuple[Path, Path]:
    """Where a checkpoint is, or, after an interrupted rename, the one before."""
    return folder, folder.with_name(f"{folder.name}.old")


def read_progress(folder: Path) -> dict:
    """The JSON of a checkpoint, or of the one that an interrupted rename left behind.

    Raises:
        FileNotFoundError: there is none.
    """
    for place in _places(folder):
        if (place / _PROGRESS).exists():
            return json.loads((place / _PROGRESS).read_text()) | {"folder": str(place)}
    raise FileNotFoundError(f"--resume: no checkpoint in {folder}")


def check_same_run(progress: dict, config: dict, layout: dict | None) -> None:
    """Refuses to go on from a checkpoint of another layout or another model.

    Raises:
        ValueError: naming what differs.
    """
    if layout is not None and progress["layout"] is not None:
        difference = describe_difference(progress["layout"], layout)
        if difference:
            raise ValueError(f"--resume: the checkpoint has another layout of the shared array: {difference}")
    for flag, value in config.items():
        if progress["config"].get(flag) != value:
            raise ValueError(f"--resume: --{flag} was {progress['config'].get(flag)} and is now {value}")


def load(
    folder: str,
    model: DistributedModelParallel,
    optimizer: KeyedOptimizer,
    average: WeightAverage | None,
    best: BestPass | None,
) -> None:
    """Fills model, optimizer, average and the best pass's. Collective.

    Raises:
        ValueError: the checkpoint is damaged, or has what nobody here wrote.
    """
    optimizer.init_state()
    parts = _parts(model, optimizer, average, best)
    state = _state(parts)
    load_checkpoint(state, folder)
    for name, part in parts.items():
        part.load_state_dict(state[name])
