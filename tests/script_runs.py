"""Scripts from their first line on, each rank a process with the environment that a launcher gives it."""

import os
import runpy
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import forked
import torch

EXAMPLES = Path(__file__).parent.parent / "examples"
_GRACE_SECONDS = 30


@dataclass
class Done:
    """``output``: stdout and stderr of all ranks, one rank after the other."""

    returncode: int
    output: str


def _rank(script: Path, flags: list[str], environment: dict[str, str], output: Path) -> None:
    os.environ.update(environment)
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = (
        os.fdopen(1, "w", buffering=1, closefd=False),
        os.fdopen(2, "w", buffering=1, closefd=False),
    )
    if environment:
        torch.set_num_threads(1)  # as torchrun does where it starts several
    sys.argv = [str(script), *flags]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")


def launched(ranks: int) -> list[dict[str, str]]:
    """What a launcher tells each of so many ranks on this host."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    return [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def run(
    script: str | Path, *flags, ranks: int = 1, check: bool = True, timeout: float = 400, killed_at: Path | None = None
) -> Done:
    """One of the examples, or the script at a path, on so many ranks; alone without a launcher's environment. Where one rank fails
    the others are ended. All are killed once there is a file ``killed_at``."""
    environments = launched(ranks) if ranks > 1 else [{}]
    arguments = [str(flag) for flag in flags]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / str(rank) for rank in range(ranks)]
        processes = [
            forked.context().Process(target=_rank, args=(EXAMPLES / script, arguments, environment, file))
            for environment, file in zip(environments, files, strict=True)
        ]
        for process in processes:
            process.start()
        code = _wait(processes, time.monotonic() + timeout, killed_at)
        output = "".join(file.read_text() for file in files if file.exists())
    assert not check or code == (0 if killed_at is None else -signal.SIGKILL), output[-6000:]
    return Done(code, output)


def _wait(processes: list, deadline: float, killed_at: Path | None) -> int:
    """Exit code of the first rank that fails, or 0. The others have as long as torchrun gives them to end too."""
    try:
        while True:
            codes = [process.exitcode for process in processes]
            failed = [code for code in codes if code]
            if failed or all(code == 0 for code in codes):
                break
            if killed_at is not None and killed_at.exists():
                return -signal.SIGKILL
            assert time.monotonic() < deadline, f"not done in time: exit codes {codes}"
            time.sleep(0.02)
        for process in processes:
            process.join(_GRACE_SECONDS)
        return failed[0] if failed else 0
    finally:
        for process in processes:
            process.kill()
            process.join()
