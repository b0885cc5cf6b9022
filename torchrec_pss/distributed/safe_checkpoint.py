"""`save_checkpoint`, `load_checkpoint`: `torch.distributed.checkpoint`'s files with checksums, whole at every moment."""

import itertools
import logging
import os
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from torchrec_pss.distributed.checksums import (
    MANIFEST,
    Part,
    check_archives,
    check_contents,
    check_files,
    measured,
    parts_of_files,
    read_manifest,
    shown,
    write_manifest,
)
from torchrec_pss.distributed.dcp_files import Planner, Reader, Writer, require_loadable
from torchrec_pss.distributed.finite_check import require_dense, require_finite
from torchrec_pss.distributed.together import on_first_rank, together
from torchrec_pss.whole_file import write_bytes
from torchrec_pss.whole_folder import empty_aside, replace_folder, whole_folder

logger: logging.Logger = logging.getLogger(__name__)


def save_checkpoint(
    state_dict: dict[str, Any],
    path: str | os.PathLike[str],
    files: Mapping[str, bytes] | None = None,
    allow_not_finite: bool = False,
) -> None:
    """As `torch.distributed.checkpoint.save`, but whole at every moment, with checksums, and without tensors that hold NaN. Collective.

    Written to ``<path>.new``, then renamed; what was at ``path`` stays until then, and stays where anything fails.

    Args:
        state_dict: as `torch.distributed.checkpoint.save` takes it: tensors, sharded ones too, and plain values.
        path: a folder on a file system that all ranks share.
        files: more files of the folder, by name; those of rank 0 are written.
        allow_not_finite: whether floating-point tensors may hold NaN or infinite elements. Python's numbers always may (``best_loss=inf``), and
            whatever else is no tensor: see `require_finite`.

    Raises:
        NotFiniteError: a tensor is not finite; names it and the element.
        OSError: the disk is full, or otherwise does not take it.
        ValueError: a tensor is sparse or nested, or a value such as `load_checkpoint` does not read; names it. One of the places is a symbolic link, or no folder; one of ``files`` has a path or a
            name that is taken.

    Examples:
        >>> from torchrec import EmbeddingBagConfig
        >>> from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection
        >>> from torchrec_pss.distributed import check_checkpoint, load_checkpoint, save_checkpoint
        >>> table = EmbeddingBagConfig(name="user", num_embeddings=10**6, embedding_dim=16, feature_names=["user"])
        >>> ebc = PSSEmbeddingBagCollection([table], config=PSSConfig(array_bytes="64kB"))
        >>> save_checkpoint({"model": ebc.state_dict(), "epoch": 3}, "checkpoint")
        >>> check_checkpoint("checkpoint")
    """
    folder = Path(path)
    for name in files or ():
        if name != os.path.basename(name) or name in ("", ".", "..", MANIFEST, ".metadata") or name.startswith("__"):
            raise ValueError(f"files: {name!r} is no name for a file beside those of a checkpoint")
    together(lambda: require_loadable(state_dict))
    (require_dense if allow_not_finite else require_finite)(state_dict)
    new = on_first_rank(lambda: empty_aside(folder))

    def write_files() -> None:
        for name, content in (files or {}).items():
            write_bytes(new / name, content)

    try:
        try:
            dcp.save(state_dict, storage_writer=Writer(new))
        except CheckpointException as error:
            raise OSError(f"checkpoint {folder} cannot be saved: {_reason(error)}") from error
        on_first_rank(write_files)
        add_checksums(new)
        on_first_rank(lambda: replace_folder(folder))
    except Exception:
        if not dist.is_initialized() or dist.get_rank() == 0:
            shutil.rmtree(new, ignore_errors=True)  # room for the next one
        raise


def add_checksums(path: str | os.PathLike[str]) -> None:
    """Gives a checkpoint of `torch.distributed.checkpoint.save` or ``async_save`` the checksums that `load_checkpoint` checks.
    Collective; after it no file of the folder may change, and none may come.

    Args:
        path: the checkpoint's folder.

    Raises:
        OSError, ValueError: the folder does not exist, or is none; a file cannot be read or written.
    """
    folder = Path(path)
    on_first_rank(lambda: _require_folder(folder))
    parts = on_first_rank(lambda: parts_of_files(folder, Reader(folder).read_metadata()))
    rank = dist.get_rank() if dist.is_initialized() else 0
    # Each rank reads what it has written itself: it is still in memory there.
    own = together(lambda: measured(folder, [part for part in parts if _writer(part.file) == rank]))
    on_first_rank(lambda: write_manifest(folder, itertools.chain(*own)))


def _writer(file: str) -> int:
    """The rank that wrote a file of this process group's."""
    found = re.match(r"__(\d+)_", file)
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    return int(found[1]) % ranks if found else 0


def check_checkpoint(path: str | os.PathLike[str], files: Collection[str] | None = None) -> None:
    """Names and sizes of all files of a checkpoint against its checksums, and the contents of ``files`` (all by default); where it has
    none, the checksums that `torch.save` has put beside each value, and a warning of what could not be checked. Collective.

    Args:
        path: the checkpoint's folder.
        files: names of those whose contents are read; None for all.

    Raises:
        ValueError: on every rank; the folder does not exist, or is none. A file is damaged, truncated or missing, or was not there: names it,
            and the tensor.
    """
    folder = Path(path)
    try:
        parts, has_checksums = on_first_rank(lambda: _parts(folder))
        wanted = [part for part in parts if files is None or part.file in files]
        rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        if has_checksums:
            together(lambda: check_contents(folder, wanted[rank::ranks]))
            return
        values = [part for part in wanted if part.tensor is not None]
        checked = sum(together(lambda: check_archives(folder, values[rank::ranks])))
    except (OSError, ValueError) as error:
        raise ValueError(f"checkpoint {folder} cannot be loaded: {error}") from error
    if rank == 0 and files is None:
        others = sorted({part.file for part in parts if part.tensor is None})
        logger.warning(
            "checkpoint %s has no %s: it was not written by save_checkpoint. Of its %d values %d have a checksum of their own, and those "
            "fit; what is not checked: %s", folder, MANIFEST, len(values), checked, ", ".join(map(shown, others)),
        )  # fmt: skip


def _parts(folder: Path) -> tuple[list[Part], bool]:
    """Of a checkpoint's files, and whether they have checksums."""
    _require_folder(folder)
    parts = read_manifest(folder)
    if parts is None:
        return parts_of_files(folder, Reader(folder).read_metadata()), False
    check_files(folder, parts)
    return parts, True


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise ValueError(f"folder {folder} {'is no folder' if folder.exists() else 'does not exist'}")


def load_checkpoint(state_dict: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Fills ``state_dict`` in place, as `torch.distributed.checkpoint.load`. Collective.

    All files are checked first (`check_checkpoint`), whatever of them is wanted. Where a killed `save_checkpoint` has left no ``path``,
    what was there before is loaded.

    Args:
        state_dict: as `torch.distributed.checkpoint.load` takes it: tensors of the wanted shapes, on their devices.
        path: the checkpoint's folder.

    Raises:
        ValueError: the checkpoint does not exist, is damaged, truncated or otherwise unreadable, has no value for an entry, or one of another shape, or
            would call what it has no business with; says which file or value. ``state_dict`` is as it was.

    Examples:
        >>> import torch
        >>> from torchrec_pss.distributed import load_checkpoint, save_checkpoint
        >>> save_checkpoint({"array": torch.arange(4.0)}, "checkpoint")
        >>> state = {"array": torch.zeros(4)}
        >>> load_checkpoint(state, "checkpoint")
        >>> state["array"]
        tensor([0., 1., 2., 3.])
    """
    folder = whole_folder(Path(path))
    check_checkpoint(folder)
    try:
        dcp.load(state_dict, storage_reader=Reader(folder), planner=Planner())
    except (CheckpointException, RuntimeError, ValueError, OSError, KeyError) as error:
        raise ValueError(f"checkpoint {folder} cannot be loaded: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """What the first rank that failed says."""
    reasons = error.failures.values() if isinstance(error, CheckpointException) else [error]
    first = next((getattr(r, "error", r[0] if isinstance(r, tuple) else r) for r in reasons), error)
    return " ".join(str(first).split()) or type(first).__name__  # torch's have several lines
