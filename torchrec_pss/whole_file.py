"""Files that are whole at every moment: written aside, then renamed; and JSON that is JSON."""

import errno
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from torchrec_pss.regular_file import open_regular

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """An empty file beside ``path``, of this process alone, that becomes ``path`` at the end, or is removed where writing fails.
    The folder is made. A link at ``path`` is replaced, not followed.

    Raises:
        OSError: naming ``path``. So is what is there and no file: a device would be replaced by one, for everybody.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is a device, pipe or folder, no file", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        os.close(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o666))
        yield aside
        aside.replace(path)
    except OSError as error:
        if error.filename is None and error.errno is not None:  # as a write fails
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        aside.unlink(missing_ok=True)


def refuse_overwriting(outputs: Mapping[str, Path | None], inputs: Mapping[str, str | Path | None]) -> None:
    """Before anything is written, whether a command would write over what it reads, or twice over one file.

    Args:
        outputs, inputs: by flag; None where it is not given.

    Raises:
        ValueError: naming flags and path.
    """
    taken = {Path(path).resolve(): flag for flag, path in inputs.items() if path is not None}
    for flag, path in outputs.items():
        if path is None:
            continue
        other = taken.setdefault(path.resolve(), flag)
        if other != flag:
            raise ValueError(f"{flag} {path} is {other} too: it would be overwritten")


def write_bytes(path: Path, content: bytes) -> None:
    with written_aside(path) as aside, aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # before the name is given: a power cut leaves the old content or the new


def write_text(path: Path, content: str) -> None:
    write_bytes(path, content.encode())


def write_json(path: Path, content: object) -> None:
    """
    Raises:
        ValueError: a number of ``content`` is NaN or infinite, which JSON has no word for; names file and place.
    """
    write_bytes(path, json_bytes(path, content))


def json_bytes(path: Path, content: object) -> bytes:
    """What `write_json` writes. Raises as it does."""
    try:
        return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()
    except ValueError as error:
        found = _not_finite("", content)
        if found is None:
            raise
        raise ValueError(f"{path} is not written: {found[0]} is {found[1]}") from error


def _not_finite(place: str, content: object) -> tuple[str, float] | None:
    """Place and value of the first number that is NaN or infinite."""
    if isinstance(content, float):
        return None if math.isfinite(content) else (place, content)
    if isinstance(content, Mapping):
        inside = ((f"{place}.{key}" if place else str(key), value) for key, value in content.items())
    elif isinstance(content, (list, tuple)):
        inside = ((f"{place}[{number}]", value) for number, value in enumerate(content))
    else:
        return None
    return next((found for name, value in inside if (found := _not_finite(name, value))), None)


def read_json(path: Path) -> Any:
    """
    Raises:
        FileNotFoundError: it does not exist.
        OSError: it cannot be read.
        ValueError: it is no regular file, not UTF-8, or no JSON (of which NaN and Infinity are no part); names it.
    """
    with open_regular(path, os.O_RDONLY, follow=True) as file:
        content = file.read()
    return parse_json(path, content)


def write_figure(path: Path, figure: "Figure") -> None:
    """A plot, in the format of the path's ending; PNG without one.

    Raises:
        OSError: as `written_aside`.
    """
    with written_aside(path) as aside:
        figure.savefig(aside, dpi=110, format=path.suffix.removeprefix(".") or "png")


def parse_json(path: object, content: bytes) -> Any:
    """What `read_json` returns of a file with this content. Raises its ValueError."""
    try:
        return json.loads(content.decode(), parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError(f"{path} is no JSON that can be read: it is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"{path} is no JSON that can be read: {error}") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}")
