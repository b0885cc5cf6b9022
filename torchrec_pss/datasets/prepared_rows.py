"""`PreparedReader`: rows that `torchrec_pss.prepare` has written, from wherever they are wanted."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from torchrec_pss import json_fields as fields
from torchrec_pss.datasets.bad_rows import BadRows
from torchrec_pss.datasets.errors import DataError
from torchrec_pss.datasets.file_roles import HELD_OUT, TEST, TRAIN, VAL
from torchrec_pss.datasets.file_signature import FileSignature
from torchrec_pss.datasets.locations import AnyPath, is_remote, location
from torchrec_pss.datasets.prepared_part import Part, require_pyarrow
from torchrec_pss.datasets.rows import RowBlock, join_blocks
from torchrec_pss.datasets.schema import Schema
from torchrec_pss.whole_file import read_json

MANIFEST = "prepared.json"
FORMAT = 1
RECORDS = ".preparing"  # of what is done, until all is
_NAME = re.compile(r"\w[\w.-]*")
_part = fields.fields(
    name=fields.text, rows=fields.count, bytes=fields.count, sha256=fields.text, left_out=fields.each(fields.count)
)
_file = fields.fields(name=fields.text, parts=fields.each(_part))
_check = fields.fields(
    format=fields.count, schema=fields.mapping, texts=fields.each(fields.text), files=fields.each(_file)
)


@dataclass(frozen=True)
class PartFile:
    """
    Attributes:
        name: in the folder.
        rows: positions, with those left out.
        size, sha256: of the file.
        left_out: positions from the part's first, ascending, whose rows were malformed.
    """

    name: str
    rows: int
    size: int
    sha256: str
    left_out: tuple[int, ...]


@dataclass(frozen=True)
class PreparedFile:
    """Parts of what was one file, or of one part of a split; its path is in the prepared folder, and its signature that of the folder's
    manifest, which has the sums of all parts, under its own name."""

    path: Path
    num_rows: int
    role: str | None
    signature: FileSignature
    parts: tuple[PartFile, ...]
    schema: Schema
    texts: tuple[str, ...]


def is_prepared(path: AnyPath) -> bool:
    """Whether it is a folder of prepared rows.

    Raises:
        DataError: one that a URL names: they are mapped into memory, from a local disk.
    """
    found = location(path)
    try:
        if not (found.is_dir() and (found / MANIFEST).is_file()):
            return False
    except OSError as error:
        if is_remote(found):  # it has been tried often enough
            raise DataError(f"data path {path} is unreadable: {error}") from error
        return False  # whoever reads it says why
    if is_remote(found):
        raise DataError(f"data path {path} has prepared rows, which are read from a local disk: copy the folder")
    return True


def is_begun(path: AnyPath) -> bool:
    """Whether `torchrec_pss.datasets.preparing` has not ended there."""
    found = location(path)
    return not is_remote(found) and (found / RECORDS).is_dir()


def open_prepared(folder: AnyPath) -> list[PreparedFile]:
    """
    Raises:
        FileNotFoundError: it has no manifest.
        DataError: pyarrow is missing.
        ValueError: that is damaged, or of another version; names it, and the field.
    """
    found_at = cast(Path, location(folder))  # `is_prepared` refuses others
    require_pyarrow(found_at)
    manifest = found_at / MANIFEST
    said = read_json(manifest)
    try:
        _check(said, "")
        if said["format"] != FORMAT:
            raise ValueError(f"format is {said['format']}, and this version reads {FORMAT}")
        schema, texts = Schema.of(said["schema"]), tuple(said["texts"])
    except ValueError as error:
        raise ValueError(f"{manifest}: {error}") from error
    signature, found = FileSignature.of(manifest), []
    try:
        _check_parts(said, schema)
    except ValueError as error:
        raise ValueError(f"{manifest}: {error}") from error
    for file in said["files"]:
        parts = tuple(
            PartFile(p["name"], p["rows"], p["bytes"], p["sha256"], tuple(p["left_out"])) for p in file["parts"]
        )
        own = replace(signature, name=file["name"])
        rows = sum(p.rows for p in parts)
        found.append(PreparedFile(found_at / file["name"], rows, file.get("role"), own, parts, schema, texts))
    return found


def _check_parts(said: dict[str, Any], schema: Schema) -> None:
    """
    Raises:
        ValueError: nothing is there, a file of another folder, or numbers of rows that cannot be; names the field.
    """
    if not said["files"]:
        raise ValueError("files is empty")
    for name in said["texts"]:
        if name not in schema.features:
            raise ValueError(f"texts has {name!r}, which is no feature")
    for number, file in enumerate(said["files"]):
        if file.get("role") not in (None, TRAIN, VAL, TEST, HELD_OUT):
            raise ValueError(f"files[{number}].role is {file['role']!r}")
        if not file["parts"]:
            raise ValueError(f"files[{number}].parts is empty")
        for place, part in enumerate(file["parts"]):
            where, left_out = f"files[{number}].parts[{place}]", part["left_out"]
            if not _NAME.fullmatch(part["name"]):
                raise ValueError(f"{where}.name is {part['name']!r}, no file of this folder")
            if left_out != sorted(set(left_out)) or (left_out and left_out[-1] >= part["rows"]):
                raise ValueError(f"{where}.left_out are no ascending rows below {part['rows']}")


class PreparedReader(BadRows[PreparedFile]):
    """A `RowSource` over prepared rows. Sums are compared where a part is opened first.

    Args:
        files: from `open_prepared`.
    """

    def __init__(self, files: Sequence[PreparedFile]) -> None:
        super().__init__(files, 0)
        self.schema = files[0].schema
        self.texts = list(files[0].texts)
        self._parts = [(file.path.parent, part) for file in files for part in file.parts]
        self._stops = np.cumsum([part.rows for _, part in self._parts])
        self._checked: set[str] = set()  # shared by copies

    def read(self, windows: Iterator[range]) -> Iterator[RowBlock]:
        """One block for each window, wherever it lies.

        Raises:
            DataChangedError: a part is not what was prepared.
            DataError: it is unreadable.
        """
        opened: tuple[int, Part] | None = None
        nothing = self.schema.nothing
        for window in windows:
            blocks, position = [], window.start
            while position < window.stop:
                number = int(np.searchsorted(self._stops, position, side="right"))
                if opened is None or opened[0] != number:
                    opened = number, self._open(number)
                part = self._parts[number][1]
                first = int(self._stops[number]) - part.rows
                stop = min(window.stop, int(self._stops[number]))
                blocks.append(opened[1].read(*(_kept(part, at - first) for at in (position, stop))))
                position = stop
            yield join_blocks(blocks or [nothing])

    def _open(self, number: int) -> Part:
        folder, part = self._parts[number]
        kept = part.rows - len(part.left_out)
        found = Part(folder / part.name, self.schema, kept, part.size, part.sha256, part.name not in self._checked)
        self._checked.add(part.name)
        return found


def _kept(part: PartFile, position: int) -> int:
    """Rows of the part that are there before a position."""
    return position - int(np.searchsorted(part.left_out, position))
