"""A run's output folder: log, results, curves, checkpoint; what is written is written aside and renamed."""

import fcntl
import logging
import os
import shutil
import sys
import time
from pathlib import Path
from typing import IO

from torchrec_pss.whole_file import write_bytes

logger: logging.Logger = logging.getLogger(__name__)

_LOCK_SECONDS = 5


class FolderInUseError(RuntimeError):
    """A run that has not ended writes to the same folder."""


def prepare(path: str | Path) -> Path:
    """Makes the folder and checks that it can be written; ends the program with status 2 where not."""
    path = Path(path)
    probe = path / f".probe-{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        print(f"error: output folder {path} is not writable: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    return path


def lock(path: Path) -> IO:
    """Keeps other runs out of the folder for as long as the file that it returns is open; what a killed launcher left running is one.

    Raises:
        FolderInUseError: there is such a run, also after some seconds.
    """
    file = open(path / ".lock", "a+")  # noqa: SIM115
    for _ in range(_LOCK_SECONDS * 10):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.1)
            continue
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        return file
    file.seek(0)
    raise FolderInUseError(f"another run, process {file.read() or 'unknown'}, is writing to {path}")


def set_up_logging(path: Path, rank: int) -> None:
    """Rank 0 logs to the console and to ``log.txt``; the others log warnings only."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    if rank == 0:
        handlers.append(logging.FileHandler(path / "log.txt"))
    level = logging.INFO if rank == 0 else logging.WARNING
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", handlers=handlers, force=True
    )
    # The planner warns of a topology that was not made by its factory, which older TorchRec lacks.
    logging.getLogger("torchrec.distributed.planner").setLevel(logging.ERROR)
    for name in ("__main__", "torchrec_pss", "criteo_data", "criteo_model", "criteo_trainer", "run_folder"):
        logging.getLogger(name).setLevel(level)


def replace_folder(new: Path, final: Path) -> None:
    """Puts ``new`` in ``final``'s place; at every moment one of the two, or ``<final>.old``, is whole."""
    old = final.with_name(f"{final.name}.old")
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
    new.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def plot_curves(path: Path, title: str, history: list[dict], bayes: float | None) -> None:
    """Validation AUROC and training loss over steps, as a PNG."""
    from torchrec_pss.report import plots

    write_bytes(path, plots.curves({title: {"history": history, "auroc_bayes": bayes}}))
