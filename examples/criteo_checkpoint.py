"""train_criteo.py's checkpoints: `torch.distributed.checkpoint`'s files with checksums, and a JSON of how far the run had got."""

from pathlib import Path

from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.keyed import KeyedOptimizer

from torchrec_pss import json_fields
from torchrec_pss.distributed import NotFiniteError, check_checkpoint, load_checkpoint, require_finite, save_checkpoint
from torchrec_pss.modules.array_layout import describe_difference
from torchrec_pss.optim import BestPass, WeightAverage
from torchrec_pss.whole_file import json_bytes, read_json
from torchrec_pss.whole_folder import whole_folder

_PROGRESS = "progress.json"
_BEFORE = {
    "bits": 32,
    "recipe": "torchrec_dlrm",
    "keep_array": False,
    "vocabulary": False,
}  # what runs did that had no such flags, or said nothing
_check = json_fields.fields(
    step=json_fields.count,
    train_seconds=json_fields.amount,
    rows=json_fields.count,
    history=json_fields.history,
    layout=json_fields.optional(json_fields.mapping),
    config=json_fields.mapping,
)


def state(
    model: DistributedModelParallel, optimizer: KeyedOptimizer, average: WeightAverage | None, best: BestPass | None
) -> dict[str, dict]:
    """What a checkpoint holds, by the names there."""
    return {name: part.state_dict() for name, part in _parts(model, optimizer, average, best).items()}


def _parts(
    model: DistributedModelParallel, optimizer: KeyedOptimizer, average: WeightAverage | None, best: BestPass | None
) -> dict:
    parts = {"model": model, "optimizer": optimizer, "average": average, "best_pass": best}
    return {name: part for name, part in parts.items() if part is not None}


def save(folder: Path, state: dict[str, dict], progress: dict) -> None:
    """Saves aside, then renames. Collective; ``progress`` is rank 0's.

    Raises:
        NotFiniteError, OSError, ValueError: see `save_checkpoint`.
    """
    save_checkpoint(state, folder, files={_PROGRESS: json_bytes(folder / _PROGRESS, progress)})


def exists(folder: Path) -> bool:
    """Whether there is one to go on from, whole or not."""
    return whole_folder(folder).exists()


def read_progress(folder: Path) -> dict:
    """The JSON of a checkpoint, or of the one that an interrupted rename left behind. Collective.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged; names file and field. Or a file of the checkpoint is missing, or has another size.
    """
    folder = whole_folder(folder)
    if not folder.exists():
        raise FileNotFoundError(f"--resume: no checkpoint in {folder}")
    check_checkpoint(folder, files=[_PROGRESS])
    progress = read_json(folder / _PROGRESS)
    try:
        _check(progress, "")
        json_fields.optional(json_fields.count)(progress.get("best_pass"), "best_pass")
        json_fields.optional(json_fields.mapping)(progress.get("layout_trials"), "layout_trials")
        for number, point in enumerate(progress["history"]):
            json_fields.share(point.get("auroc_val", 0.5), f"history[{number}].auroc_val")
            if point["step"] > progress["step"]:
                raise ValueError(f"history[{number}].step is {point['step']}, and step {progress['step']}")
    except ValueError as error:
        raise ValueError(f"--resume: {folder / _PROGRESS}: {error}") from error
    return progress | {"folder": str(folder)}


def progress_file(progress: dict) -> Path:
    """Where `read_progress` had it from."""
    return Path(progress["folder"]) / _PROGRESS


def check_same_run(progress: dict, config: dict, layout: dict | None) -> None:
    """Refuses to go on from a checkpoint of another layout or another model.

    Raises:
        ValueError: naming what differs.
    """
    if layout is not None and progress["layout"] is not None:
        try:
            difference = describe_difference(progress["layout"], layout)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"--resume: {progress_file(progress)}: layout is none: {error!r}") from error
        if difference:
            raise ValueError(
                f"--resume: the checkpoint has another layout of the shared array: {difference} (--layout rules is what auto was before it searched, --no-vocabulary of text what it was before dense logs had their ids numbered)"
            )
    for flag, value in config.items():
        was = progress["config"].get(flag)
        was = _BEFORE.get(flag) if was is None and value is not None else was
        if was != value:
            raise ValueError(f"--resume: --{flag} was {was} and is now {value}")


def load(
    folder: str,
    model: DistributedModelParallel,
    optimizer: KeyedOptimizer,
    average: WeightAverage | None,
    best: BestPass | None,
) -> None:
    """Fills model, optimizer, average and the best pass's. Collective.

    Raises:
        ValueError: the checkpoint is damaged, or has what nobody here wrote, or holds NaN (as early versions saved).
    """
    optimizer.init_state()
    parts = _parts(model, optimizer, average, best)
    saved = state(model, optimizer, average, best)
    load_checkpoint(saved, folder)
    try:
        require_finite(saved)
    except NotFiniteError as error:
        raise ValueError(f"--resume: checkpoint {folder} is of no use: {error}") from error
    for name, part in parts.items():
        part.load_state_dict(saved[name])
