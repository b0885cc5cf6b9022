"""A run's output folder: log, results, curves, checkpoint; what is written is written aside and renamed, and through no link."""

import fcntl
import io
import logging
import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from torchrec_pss.distributed.together import on_first_rank
from torchrec_pss.export import saved_model
from torchrec_pss.regular_file import open_regular, refuse_link
from torchrec_pss.whole_file import write_bytes
from torchrec_pss.whole_folder import beside

logger: logging.Logger = logging.getLogger(__name__)

_LOCK_SECONDS = 5
_LOCK, _LOG, _TENSORBOARD, _CHECKPOINT = ".lock", "log.txt", "tensorboard", "checkpoint"
_FILES = (_LOCK, _LOG, "results.json", "curves.png")


class FolderInUseError(ValueError):
    """A run that has not ended writes to the same folder."""


def prepare(path: str | Path) -> Path:
    """Makes the folder and checks that it can be written, and so can what is in it already. It may itself be a link; what a run writes
    in it may not.

    Raises:
        ValueError: it cannot be written or read; a file is a folder, a folder is a file, or one is a link; names it.
    """
    path = Path(path)
    probe = path / f".probe-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        open_regular(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL).close()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"output folder {path} is not writable: {error}") from error
    for name in _FILES:
        _check_place(path / name, is_folder=False)
    tensorboard, checkpoint = path / _TENSORBOARD, path / _CHECKPOINT
    for place in (tensorboard, path / saved_model.FOLDER, checkpoint, *beside(checkpoint)):
        _check_place(place, is_folder=True)
    for events in tensorboard.glob("*"):
        refuse_link(events)
    return path


def _check_place(place: Path, is_folder: bool) -> None:
    refuse_link(place)
    if not place.exists():
        return
    if place.is_dir() != is_folder:
        raise ValueError(f"{place} is {'no' if is_folder else 'a'} folder")
    if not os.access(place, os.R_OK | os.W_OK | (os.X_OK if is_folder else 0)):
        raise ValueError(f"{place} cannot be read and written: permission denied")


def lock(path: Path) -> BinaryIO:
    """Keeps other runs out of the folder for as long as the file that it returns is open; what a killed launcher left running is one.

    Raises:
        FolderInUseError: there is such a run, also after some seconds.
        ValueError: the lock is a link, or no regular file, or the file system has no locks.
    """
    file = open_regular(path / _LOCK, os.O_RDWR | os.O_CREAT)
    for _ in range(_LOCK_SECONDS * 10):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.1)
            continue
        except OSError as error:
            raise ValueError(f"{path / _LOCK} cannot be locked: {error.strerror}") from error
        file.truncate(0)
        file.write(str(os.getpid()).encode())
        file.flush()
        return file
    owner = file.read(20).decode(errors="replace")
    raise FolderInUseError(f"another run, process {owner or 'unknown'}, is writing to {path}")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Within it, rank 0 has the `lock`. Collective; raises on every rank what `lock` raises."""
    held: list[BinaryIO] = []
    on_first_rank(lambda: held.append(lock(path)))
    try:
        yield
    finally:
        for file in held:
            file.close()


def set_up_logging(path: Path, rank: int) -> None:
    """Rank 0 logs to the console and to ``log.txt``; the others log warnings only."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    if rank == 0:
        handlers.append(_LogFile(path / _LOG))
    level = logging.INFO if rank == 0 else logging.WARNING
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", handlers=handlers, force=True
    )
    # The planner warns of a topology that was not made by its factory, which older TorchRec lacks.
    logging.getLogger("torchrec.distributed.planner").setLevel(logging.ERROR)
    for name in (
        "__main__",
        "torchrec_pss",
        "criteo_data",
        "data_checks",
        "criteo_model",
        "criteo_trainer",
        "run_folder",
    ):
        logging.getLogger(name).setLevel(level)


class _LogFile(logging.FileHandler):
    """Ends the run where the disk does not take the log; `logging` itself would print a traceback a line, and go on."""

    def _open(self) -> TextIO:
        file = open_regular(Path(self.baseFilename), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        return io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace")

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        logging.getLogger().removeHandler(self)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, self.baseFilename) from error
        super().handleError(record)


def plot_curves(path: Path, title: str, history: list[dict], bayes: float | None) -> None:
    """Validation AUROC and training loss over steps, as a PNG.

    Raises:
        OSError: it cannot be written.
        ValueError: matplotlib is missing.
    """
    try:
        from torchrec_pss.report import plots
    except ImportError as error:
        raise ValueError(f"{path} needs matplotlib: pip install 'torchrec_pss[examples]'") from error

    write_bytes(path, plots.curves({title: {"history": history, "auroc_bayes": bayes}}))
