"""Part `script`: `examples/train_criteo.py` whole, the array and full tables at Kaggle's shape, each run with its own limit."""

import json
import os
import re
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.gpu_day import limited, part_flags

ROOT = Path(__file__).parents[2]
_SCRIPT = ROOT / "examples/train_criteo.py"
_SECONDS = 100  # of a run
_KEPT = ("samples_per_second", "train_seconds", "data_wait_share", "steps", "auroc_test", "auroc_bayes", "embedding_bytes",
         "full_embedding_bytes", "compression", "device")  # fmt: skip
_ROWS = ("--synthetic_rows", "3000000", "--epochs", "1", "--limit_val_batches", "50", "--limit_test_batches", "100",
         "--validation_freq_within_epoch", "800", "--log_freq", "50", "--pin_memory")  # fmt: skip
_TINY = ("--synthetic_rows", "2048", "--synthetic_scale", "0.0005", "--epochs", "1", "--batch_size", "512",
         "--limit_val_batches", "1", "--limit_test_batches", "1", "--log_freq", "2")  # fmt: skip
_LARGE = ("--batch_size", "16384", "--validation_freq_within_epoch", "100", "--log_freq", "10")
_RUNS: dict[str, tuple[str, ...]] = {
    "array": (),
    "full tables": ("--embedding", "full"),
    "full tables, Adagrad in backward": ("--embedding", "full", "--recipe", "torchrec_dlrm"),
    "array, batch 16384": _LARGE,
    "full tables, batch 16384": ("--embedding", "full", *_LARGE),
    "full tables, Adagrad in backward, batch 16384": ("--embedding", "full", "--recipe", "torchrec_dlrm", *_LARGE),
}
# Of the array, where the script has the flag.
_OPTIONAL = ("--cuda_graph", "--compile")


def runs(help_text: str, dry_run: bool) -> dict[str, tuple[str, ...]]:
    """Flags of every run, by name."""
    found = {name: _RUNS[name] for name in ("array", "full tables")} if dry_run else dict(_RUNS)
    if dry_run:  # both need a GPU
        return found
    there = [flag for flag in _OPTIONAL if re.search(rf"{flag}\b", help_text)]
    for flag in there:
        found[f"array, {flag}"] = (flag,)
        found[f"array, batch 16384, {flag}"] = (*_LARGE, flag)
    return found


def train(name: str, flags: tuple[str, ...], log: Path, dry_run: bool) -> dict:
    """One run, in a folder that is removed: results, and where the time went.

    Raises:
        RuntimeError: it failed, or was ended at its limit; with its last line.
    """
    rows = _TINY if dry_run else _ROWS
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(_SCRIPT), "--output_dir", folder, *rows, *flags]
        with log.open("a") as file:
            file.write(f"== {name}: train_criteo.py {' '.join([*rows, *flags])}\n")
        begins = log.stat().st_size
        ended = limited.run(command, log, _SECONDS, ROOT, {}, fork=dry_run)
        text = log.read_bytes()[begins:].decode(errors="replace")
        said = _said(text)
        if ended.status != 0:
            how = f"ended at its limit of {_SECONDS} s" if ended.status is None else f"exit status {ended.status}"
            where = _hung_at(text) or " / ".join(limited.last_lines(log, 1))
            raise RuntimeError(f"{how} after {said}; {where}")
        results = json.loads((Path(folder) / "results.json").read_text())
    found = {key: results[key] for key in _KEPT if results.get(key) is not None}
    found |= {key: value for key, value in results.items() if "memory" in key and value is not None}
    found["curve"] = [[h["step"], h["auroc_val"]] for h in results["history"] if "auroc_val" in h]
    found["wall_seconds"] = ended.seconds
    found["outside_training_seconds"] = ended.seconds - results["train_seconds"]
    return found | {"said": said}


def _said(text: str) -> str:
    """Its last lines that tell speed: of a run that did not end, how far it was and what it waited for."""
    told = [line for line in text.splitlines() if "samples/s" in line]
    return told[-1].split("\r")[-1][:200] if told else "no step was logged"


def _hung_at(text: str) -> str | None:
    """The line that the main thread was at when it was ended; the whole traceback is in the log."""
    found = re.search(r"Current thread[^\n]*\n\s*(File [^\n]*)", text)
    return found and f"it was at {found[1]}"


def help_of_script() -> str:
    """What flags there are."""
    command = [sys.executable, str(_SCRIPT), "--help"]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ, check=False).stdout


def main() -> int:
    args = part_flags.parse(__doc__)
    help_text = "" if args.dry_run else help_of_script()
    log = args.lines.with_name("script_runs.log")
    for name, flags in runs(help_text, args.dry_run).items():
        args.done.run(name, partial(train, name, flags, log, args.dry_run))
    return int(args.done.failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
