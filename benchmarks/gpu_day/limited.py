"""A command with a time limit: its output in a file, and at the limit it is ended with its children."""

import contextlib
import faulthandler
import multiprocessing as mp
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

_LAST_WORDS = 2.0  # seconds for tracebacks of what hangs
_TICK = 0.05
_NOISE = ("USDT:", "Extension modules:")  # of the profiler, of a traceback


@dataclass(frozen=True)
class Ended:
    """``status``: exit status; None where the limit ended it. ``seconds``: it took."""

    status: int | None
    seconds: float


def run(
    command: list[str],
    log: Path,
    seconds: float,
    folder: Path,
    environment: Mapping[str, str],
    tick: Callable[[float], None] = lambda taken: None,
    fork: bool = False,
) -> Ended:
    """Runs a Python command, its output appended to ``log``.

    At the limit Python processes among it and its children write where they are (`faulthandler`), then all are killed.

    Args:
        command: `sys.executable`, and its arguments.
        folder: to run in.
        environment: beside this process's own.
        tick: called now and then with the seconds so far.
        fork: forked from this process, which has imported what takes long, instead of started. Not where this process has met CUDA.
    """
    started = time.monotonic()
    environment = {"PYTHONFAULTHANDLER": "1", "PYTHONUNBUFFERED": "1", **environment}
    with log.open("ab") as file:
        start = _forked if fork else _started
        pid, poll = start(command, file.fileno(), folder, environment)
        try:
            while (status := poll()) is None and time.monotonic() - started < seconds:
                time.sleep(_TICK)
                tick(time.monotonic() - started)
        finally:
            if poll() is None:
                _end(pid, poll)
    return Ended(status, time.monotonic() - started)


def _started(command: list[str], output: int, folder: Path, environment: Mapping[str, str]):
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        cwd=folder,
        env={**os.environ, **environment},
    )
    return process.pid, process.poll


def _forked(command: list[str], output: int, folder: Path, environment: Mapping[str, str]):
    process = mp.get_context("fork").Process(target=_as_command, args=(command, output, folder, environment))
    process.start()
    return process.pid, lambda: process.exitcode


def _as_command(command: list[str], output: int, folder: Path, environment: Mapping[str, str]) -> None:
    """This forked process as if ``command`` had started it."""
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
    faulthandler.enable()
    os.environ.update(environment)
    os.chdir(folder)
    arguments = [a for a in command[1:] if a != "-u"]
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(arguments[0]).parent))
        runpy.run_path(arguments[0], run_name="__main__")


def _end(pid: int, poll: Callable[[], int | None]) -> None:
    """A process and its children, told to say where they are, then killed."""
    members = [pid, *descendants(pid)]
    deadline = time.monotonic() + _LAST_WORDS
    for member in filter(_is_python, members):  # in turn, or they write into each other's lines
        _signal(member, signal.SIGABRT)
        while _lives(member) and time.monotonic() < deadline:
            poll()
            time.sleep(_TICK)
    for member in {*members, *descendants(pid)}:
        _signal(member, signal.SIGKILL)
    while poll() is None:
        time.sleep(_TICK)


def descendants(pid: int) -> list[int]:
    """Of a process, by /proc: parents before their children."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(int(entry))):
            children.setdefault(int(fields[1]), []).append(int(entry))
    found = list(children.get(pid, ()))
    for child in found:  # grows meanwhile
        found += children.get(child, ())
    return found


def _stat(pid: int) -> list[str] | None:
    """State, parent and so on; None where it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _lives(pid: int) -> bool:
    fields = _stat(pid)
    return fields is not None and fields[0] != "Z"


def _is_python(pid: int) -> bool:
    try:
        return "python" in Path(os.readlink(f"/proc/{pid}/exe")).name
    except OSError:
        return False


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def last_lines(log: Path, number: int = 12) -> list[str]:
    """Of a log, without what says nothing."""
    if not log.exists():
        return []
    with log.open("rb") as file:
        file.seek(max(log.stat().st_size - (1 << 16), 0))
        text = file.read().decode(errors="replace")
    lines = [line.rstrip() for part in text.splitlines() for line in part.split("\r")[-1:]]
    return [line[:300] for line in lines if line and not line.startswith(_NOISE)][-number:]
