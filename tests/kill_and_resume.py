"""Kills a training at random moments with SIGKILL, resumes it, and compares it with one that nobody disturbed.

python tests/kill_and_resume.py [--kills 20] [--seed 0]    (make stress)
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from torchrec_pss.flags import Parser, add_number

ROOT = Path(__file__).parent.parent
FLAGS = ["--synthetic_rows", "40000", "--synthetic_scale", "0.01", "--batch_size", "256", "--test_batch_size", "512",
         "--epochs", "5", "--checkpoint_freq", "15", "--log_freq", "5", "--shuffle_batches", "--limit_val_batches", "2"]  # fmt: skip
_LATEST = 2.5  # seconds after the first step, at most, until the kill
_TIMEOUT = 300


def start(folder: Path, *flags: str, restarts: int = 0) -> subprocess.Popen:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launcher += ["--max-restarts", str(restarts)]
    command = [*launcher, str(ROOT / "examples/train_criteo.py"), *FLAGS, "--output_dir", str(folder), *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "output.txt", "a") as stream:
        return subprocess.Popen(command, env=environment, stdout=stream, stderr=stream, start_new_session=True)


def undisturbed(folder: Path) -> None:
    if start(folder).wait(_TIMEOUT) != 0:
        raise RuntimeError(f"the undisturbed run failed, see {folder / 'output.txt'}")


def kill_soon(process: subprocess.Popen, folder: Path, random_: random.Random) -> bool:
    """Kills the run, with all its processes, some time after it has taken a step; False where it ended by itself."""
    wait_for(b" samples/s", process, folder)
    deadline = time.monotonic() + random_.uniform(0, _LATEST)
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    if process.poll() is not None:
        return False
    kill_all(process)
    return True


def kill_all(process: subprocess.Popen) -> None:
    """The launcher and its workers, which have sessions of their own and would go on without it."""
    for pid in [process.pid, *_workers(process)]:
        os.kill(pid, signal.SIGKILL)
    process.wait()


def wait_for(text: bytes, process: subprocess.Popen, folder: Path) -> None:
    """Until the run has added ``text`` to its log, or has ended."""
    log, begun = folder / "log.txt", time.monotonic()
    length = log.stat().st_size if log.exists() else 0
    while process.poll() is None and not (log.exists() and text in log.read_bytes()[length:]):
        if time.monotonic() - begun > _TIMEOUT:
            raise RuntimeError(f"no {text!r} within {_TIMEOUT} seconds, see {log}")
        time.sleep(0.02)


def _workers(process: subprocess.Popen) -> list[int]:
    """Pids of the processes that torchrun started, by rank."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if int((path / "stat").read_text().rsplit(")", 1)[1].split()[1]) == process.pid:
                environment = dict(e.split(b"=", 1) for e in (path / "environ").read_bytes().split(b"\0") if b"=" in e)
                found[int(environment[b"RANK"])] = int(path.name)
        except (FileNotFoundError, ProcessLookupError, KeyError):
            continue
    return [found[rank] for rank in sorted(found)]


def kill_worker(process: subprocess.Popen, rank: int) -> None:
    """Kills one of the processes that torchrun started."""
    os.kill(_workers(process)[rank], signal.SIGKILL)


def disturbed(folder: Path, kills: int, seed: int) -> int:
    """Trains to the end under so many kills; how many there were. A run that ends before its kill ends the training."""
    random_ = random.Random(seed)
    for done in range(kills):
        process = start(folder, *_resume(folder))
        if not kill_soon(process, folder, random_):
            if process.returncode != 0:
                raise RuntimeError(f"a resumed run failed, see {folder / 'output.txt'}")
            return done
    if start(folder, *_resume(folder)).wait(_TIMEOUT) != 0:
        raise RuntimeError(f"the last resumed run failed, see {folder / 'output.txt'}")
    return kills


def _resume(folder: Path) -> list[str]:
    there = [(folder / name / "progress.json").exists() for name in ("checkpoint", "checkpoint.old")]
    return ["--resume"] if any(there) else []


def differences(first: Path, second: Path) -> list[str]:
    """Names of what differs between two runs' last checkpoints, bit for bit: parameters, averages, optimizer states."""
    states = []
    with tempfile.TemporaryDirectory() as scratch:
        for number, folder in enumerate((first, second)):
            path = Path(scratch) / f"{number}.pt"
            dcp_to_torch_save(folder / "checkpoint", path)
            states.append(dict(_tensors("", torch.load(path, weights_only=True))))
    if set(states[0]) != set(states[1]) or len(states[0]) < 10:
        return sorted(set(states[0]) ^ set(states[1])) or ["nearly nothing was saved"]
    return [name for name, value in states[0].items() if not _same_bits(value, states[1][name])]


def _tensors(prefix: str, state):
    for key, value in state.items():
        if isinstance(value, dict):
            yield from _tensors(f"{prefix}{key}/", value)
        elif isinstance(value, torch.Tensor):
            yield f"{prefix}{key}", value


def _same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    return first.shape == second.shape and first.numpy().tobytes() == second.numpy().tobytes()


def main() -> int:
    parser = Parser(description=__doc__.split("\n")[0])
    add_number(parser, "--kills", default=20)
    add_number(parser, "--seed", default=0)
    args = parser.parse_args()
    left, seed = args.kills, args.seed
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole"
        undisturbed(whole)
        while left > 0:
            folder = Path(scratch) / f"killed{seed}"
            done = disturbed(folder, min(left, 5), seed)
            found = differences(whole, folder)
            print(
                f"seed {seed}: {done} kills, {'differs: ' + ', '.join(found) if found else 'equal to the bit'}",
                flush=True,
            )
            if found:
                return 1
            left, seed = left - max(done, 1), seed + 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
