"""Folders that are whole at every moment: written aside, then renamed."""

import shutil
from pathlib import Path

from torchrec_pss.regular_file import refuse_link


def beside(folder: Path) -> tuple[Path, Path]:
    """Where the next content of ``folder`` is written, and where `replace_folder` keeps the one before."""
    return folder.with_name(f"{folder.name}.new"), folder.with_name(f"{folder.name}.old")


def empty_aside(folder: Path) -> Path:
    """An empty folder to write ``folder``'s next content into.

    Raises:
        OSError: it cannot be made.
        ValueError: a place is a symbolic link, or no folder.
    """
    new, old = beside(folder)
    for place in (folder, new, old):
        refuse_link(place)
        if place.exists() and not place.is_dir():
            raise ValueError(f"{place} is no folder")
    if new.exists():
        shutil.rmtree(new)
    new.mkdir(parents=True)
    return new


def replace_folder(folder: Path) -> None:
    """Puts what was written aside in ``folder``'s place; at every moment one of the two, or the one before, is whole.

    Raises:
        OSError, ValueError: as `empty_aside`.
    """
    new, old = beside(folder)
    for place in (folder, new, old):
        refuse_link(place)
    if folder.exists():
        if old.exists():
            shutil.rmtree(old)
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def whole_folder(folder: Path) -> Path:
    """``folder``; where an interrupted `replace_folder` left none, the one before."""
    old = beside(folder)[1]
    return old if old.exists() and not folder.exists() else folder
