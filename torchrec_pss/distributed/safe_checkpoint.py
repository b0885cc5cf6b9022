"""`load_checkpoint`: `torch.distributed.checkpoint.load` of a file that nobody vouches for.

DCP writes its metadata, and what of a state dict is no tensor, with pickle, and reads them back with a plain unpickler: a crafted checkpoint
runs code. Here both are looked through first, with an unpickler that knows a handful of harmless names.
"""

import io
import os
import pickle
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader
from torch.distributed.checkpoint import metadata as dcp_metadata
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import ReadItem

_ALLOWED = {
    "collections": {"OrderedDict"},
    "pathlib": {"PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"},
    "pathlib._local": {"PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"},
    "torch": {"Size"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo", "_StoragePrefix"},
    "torch.serialization": {"_get_layout"},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = name in _ALLOWED.get(module, ())
        known |= module == dcp_metadata.__name__ and isinstance(getattr(dcp_metadata, name, None), type)
        known |= module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not known:
            raise pickle.UnpicklingError(f"it would call {module}.{name}")
        return super().find_class(module, name)


class _Reader(FileSystemReader):
    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with self.fs.create_stream(self._get_metadata_path(kwargs.get("rank")), "rb") as stream:
            _Unpickler(stream).load()
        return super().read_metadata(*args, **kwargs)


class _Planner(DefaultLoadPlanner):
    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        torch.load(value, weights_only=True)
        value.seek(0)
        super().load_bytes(read_item, value)


def load_checkpoint(state_dict: dict[str, Any], path: str | os.PathLike) -> None:
    """Fills ``state_dict`` in place, as `torch.distributed.checkpoint.load`. Collective.

    Raises:
        ValueError: the checkpoint is truncated or otherwise unreadable, has no value for an entry, or one of another shape, or would call
            what it has no business with; says which. Tensors read until then stay read.
    """
    try:
        dcp.load(state_dict, storage_reader=_Reader(path), planner=_Planner())
    except (
        CheckpointException,
        RuntimeError,
        ValueError,
        OSError,
        pickle.UnpicklingError,
        EOFError,
        KeyError,
    ) as error:
        reasons = error.failures.values() if isinstance(error, CheckpointException) else [error]
        first = next((getattr(r, "error", r[0] if isinstance(r, tuple) else r) for r in reasons), error)
        raise ValueError(
            f"checkpoint {os.fspath(path)} cannot be loaded: {str(first) or type(first).__name__}"
        ) from error
