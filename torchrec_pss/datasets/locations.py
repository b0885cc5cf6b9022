"""`location`: where data lie, on this machine or in a store that a URL names. Code behind it takes both alike."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchrec_pss.datasets.remote_path import RemotePath, RemoteStatus

if TYPE_CHECKING:
    from typing_extensions import TypeIs  # typing's from Python 3.13 on

Location = Path | RemotePath  # where data lie
AnyPath = str | Location  # how a caller may name it
Status = os.stat_result | RemoteStatus
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_LOCAL = ("file://", "local://")


def location(path: AnyPath) -> Location:
    """A `Path` of a local path or a ``file://`` URL; of another URL, or a `UPath` with options of its own, a `RemotePath`,
    which has what readers use of a `Path`.

    Raises:
        DataError: a protocol that is not known, or whose package is missing; says what to install.
    """
    if isinstance(path, (Path, RemotePath)):
        return path
    protocol, mark, rest = str(path).partition("://")
    url = f"{protocol.lower() if mark else protocol}{mark}{rest}"
    if url.startswith(_LOCAL):
        return Path(url.partition("://")[2])
    if not _URL.match(url):
        return Path(url)
    return RemotePath(url, dict(getattr(path, "storage_options", {})))


def is_remote(path: Location) -> "TypeIs[RemotePath]":
    return isinstance(path, RemotePath)


def entries(folder: Location) -> list[Location]:
    """What is in a folder, sorted.

    Raises:
        OSError: see `Path.iterdir` and `RemotePath.iterdir`.
    """
    found: Any = folder.iterdir()
    return sorted(found)
