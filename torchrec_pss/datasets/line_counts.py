"""How many lines files have, counted once and kept in ``line_counts.json``."""

import hashlib
import json
import logging
from pathlib import Path

from torchrec_pss.datasets.cache_folder import check_writable, is_cached
from torchrec_pss.datasets.errors import DataChangedError
from torchrec_pss.datasets.file_signature import FileSignature
from torchrec_pss.datasets.line_stream import count_lines
from torchrec_pss.datasets.locations import Location
from torchrec_pss.whole_file import write_json

logger: logging.Logger = logging.getLogger(__name__)

_FILE = "line_counts.json"


def num_lines(path: Location, signature: FileSignature, cache_dir: str | Path | None) -> int:
    """Lines of a file. An entry of the cache is taken where it is of the same path, size, time and sample of the content,
    and its checksum is right.

    Raises:
        DataChangedError: the file changed while it was counted.
        ValueError: the file is unreadable, or the cache cannot be read or written.
    """
    key = f"{path.resolve()}:{signature.size}:{signature.mtime_ns}:{signature.sample}"
    cache = None if cache_dir is None else Path(cache_dir) / _FILE
    known = {} if cache is None else _read(cache)
    if key in known:
        return known[key]
    if cache is not None:
        check_writable(cache.parent)
    lines = count_lines(path)
    difference = signature.difference(FileSignature.of(path))
    if difference:
        raise DataChangedError(f"data file {path} has changed while its rows were counted: {difference}")
    if cache is not None:
        entries = _read(cache, warn=False) | {key: lines}  # read again: another run may have added its own
        try:
            write_json(cache, {k: {"lines": n, "checksum": _checksum(k, n)} for k, n in entries.items()})
        except OSError as error:
            raise ValueError(f"--cache_dir {cache.parent}: {_FILE} cannot be written: {error}") from error
    return lines


def _read(cache: Path, warn: bool = True) -> dict[str, int]:
    """The entries that are whole."""
    if not is_cached(cache):
        return {}
    try:
        stored = json.loads(cache.read_bytes())
    except (ValueError, RecursionError):
        stored = None
    if not isinstance(stored, dict):
        if warn:
            logger.warning("the cache %s is damaged: rows are counted again", cache)
        return {}
    whole = {key: entry["lines"] for key, entry in stored.items() if _is_whole(key, entry)}
    if warn and len(whole) < len(stored):
        logger.warning(
            "%d entries of the cache %s are damaged, or of an earlier version: those rows are counted again",
            len(stored) - len(whole), cache,
        )  # fmt: skip
    return whole


def _is_whole(key: str, entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and set(entry) == {"lines", "checksum"}
        and type(entry["lines"]) is int
        and entry["checksum"] == _checksum(key, entry["lines"])
    )


def _checksum(key: str, lines: int) -> str:
    return hashlib.blake2b(f"{key} {lines}".encode(errors="surrogatepass"), digest_size=8).hexdigest()
