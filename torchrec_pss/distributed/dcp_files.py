"""`torch.distributed.checkpoint`'s reader and writer, for files that nobody vouches for and disks that are full.

DCP writes its metadata, and what of a state dict is no tensor, with pickle, and reads them back with a plain unpickler: a crafted checkpoint
runs code. Here both are looked through first, with an unpickler that knows a handful of harmless names.
"""

import io
import pickle
from collections.abc import Mapping
from types import NoneType
from typing import Any

import torch
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint import metadata as dcp_metadata
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex
from torch.distributed.checkpoint.planner import ReadItem, SavePlan, SavePlanner
from torch.distributed.checkpoint.stateful import Stateful
from torch.futures import Future

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


class Reader(FileSystemReader):
    """Its metadata has been looked through."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """
        Raises:
            OSError: there is none.
            ValueError: it is damaged, or crafted.
        """
        path: Any = self._get_metadata_path(kwargs.get("rank"))
        with self.fs.create_stream(path, "rb") as stream:
            try:
                found = _Unpickler(stream).load()
            except Exception as error:  # what a damaged pickle calls may raise anything
                raise ValueError(f"file {path.name} is damaged: {str(error) or type(error).__name__}") from error
        storage = getattr(found, "storage_data", None)
        if not isinstance(found, Metadata) or not isinstance(storage, dict) or not all(map(_is_entry, storage.items())):
            raise ValueError(f"file {path.name} is damaged: it is no metadata of a checkpoint")
        return super().read_metadata(*args, **kwargs)


def _is_entry(entry: tuple[Any, ...]) -> bool:
    index, info = entry
    return (
        isinstance(index, MetadataIndex)
        and isinstance(info, _StorageInfo)
        and isinstance(info.relative_path, str)
        and all(isinstance(number, int) and number >= 0 for number in (info.offset, info.length))
    )


class Planner(DefaultLoadPlanner):
    """Looks through values that are no tensors."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        torch.load(value, weights_only=True)
        value.seek(0)
        super().load_bytes(read_item, value)


def require_loadable(state: Mapping[str, Any], prefix: str = "") -> None:
    """That `load_checkpoint` will read every value that is no tensor, such as no NumPy array.

    Raises:
        ValueError: names the value and its type.
    """
    for key, value in state.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            require_loadable(value, f"{name}.")
        elif not isinstance(value, torch.Tensor | ShardedTensor | Stateful | int | float | str | bytes | NoneType):
            stream = io.BytesIO()
            try:
                torch.save(value, stream)
                stream.seek(0)
                torch.load(stream, weights_only=True)
            except Exception as error:
                raise ValueError(
                    f"{name} is a {type(value).__module__}.{type(value).__qualname__}, which load_checkpoint would not read again; "
                    "save tensors, numbers, text, and lists and dicts of them"
                ) from error


class Writer(FileSystemWriter):
    """Says what the disk said: `torch.save` covers it with an error of its own."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> "Future[Any]":
        try:
            return super().write_data(plan, planner)
        except Exception as error:
            cause: BaseException | None = error
            while cause is not None:
                if isinstance(cause, OSError):
                    raise OSError(cause.errno, cause.strerror, cause.filename) from error
                cause = cause.__cause__ or cause.__context__
            raise
