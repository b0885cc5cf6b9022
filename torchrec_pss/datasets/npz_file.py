"""Reading an ``.npz`` that somebody else wrote, or that may be damaged."""

import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from torchrec_pss.datasets.file_kinds import regular_file, table_format
from torchrec_pss.whole_file import written_aside

_KEY = "key"
# What numpy and zipfile raise at damaged files of one kind or another.
_DAMAGED = (
    OSError, ValueError, EOFError, TypeError, KeyError, AttributeError, NotImplementedError, RuntimeError, MemoryError,
    zipfile.BadZipFile, zlib.error, struct.error,
)  # fmt: skip


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


def write_keyed(path: Path, key: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes aside, then renames. ``key`` says of which rows the arrays are."""
    with written_aside(path) as aside, open(aside, "wb") as stream:
        np.savez(stream, **arrays, **{_KEY: _as_array(key)})  # type: ignore[arg-type]  # NumPy's stubs: they may be allow_pickle


def read_keyed(path: Path, key: str, names: Sequence[str], what: str) -> dict[str, np.ndarray]:
    """What `write_keyed` has written, all of ``names``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: see `read_npz`; an array is missing, or it is of other rows than ``key`` says.
    """
    arrays = read_npz(path, [*names, _KEY], what)
    for name in (*names, _KEY):
        if name not in arrays:
            raise ValueError(f"{what} {path} has no array {name}")
    if not np.array_equal(arrays[_KEY], _as_array(key)):
        raise ValueError(f"{what} {path} is of other rows")
    return arrays


def _as_array(key: str) -> np.ndarray:
    return np.frombuffer(key.encode(errors="surrogatepass"), np.uint8)
