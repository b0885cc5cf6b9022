"""Reading an ``.npz`` that somebody else wrote, or that may be damaged."""

import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from torchrec_pss.datasets.file_kinds import regular_file, table_format

# What numpy and zipfile raise at damaged files of one kind or another.
_DAMAGED = (
    OSError, ValueError, EOFError, TypeError, KeyError, AttributeError, NotImplementedError, RuntimeError, MemoryError,
    zipfile.BadZipFile, zlib.error, struct.error,
)  # fmt: skip


def key_array(key: str) -> np.ndarray:
    """A text as an array of such a file."""
    return np.frombuffer(key.encode(errors="surrogatepass"), np.uint8)


def read_npz(path: Path, names: Sequence[str], what: str = "data file") -> dict[str, np.ndarray]:
    """Those of ``names`` that the file has. Nothing is unpickled; zip's checksums are compared.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no file, or no readable npz; names it.
    """
    regular_file(path, what)
    try:
        with open(path, "rb") as stream:
            found = table_format(stream.read(256))
        if found:
            raise ValueError(f"it is {found}")
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in names if name in stored}
    except _DAMAGED as error:
        raise ValueError(f"{what} {path} is no readable .npz: {error or type(error).__name__}") from error
