"""A run of an example, `train_criteo.py` unless said, whose results are kept in a folder: made once, then read."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPT = EXAMPLES / "train_criteo.py"
_BAD_INPUT = 2  # the script's exit status, after a clear error


def results_of(folder: Path, flags: Sequence[str], processes: int = 1, script: Path | None = None) -> dict:
    """The script's ``results.json``; its output is in ``folder/output.txt``.

    Raises:
        ValueError: the script refused flags or data, with its error (of one process: torchrun does not pass the status on).
        subprocess.CalledProcessError: it failed otherwise.
    """
    results = folder / "results.json"
    if not results.exists():
        _train(script or SCRIPT, folder, flags, processes)
    return json.loads(results.read_text())


def each(run: Callable[..., Any], runs: Sequence[tuple], workers: int, description: str) -> dict[tuple, Any]:
    """What ``run(*arguments)`` returns, by the arguments; so many at a time."""
    with ThreadPoolExecutor(workers) as pool:
        done = tqdm(pool.map(lambda of: run(*of), runs), total=len(runs), desc=description, mininterval=10)
        return dict(zip(runs, done, strict=True))


def _train(script: Path, folder: Path, flags: Sequence[str], processes: int) -> None:
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*launch, str(script), *flags, "--output_dir", str(folder)]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "output.txt"
    with open(path, "w") as output:
        status = subprocess.run(
            command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=output, stderr=subprocess.STDOUT
        ).returncode
    if status == _BAD_INPUT:
        raise ValueError(path.read_text().strip().splitlines()[-1])
    if status:
        raise subprocess.CalledProcessError(status, command)
