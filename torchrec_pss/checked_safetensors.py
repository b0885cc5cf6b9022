"""`save_safetensors`, `load_safetensors`: one file of tensors with a checksum of each, whole at every moment."""

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch

from torchrec_pss.distributed.finite_check import NotFiniteError, first_not_finite
from torchrec_pss.whole_file import written_aside

try:
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file
except ImportError as error:
    raise ImportError("safetensors is missing: pip install 'torchrec_pss[safetensors]'") from error

_KEY = "torchrec_pss.crc32"


def save_safetensors(
    state_dict: Mapping[str, torch.Tensor], path: str | os.PathLike[str], allow_not_finite: bool = False
) -> None:
    """A state dict of tensors as a safetensors file, with a CRC-32 of each in its metadata. Other readers of the format take it too.

    Args:
        allow_not_finite: whether floating-point tensors may hold NaN or infinite elements.

    Raises:
        NotFiniteError: a tensor is not finite; names it and the element.
        OSError: the disk does not take it. In each case, what was at ``path`` stays.
        TypeError: a value is no tensor.
    """
    for name, value in state_dict.items():
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{name!r} is of type {type(value).__name__}: safetensors holds tensors only")
    found = None if allow_not_finite else first_not_finite(state_dict)
    if found is not None:
        raise NotFiniteError(f"{os.fspath(path)} is not written: {found}")
    tensors = {name: value.detach().cpu().contiguous() for name, value in state_dict.items()}
    checksums = {name: _checksum(name, value) for name, value in tensors.items()}
    with written_aside(Path(path)) as aside:
        try:
            save_file(tensors, aside, metadata={_KEY: json.dumps(checksums, sort_keys=True)})
        except SafetensorError as error:  # it has no error of its own for the disk's
            raise OSError(f"{os.fspath(path)} is not written: {error}") from error


def load_safetensors(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """What `save_safetensors` wrote, on the CPU, for `load_state_dict`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged or truncated; names the file and, where it can, the tensor. Or `save_safetensors` has not written it:
            `safetensors.torch.load_file` reads such a file, unchecked.
    """
    where = os.fspath(path)
    if not os.path.isfile(where):
        raise FileNotFoundError(f"{where} does not exist, or is no file")
    try:
        with safe_open(where, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        checksums = json.loads(metadata.get(_KEY, "null"))
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(f"{where} is truncated or damaged: {error}") from error
    if not isinstance(checksums, dict):
        raise ValueError(f"{where} has no checksums: save_safetensors has not written it, or it is damaged")
    for name in sorted(tensors.keys() | checksums.keys()):
        if name not in tensors:
            raise ValueError(f"{where} is damaged: it has a checksum of {name!r}, but no such tensor")
        if _checksum(name, tensors[name]) != checksums.get(name):
            raise ValueError(f"{where} is damaged: {name!r} has another checksum than when it was saved")
    return tensors


def _checksum(name: str, tensor: torch.Tensor) -> str:
    """Of name, type, shape and bytes."""
    head = json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode()
    content = tensor.reshape(-1).view(torch.uint8).numpy()
    return f"{zlib.crc32(content.data, zlib.crc32(head)):08x}"
