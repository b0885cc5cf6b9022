"""What a launcher says of this process. Checked when this is imported, before all else: torchmetrics reads LOCAL_RANK when it is imported,
and torch makes a temporary file.
"""

import os
import re
import sys
import tempfile

_MOST_RANKS = 1 << 20


def check_environment() -> None:
    """What a launcher says of this process, as `process_group.join` needs it.

    Raises:
        ValueError: a variable is missing, or no number of its range; names it and its value.
    """
    told = [name for name in ("RANK", "WORLD_SIZE") if name in os.environ]
    if not told:
        _number("LOCAL_RANK", 0, default=0)  # alone it chooses a GPU
        return
    if len(told) == 1:
        missing = "WORLD_SIZE" if told == ["RANK"] else "RANK"
        raise ValueError(
            f"{told[0]}={os.environ[told[0]]} is set, but {missing} is not: launchers set both, a process alone needs neither"
        )
    world_size = _number("WORLD_SIZE", 1, _MOST_RANKS)
    _number("RANK", 0, world_size - 1, f" of WORLD_SIZE={world_size}")
    local_size = _number("LOCAL_WORLD_SIZE", 1, world_size, f" of WORLD_SIZE={world_size}", default=world_size)
    _number("LOCAL_RANK", 0, local_size - 1, f" of {local_size} on a host", default=0)
    for name in ("TORCHELASTIC_MAX_RESTARTS", "TORCHELASTIC_RESTART_COUNT"):
        _number(name, 0, default=0)
    if world_size > 1:
        if not os.environ.get("MASTER_ADDR"):
            raise ValueError(f"WORLD_SIZE={world_size}, but MASTER_ADDR is not set: where rank 0 listens")
        _number("MASTER_PORT", 1, 65535)


def _number(name: str, least: int, most: int | None = None, of: str = "", default: int | None = None) -> int:
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    try:
        if not re.fullmatch(
            r"\s*[+-]?\d+\s*", text or "", re.ASCII
        ):  # Python also reads 1_0 and digits of other scripts
            raise ValueError
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least or (most is not None and value > most):
        wanted = f"from {least} to {most}" if most is not None else f"of at least {least}"
        raise ValueError(f"{name}={text or ''} is not a whole number {wanted}{of}")
    return value


try:
    check_environment()
    tempfile.gettempdir()
except (OSError, ValueError) as error:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2) from error
