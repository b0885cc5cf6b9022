"""Which files of a folder are Criteo's, in which order, and what each is for."""

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from torchrec_pss.datasets.criteo_dialect import Dialect, NotCriteoError
from torchrec_pss.datasets.errors import DataError
from torchrec_pss.datasets.file_kinds import regular_file, why_no_text
from torchrec_pss.datasets.file_roles import TRAIN, arrange, check_doubled, roles_of, without_suffix
from torchrec_pss.datasets.locations import AnyPath, Location, is_remote, location
from torchrec_pss.datasets.schema import Schema

logger: logging.Logger = logging.getLogger(__name__)

_SUFFIXES = (".txt", ".tsv", ".csv", ".txt.gz", ".tsv.gz", ".csv.gz")
_DAY = re.compile(r"day_-?[0-9]+", re.IGNORECASE)
_PART = re.compile(r"(day_|part-)-?[0-9]+", re.IGNORECASE)
_NOT_DATA = (".", "~", "#")  # what the names of hidden files and of editors' copies begin with
_LISTED = 20  # names that a line has at most


@dataclass(frozen=True)
class FoundFile:
    """A file of rows; ``role``: see `file_roles.arrange`."""

    path: Location
    role: str | None
    dialect: Dialect


def find_rows(path: AnyPath, schema: Schema | None = None) -> list[FoundFile]:
    """The Criteo files that ``path`` names, in the order of their rows: itself, or those of a folder. With a ``schema``: the text files with
    its columns, by the same rules; each must have them.

    Of a folder: the ``day_*`` files by number; without any, every text file in natural order, or, where names say what
    files are for, those to train on, then to validate and to test on. A file without labels to validate or test on is left
    out; so is what is no Criteo file beside names that speak or days. What is left out is logged.

    Raises:
        FileNotFoundError: no such path, or a folder without such files.
        ValueError: a file that cannot be read, is there twice, or is not Criteo's, or names that cannot be understood
            together; names them.
    """
    path = location(path)
    try:
        is_folder = path.is_dir()
        names = sorted(p.name for p in path.iterdir()) if is_folder else []
    except OSError as error:
        raise ValueError(f"data path {path} is unreadable: {error}") from error
    if not is_folder:
        if roles_of(path.name) and TRAIN not in roles_of(path.name):
            logger.warning("%s is not for training by its name; alone, it is divided into all three parts", path)
        return [FoundFile(path, None, _with_labels(path) if schema is None else Dialect.of_schema(path, schema))]
    left_out: dict[str, str] = {}
    visible = [name for name in names if not name.startswith(_NOT_DATA) and not name.endswith("~")]
    candidates = [name for name in visible if _may_hold_rows(path / name, left_out, schema)]
    if schema is None:
        dialects = _dialects(path, candidates, left_out)
    else:
        dialects = _dialects_of(schema, path, candidates, left_out)
    others = [name for name in visible if name not in dialects and name not in left_out and not (path / name).is_dir()]
    if not dialects:
        raise FileNotFoundError(
            f"no {'Criteo' if schema is None else 'text'} file (day_*, train.txt, or any of {', '.join(_SUFFIXES)}) in folder {path}"
            + "".join(f"; {name}: {left_out.get(name) or _format(path / name)}" for name in [*left_out, *others][:3])
        )
    try:
        check_doubled(list(dialects))
        _check_links(path, list(dialects))
        found = [FoundFile(path / name, role, dialects[name]) for name, role in arrange(list(dialects))]
    except ValueError as error:
        raise ValueError(f"data folder {path}: {error}") from error
    for name, reason in left_out.items():
        logger.info("left out %s: %s", path / name, reason)
    if others:
        more = f" and {len(others) - _LISTED:,} files" if len(others) > _LISTED else ""
        logger.info("left out, for their names are not those of text: %s%s", ", ".join(others[:_LISTED]), more)
    return found


def _may_hold_rows(path: Location, left_out: dict[str, str], schema: Schema | None) -> bool:
    """By its name. A name without a suffix must speak of a role, a day or a part, and what is in the file decides.

    Raises:
        ValueError: it is no file, though named as one."""
    name = path.name
    if name.lower().endswith(_SUFFIXES) or _is_day(name):
        regular_file(path, "data file")
        return True
    bare = without_suffix(name)
    if "." in bare or path.is_dir() or not (roles_of(name) or _PART.search(bare)):
        return False
    if schema is not None:
        return name.lower().removesuffix(".gz") == bare.lower()  # and what it has decides
    try:
        Dialect.of(path)
    except (FileNotFoundError, ValueError) as error:
        _refuse_unread(path, error)
        left_out[name] = _without_name(error, path)
        return False
    return True


def _refuse_unread(path: Location, error: Exception) -> None:
    """A file that a store does not hand out is not left out: it may be there again for the next run, which would have other rows."""
    if is_remote(path) and isinstance(error, DataError):
        raise error


def _format(path: Location) -> str:
    try:
        regular_file(path, "data file")
        with path.open("rb") as stream:
            return why_no_text(stream.read(512)) or "not a name of text"
    except (OSError, ValueError) as error:
        return _without_name(error, path)


def _without_name(error: Exception, path: Location) -> str:
    return str(error).removeprefix(f"data file {path} ")


def _is_day(name: str) -> bool:
    return _DAY.fullmatch(without_suffix(name)) is not None


def _dialects(folder: Location, names: Sequence[str], left_out: dict[str, str]) -> dict[str, Dialect]:
    """Of the files whose rows are used; fills in why others are not."""
    speaking = {name: Dialect.of(folder / name) for name in names if roles_of(name)}
    for name in [name for name, dialect in speaking.items() if not dialect.labelled]:
        if TRAIN in roles_of(name):
            _with_labels(folder / name)
        left_out[name] = "it has no labels"
        del speaking[name]
    silent = [name for name in names if name not in speaking and name not in left_out]
    days = [name for name in silent if _is_day(name)]
    if not speaking:
        left_out.update(dict.fromkeys((name for name in silent if days and name not in days), "it is no day"))
        return {name: _with_labels(folder / name) for name in days or silent}
    for name in silent:
        try:
            dialect = Dialect.of(folder / name)
        except NotCriteoError as error:
            if name in days:
                raise
            left_out[name] = _without_name(error, folder / name)
            continue
        if dialect.labelled:
            speaking[name] = dialect
        else:
            left_out[name] = "it has no labels"
    return speaking


def _dialects_of(
    schema: Schema, folder: Location, names: Sequence[str], left_out: dict[str, str]
) -> dict[str, Dialect]:
    """Of the files whose rows are used; fills in why others are not: where names speak, only files to train on must have all columns."""
    speaking, found = [name for name in names if roles_of(name)], {}
    for name in names:
        try:
            found[name] = Dialect.of_schema(folder / name, schema)
        except ValueError as error:
            _refuse_unread(folder / name, error)
            if not speaking or TRAIN in roles_of(name):
                raise
            left_out[name] = _without_name(error, folder / name)
    if speaking:
        left_out.update(
            dict.fromkeys((name for name in found if name not in speaking), "its name does not say what it is for")
        )
    return {name: dialect for name, dialect in found.items() if not speaking or name in speaking}


def _with_labels(path: Location) -> Dialect:
    dialect = Dialect.of(path)
    if not dialect.labelled:
        raise NotCriteoError(f"data file {path} has no labels: a row is a label, 13 numbers and 26 tokens")
    return dialect


def _check_links(folder: Location, names: Sequence[str]) -> None:
    """Refuses two names of one file, by a symbolic link or a hard one."""
    if is_remote(folder):
        return  # stores have no links
    seen: dict[tuple[int, int], str] = {}
    for name in names:
        status = cast(os.stat_result, regular_file(folder / name, "data file"))
        first = seen.setdefault((status.st_dev, status.st_ino), name)
        if first != name:
            raise ValueError(f"{first} and {name} are one file by a link: take one of them out of the folder")
