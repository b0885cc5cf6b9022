"""The folder for what is counted once: writable before anything is counted, and checked where it is read."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torchrec_pss.datasets.file_kinds import regular_file


def check_writable(folder: Path, what: str = "--cache_dir") -> None:
    """Makes the folder, and a file in it that is removed again.

    Raises:
        ValueError: it cannot be written; names it.
    """
    probe = folder / f".probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise ValueError(f"{what} {folder} cannot be written: {error}") from error


@contextmanager
def locked(file: Path, wait: bool) -> Iterator[None]:
    """While no other process of this machine is within, by a lock on a file that is made.

    Raises:
        ValueError: another one is, and nobody ``wait``s; names the folder.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise ValueError(f"{file.parent}: another process is at work there") from error
        yield


def is_cached(file: Path) -> bool:
    """Whether the folder has a file of this name, which can be read.

    Raises:
        ValueError: it is there and cannot be read; names it.
    """
    try:
        regular_file(file, "the cache")
        with open(file, "rb"):
            return True
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise ValueError(f"--cache_dir {file.parent}: {file.name} cannot be read: {error}") from error
