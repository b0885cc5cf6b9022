"""`prepare`: rows of any files that are read here into one folder that is mapped into memory, by several processes."""

import logging
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from torchrec_pss.datasets.cache_folder import check_writable, locked
from torchrec_pss.datasets.errors import BadRowsError, DataError
from torchrec_pss.datasets.file_roles import TEST, TRAIN, VAL
from torchrec_pss.datasets.open_rows import DataFile, find_rows_files, reader_of, texts_of
from torchrec_pss.datasets.prepared_part import file_sha256, require_pyarrow, write_part
from torchrec_pss.datasets.prepared_rows import FORMAT, MANIFEST, RECORDS, is_prepared
from torchrec_pss.datasets.rows import RowBlock, join_blocks
from torchrec_pss.datasets.schema import Schema
from torchrec_pss.progress import told
from torchrec_pss.whole_file import read_json, write_json, written_aside

logger: logging.Logger = logging.getLogger(__name__)

PART_ROWS = 1 << 18
_BLOCK_ROWS = 1 << 14
_ROWS_OF_A_START = 1 << 20  # that one process prepares while another starts
_SETTINGS, _LOCK = "settings.json", "lock"
_ROLES = (TRAIN, VAL, TEST)  # by a split's parts


@dataclass(frozen=True)
class _Piece:
    """So many positions of one file: what one part is of, or one for each part of a split."""

    number: int
    file: int
    rows: range


@dataclass(frozen=True)
class _Task:
    """What a process is to do: ``read`` is the schema that the files are read by."""

    files: list[DataFile]
    schema: Schema
    read: Schema
    output: Path
    pieces: list[_Piece]
    max_bad_rows: int


def prepare(
    path: str | Path, output: str | Path, schema: Schema, *, workers: int | None = None, part_rows: int = PART_ROWS, max_bad_rows: int = 100,
    cache_dir: str | Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Writes a folder that `open_prepared` reads. What an earlier call has written there of the same rows is kept, so that one which was stopped
    goes on; until the last part is there, the folder has no manifest.

    Args:
        path: files that `find_rows_files` finds.
        output: the folder; empty, or of an earlier call.
        schema: of the rows. Its split divides them into rows to train, validate and test on, each in their order.
        workers: processes; if None as many as there are cores, or fewer where one is done before others have started.
        part_rows: positions of a part.
        max_bad_rows: malformed rows to leave out before giving up.
        cache_dir: see `find_rows_files`.

    Returns:
        The manifest.

    Raises:
        FileNotFoundError, ValueError: see `find_rows_files`; a folder that holds something else, is of other rows, or that another process
            prepares.
        BadRowsError, DataError: see the readers.
        OSError: the folder cannot be written; names the file.
    """
    output = Path(output)
    if is_prepared(path):
        raise ValueError(f"data path {path} is prepared already")
    require_pyarrow(output)
    # A column that divides rows is read as one more feature.
    rule = schema.split
    more = () if rule is None or rule.column is None or rule.column in schema.sparse else (rule.column,)
    read = schema if rule is None else replace(schema, sparse=(*schema.sparse, *more), split=None)
    files = find_rows_files(path, read, cache_dir)
    settings = {
        "format": FORMAT, "schema": schema.as_json(), "part_rows": part_rows, "files": [f.signature.as_json() | {"mtime_ns": 0} for f in files],
    }  # fmt: skip
    _claim(output, settings)
    with locked(output / RECORDS / _LOCK, wait=False):
        return _prepared(_Task(files, schema, read, output, [], max_bad_rows), part_rows, workers, str(path))


def _prepared(task: _Task, part_rows: int, workers: int | None, source: str) -> dict[str, Any]:
    """The manifest, once all parts are there."""
    files, schema, output, max_bad_rows = task.files, task.schema, task.output, task.max_bad_rows
    for left_behind in output.glob("*.tmp"):  # by a process that was killed
        left_behind.unlink()
    pieces = _pieces(files, part_rows)
    left = [piece for piece in pieces if not _is_done(output, piece)]
    _run(replace(task, pieces=left), workers or _workers(files), len(pieces))
    records = [read_json(_record(output, piece)) for piece in pieces]
    bad = sum(record["bad_rows"] for record in records)
    if bad > max_bad_rows:
        raise BadRowsError(
            f"{bad} malformed rows, more than --max_bad_rows {max_bad_rows}; the first: {next(r['first_bad'] for r in records if r['bad_rows'])}"
        )
    if not any(part["rows"] > len(part["left_out"]) for record in records for part in record["parts"]):
        raise DataError(f"data path {source} has no row that can be used; the first: {records[0]['first_bad']}")
    manifest = {
        "format": FORMAT,
        "schema": schema.written().as_json(),
        "texts": texts_of(files, schema),
        "source": source,
        "bad_rows": bad,
    }
    manifest["files"] = _of_split(records) if schema.split is not None else _of_files(files, pieces, records)
    write_json(output / MANIFEST, manifest)
    shutil.rmtree(output / RECORDS)
    return manifest


def _workers(files: Sequence[DataFile]) -> int:
    return min(os.cpu_count() or 1, 1 + sum(file.num_rows for file in files) // _ROWS_OF_A_START)


def _claim(output: Path, settings: dict[str, Any]) -> None:
    """
    Raises:
        ValueError: the folder is there and holds other things, or other rows.
    """
    if is_prepared(output):
        raise ValueError(f"{output} has rows that were prepared before: remove it, or name another folder")
    before = output / RECORDS / _SETTINGS
    if before.exists():
        for name, then in read_json(before).items():
            if settings.get(name) != then:
                raise ValueError(f"{output} was begun with other {name}: remove it, or name another folder")
        return
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} is no empty folder: name another one")
    check_writable(output, "the folder")
    write_json(before, settings)


def _pieces(files: Sequence[DataFile], part_rows: int) -> list[_Piece]:
    found, start = [], 0
    for number, file in enumerate(files):
        stop = start + file.num_rows
        found += [(number, range(first, min(first + part_rows, stop))) for first in range(start, stop, part_rows)]
        start = stop
    return [_Piece(number, file, rows) for number, (file, rows) in enumerate(found)]


def _record(output: Path, piece: _Piece) -> Path:
    return output / RECORDS / f"{piece.number:06}.json"


def _is_done(output: Path, piece: _Piece) -> bool:
    record = _record(output, piece)
    if not record.exists():
        return False
    sizes = {part["name"]: part["bytes"] for part in read_json(record)["parts"]}
    return all((output / name).is_file() and (output / name).stat().st_size == size for name, size in sizes.items())


def _run(task: _Task, workers: int, number: int) -> None:
    """Each process takes pieces that follow each other: rows of text must be passed over to reach others."""
    pieces = task.pieces
    if len(pieces) < number:
        logger.info("%d of %d parts are there from before", number - len(pieces), number)
    shares = [share for share in np.array_split(np.arange(len(pieces)), workers) if len(share)]
    tasks = [replace(task, pieces=[pieces[i] for i in share]) for share in shares]
    with told("preparing", "part", len(pieces)) as step:
        if len(tasks) < 2:
            for one in tasks:
                _work(one, step)
            return
        with ProcessPoolExecutor(len(tasks), mp_context=get_context("spawn")) as pool:
            running, seen = {pool.submit(_work, one) for one in tasks}, set()
            try:
                while running:
                    done, running = wait(running, timeout=1, return_when=FIRST_COMPLETED)
                    new = {p.number for p in pieces if p.number not in seen and _record(task.output, p).exists()}
                    for _ in new:
                        step()
                    seen |= new
                    for future in done:
                        future.result()
            except BaseException:
                for process in (pool._processes or {}).values():
                    process.terminate()  # what they have in hand is not kept
                raise


def _work(task: _Task, step: Callable[[], None] = lambda: None) -> None:
    """Writes the parts of each piece, and then its record."""
    reader = reader_of(task.files, task.read, task.max_bad_rows)
    reader.left_out = []
    is_text = task.schema.split is not None and task.schema.split.column in texts_of(task.files, task.read)
    windows = (
        piece.rows[at : at + _BLOCK_ROWS] for piece in task.pieces for at in range(0, len(piece.rows), _BLOCK_ROWS)
    )
    blocks, before = reader.read(windows), 0
    for piece in task.pieces:
        number = -(-len(piece.rows) // _BLOCK_ROWS)
        block = join_blocks([next(blocks) for _ in range(number)])
        left_out = [position - piece.rows.start for position in reader.left_out[before:]]
        before += len(left_out)
        if task.schema.split is None:
            written = [_write(task, f"part-{piece.number:06}.arrow", block, len(piece.rows), left_out) | {"role": None}]
        else:
            divided = _divided(block, task, is_text)
            written = [
                _write(task, f"{role}-{piece.number:06}.arrow", of, len(of), []) | {"role": role}
                for role, of in divided.items()
                if len(of)
            ]
        record = {"parts": written, "bad_rows": len(left_out), "first_bad": reader.first_bad}
        write_json(_record(task.output, piece), record)
        step()


def _write(task: _Task, name: str, block: RowBlock, rows: int, left_out: list[int]) -> dict[str, Any]:
    path = task.output / name
    with written_aside(path) as aside:
        write_part(aside, block, task.schema)
        size, sha256 = aside.stat().st_size, file_sha256(aside)
    return {"name": name, "rows": rows, "bytes": size, "sha256": sha256, "left_out": left_out}


def _divided(block: RowBlock, task: _Task, is_text: bool) -> dict[str, RowBlock]:
    """By what they are for, without the column that says so.

    Raises:
        DataError: a value of the rule is none of the column's.
    """
    schema, rule = task.schema, task.schema.split
    assert rule is not None
    marks: np.ndarray | None
    if rule.column is None:
        marks = block.times
    else:
        features = block.features()
        marks = features[task.read.features.index(rule.column)].ids
        kept = [of for of, name in zip(features, task.read.features, strict=True) if name in schema.features]
        block = RowBlock.of(block.dense, kept, block.labels)
    assert marks is not None  # a split by times needs a time
    parts = rule.parts(marks, is_text)
    return {role: block.take(parts == number) for number, role in enumerate(_ROLES)}


def _of_split(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    Raises:
        DataError: no row is for a part.
    """
    found = []
    for role in _ROLES:
        parts = [_of_part(p) for record in records for p in record["parts"] if p["role"] == role]
        if not parts:
            raise DataError(
                f"the schema's split leaves no row to {'train' if role == TRAIN else 'validate' if role == VAL else 'test'} on"
            )
        found.append({"name": role, "role": role, "parts": parts})
    return found


def _of_files(
    files: Sequence[DataFile], pieces: Sequence[_Piece], records: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    parts: list[list[dict[str, Any]]] = [[] for _ in files]
    for piece, record in zip(pieces, records, strict=True):
        parts[piece.file] += map(_of_part, record["parts"])
    return [
        {"name": file.signature.name, "role": file.role, "parts": of} for file, of in zip(files, parts, strict=True)
    ]


def _of_part(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "role"}
