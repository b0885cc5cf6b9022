"""Regular files only: nothing is written through a symbolic link, and nothing waits for a pipe."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, Literal


def open_regular(path: Path, flags: int, follow: bool = False) -> BinaryIO:
    """A regular file as a binary file object, by `os.open`'s flags.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is a symbolic link (unless ``follow``), or a folder, pipe or device; or, to be written, a file of two names.
    """
    # A pipe must not wait for its other end.
    flags |= os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if not follow:
            refuse_link(path)
        if error.errno in (errno.EISDIR, errno.ENXIO):
            raise ValueError(f"{path} is no regular file") from error
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise ValueError(f"{path} is no regular file")
    if flags & os.O_ACCMODE != os.O_RDONLY and not follow and status.st_nlink > 1:
        os.close(descriptor)
        raise ValueError(f"{path} is a hard link: what is written there would change another file too, remove it")
    modes: dict[int, Literal["rb", "wb", "rb+"]] = {os.O_RDONLY: "rb", os.O_WRONLY: "wb", os.O_RDWR: "rb+"}
    mode = modes[flags & os.O_ACCMODE]
    return open(descriptor, "ab" if flags & os.O_APPEND and mode == "wb" else mode)


def refuse_link(path: Path) -> None:
    """
    Raises:
        ValueError: ``path`` is a symbolic link; names it and what it points to.
    """
    if path.is_symlink():
        raise ValueError(
            f"{path} is a symbolic link to {os.readlink(path)}: nothing is written through links, remove it"
        )
