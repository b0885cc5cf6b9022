"""What a part has finished, a JSON line a case, written as it comes: a part that is killed keeps it, and goes on behind it."""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

# More than a case is lost then: whatever this process asks of the device fails.
_LOST_DEVICE = ("CUDA error", "device-side assert", "illegal memory access", "launch failure", "misaligned address",
                "illegal instruction", "invalid program counter", "context is destroyed")  # fmt: skip


class Lines:
    """The file of a part.

    Args:
        path: of it; it is made.
        call: number of the day's call. Cases that failed in an earlier call are tried again.
    """

    def __init__(self, path: Path, call: int = 1) -> None:
        self._path, self._call = path, call
        self._known = read(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            with path.open("ab") as file:
                file.write(b"\n")  # behind the half line of a process that was killed

    @property
    def failed(self) -> int:
        """How many cases have failed at last."""
        return sum("error" in line for line in self._known.values())

    def is_done(self, case: str) -> bool:
        line = self._known.get(case)
        return line is not None and ("error" not in line or line["call"] == self._call)

    def add(self, case: str, **values: Any) -> None:
        """Writes a case's line. A number of it that is not finite, for which JSON has no word, makes it an error."""
        line = {"case": case, "call": self._call, **values}
        try:
            text = json.dumps(line, allow_nan=False)
        except ValueError:
            line = {"case": case, "call": self._call, "error": f"a number of it is not finite: {values}"[:300]}
            text = json.dumps(line)
        self._known[case] = line
        with self._path.open("a") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())

    def run(self, case: str, function: Callable[[], dict | None]) -> None:
        """Writes what ``function`` returns, unless the case is done; or how it failed. After an error of the device this process starts
        itself anew."""
        if self.is_done(case):
            return
        started = time.perf_counter()
        try:
            values = function() or {}
        except Exception as error:
            traceback.print_exc()
            self.add(case, error=said(error))
            print(f"{case}: failed", flush=True)
            if is_lost(error):
                restart()
            return
        self.add(case, **{"seconds": round(time.perf_counter() - started, 3)} | values)
        print(f"{case}: done in {time.perf_counter() - started:.1f} s", flush=True)


def read(path: Path) -> dict[str, dict]:
    """The last line of each case; a half line, of a process that was killed, is left out."""
    found: dict[str, dict] = {}
    if not path.exists():
        return found
    for text in path.read_text(errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and "case" in line:
            found[line["case"]] = line
    return found


def said(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text[:300]}"


def is_lost(error: BaseException) -> bool:
    """Whether the device answers this process no more."""
    return any(word in str(error) for word in _LOST_DEVICE)


def restart() -> None:
    """This process from its beginning; cases with a line are not repeated."""
    print("the device is lost to this process, which starts anew", flush=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, sys.orig_argv)
