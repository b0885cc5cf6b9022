"""`checksums.json`: a CRC-32 of every byte of a checkpoint folder, tensor by tensor, so that damage is named before anything is loaded.

CRC-32, for it is the fastest of Python's own (zlib's: 3 GB/s a core here, SHA-256 1.7, BLAKE2b .7), and finds every damage of up to 32
bits in a row, and all but one in 4 * 10^9 of the others. It is against accidents: who can write the folder can write its checksums too.
"""

import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import Metadata

from torchrec_pss.regular_file import open_regular
from torchrec_pss.whole_file import read_json, write_bytes

MANIFEST = "checksums.json"
_FORMAT_VERSION = 1
_CHUNK = 1 << 20  # bytes


@dataclass(frozen=True)
class Part:
    """Bytes of a file: those of a tensor (or another value of the state dict), or of none.

    Attributes:
        crc: CRC-32 as eight hexadecimal digits.
    """

    file: str
    tensor: str | None
    offset: int
    length: int
    crc: str = ""

    def __str__(self) -> str:
        return f"file {shown(self.file)}" + (f", {self.tensor!r}" if self.tensor else "")


def shown(name: str) -> str:
    """A file's name in a message of one line: anybody may have put it there."""
    return name if name.isprintable() else repr(name)


def parts_of_files(folder: Path, metadata: Metadata) -> list[Part]:
    """Every byte of the folder's files once, in parts that have no checksum yet.

    Raises:
        OSError: the folder cannot be read.
        ValueError: something in it is no regular file.
    """
    tensors: dict[str, list[Part]] = {}
    for index, info in metadata.storage_data.items():
        part = Part(info.relative_path, index.fqn, info.offset, info.length)
        tensors.setdefault(part.file, []).append(part)
    parts = []
    for name, size in _files(folder).items():
        end = 0
        for part in sorted(tensors.get(name, []), key=lambda part: part.offset):
            if part.offset > end:
                parts.append(Part(name, None, end, part.offset - end))
            parts.append(part)
            end = part.offset + part.length
        if end < size or size == 0:
            parts.append(Part(name, None, end, size - end))
    return parts


def measured(folder: Path, parts: Iterable[Part]) -> list[Part]:
    """``parts`` with the checksums of what the files hold now, by as many threads as torch has."""

    def measure(part: Part) -> Part:
        crc = 0
        for piece in _pieces(folder, part):
            crc = zlib.crc32(piece, crc)
        return Part(part.file, part.tensor, part.offset, part.length, f"{crc:08x}")

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return list(pool.map(measure, parts))


def write_manifest(folder: Path, parts: Iterable[Part]) -> None:
    """Of all the folder's files."""
    files: dict[str, list[Any]] = {}
    for part in sorted(parts, key=lambda part: (part.file, part.offset)):
        files.setdefault(part.file, []).append([part.tensor, part.length, part.crc])
    write_bytes(folder / MANIFEST, _encode({"format_version": _FORMAT_VERSION, "files": files}))


def read_manifest(folder: Path) -> list[Part] | None:
    """What `write_manifest` wrote; None where there is none.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged.
    """
    path = folder / MANIFEST
    if not os.path.lexists(path):
        return None
    try:
        body = read_json(path)
        del body["sha256"]
        if _encode(body) != path.read_bytes():  # to the byte, so that no damage is left to chance
            raise ValueError("its own checksum is another")
        if body["format_version"] != _FORMAT_VERSION:
            raise ValueError(f"format_version is {body['format_version']}, known is {_FORMAT_VERSION}")
        parts = []
        for name, of_file in body["files"].items():
            end = 0
            for tensor, length, crc in of_file:
                parts.append(Part(name, tensor, end, length, crc))
                end += length
        return parts
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"file {MANIFEST} is damaged: {error}") from error


def check_files(folder: Path, parts: Iterable[Part]) -> None:
    """That the folder holds the files of a manifest, no others, and each with its size.

    Raises:
        ValueError: names the file.
    """
    sizes: dict[str, int] = {}
    for part in parts:
        sizes[part.file] = sizes.get(part.file, 0) + part.length
    found = _files(folder)
    for name in sorted(sizes.keys() | found.keys()):
        if name not in found:
            raise ValueError(f"file {shown(name)} is missing")
        if name not in sizes:
            raise ValueError(f"file {shown(name)} is none of its own; remove it")
        if found[name] != sizes[name]:
            what = "truncated" if found[name] < sizes[name] else "longer than it was"
            raise ValueError(f"file {shown(name)} is {what}: {found[name]:,} bytes instead of {sizes[name]:,}")


def check_contents(folder: Path, parts: Iterable[Part]) -> None:
    """That these parts are what they were.

    Raises:
        ValueError: names the file and the tensor.
    """
    parts = list(parts)
    for part, now in zip(parts, measured(folder, parts), strict=True):
        if part.crc != now.crc:
            raise ValueError(f"{part} is damaged: its CRC-32 is {now.crc}, and was {part.crc} when it was saved")


def check_archives(folder: Path, parts: Iterable[Part]) -> int:
    """What can be checked without a manifest: values are zip archives (as `torch.save` writes), with checksums that nobody else reads.

    Returns:
        How many of the values are such archives.

    Raises:
        ValueError: a file ends before the value does, or the archive is damaged; names file and tensor.
    """
    checked = 0
    for part in parts:
        content = b"".join(_pieces(folder, part))
        if content[:4] != b"PK\x03\x04" and content[-22:-18] != b"PK\x05\x06":  # how an archive begins, and ends
            continue
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                for member in archive.infolist():
                    if member.CRC:  # 0 where torch.serialization.set_crc32_options(False)
                        archive.read(member)
            torch.load(
                io.BytesIO(content), map_location="cpu", weights_only=True
            )  # before one is loaded that is needed
        except Exception as error:  # neither has one for all that may be damaged
            raise ValueError(f"{part} is damaged, or crafted: {error}") from error
        checked += 1
    return checked


def _pieces(folder: Path, part: Part) -> Iterator[bytes]:
    if part.file != os.path.basename(part.file):
        raise ValueError(f"{part} lies outside the checkpoint's folder")
    left = part.length
    with open_regular(folder / part.file, os.O_RDONLY, follow=True) as file:
        file.seek(part.offset)
        while left > 0:
            piece = file.read(min(left, _CHUNK))
            if not piece:
                raise ValueError(f"{part} is truncated: {left:,} of its {part.length:,} bytes are missing")
            left -= len(piece)
            yield piece


def _files(folder: Path) -> dict[str, int]:
    """Sizes of the folder's files, its manifest left out."""
    sizes = {}
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name == MANIFEST:
            continue
        if not entry.is_file():
            raise ValueError(f"{shown(entry.name)} is no regular file")
        sizes[entry.name] = entry.stat().st_size
    return sizes


def _encode(body: Mapping[str, Any]) -> bytes:
    """Canonical JSON with its own checksum."""
    own = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**body, "sha256": own}, sort_keys=True) + "\n").encode()
