"""A call of the day: parts in turn, each within its limit and that of the call, the report written after each."""

import os
import sys
import time
from collections.abc import Iterable

from benchmarks.gpu_day import limited
from benchmarks.gpu_day.parts import INTERPRETER, ROOT, Call, Part
from benchmarks.gpu_day.report import Report

FINE, FAILED, UNFINISHED = 0, 1, 3  # exit statuses
_LEAST = 5.0  # seconds that a part is begun for
_EVERY = 15.0  # seconds between two lines of progress


class Day:
    """
    Args:
        report: of the folder, of this and of earlier calls.
        seconds: that this call has.
        dry_run: parts are tiny, on the CPU, and forked from this process.
    """

    def __init__(self, report: Report, seconds: float, dry_run: bool) -> None:
        self._report, self._dry_run = report, dry_run
        self._end = time.monotonic() + seconds

    def run(self, parts: Iterable[Part]) -> int:
        """Runs what is not finished: first what was not begun or has some of its own time left, in order; then what was cut or has
        failed, as long as the call lasts. The exit status."""
        chosen = list(parts)
        begun: set[str] = set()
        for part in chosen:
            if self._report.state(part) in ("waiting", "cut", "left out") and self._own_time(part) >= _LEAST:
                self._run(part, min(self._own_time(part), self._left()), begun)
        for part in chosen:
            if self._report.state(part) == "cut" or (self._report.state(part) == "failed" and part.name not in begun):
                self._run(part, self._left(), begun)
        states = [self._report.state(part) for part in chosen]
        return FAILED if "failed" in states else UNFINISHED if {"cut", "waiting"} & {*states} else FINE

    def _left(self) -> float:
        return self._end - time.monotonic()

    def _own_time(self, part: Part) -> float:
        """What is left of the seconds that a part may take before the others have had their turn."""
        return part.seconds - self._report.seconds(part)

    def _run(self, part: Part, seconds: float, begun: set[str]) -> None:
        if why := part.lacks():
            self._report.set(part, "left out", why=why)
            say(f"{part.name}: left out, {why}")
            return
        if seconds < _LEAST:
            why = "no time was left in this call"
            if self._report.state(part) in ("waiting", "left out"):  # of others it says how they ended
                self._report.set(part, "waiting", why=why)
            say(f"{part.name}: {why}")
            return
        begun.add(part.name)
        self._report.set(part, "cut", why="it was begun, and the call ended with it")
        say(f"{part.name}: begins, {seconds:.0f} s at most ({part.says})")
        ended = self._start(part, seconds)
        if ended.status is None:
            self._report.set(part, "cut", ended.seconds, why=f"ended after {ended.seconds:.0f} s, at its limit")
        elif ended.status == UNFINISHED:
            self._report.set(
                part, "cut", ended.seconds, why=f"ended itself after {ended.seconds:.0f} s, with work left"
            )
        elif ended.status in part.fine:
            self._report.set(part, "passed", ended.seconds)
        else:
            last = limited.last_lines(part.log(self._report.folder))
            self._report.set(part, "failed", ended.seconds, why=f"exit status {ended.status}", last_lines=last)
        say(f"{part.name}: {self._report.said(part)}")

    def _start(self, part: Part, seconds: float) -> limited.Ended:
        folder, told = self._report.folder, [0.0]
        log = part.log(folder)
        call = Call(folder, self._report.call, seconds, self._dry_run)

        def tick(taken: float) -> None:
            if taken - told[0] >= _EVERY:
                told[0] = taken
                self._report.refresh()
                last = limited.last_lines(log, 1)
                say(f"{part.name}: {taken:.0f} of {seconds:.0f} s; {last[0][:100] if last else ''}")

        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = {"PYTHONPATH": path} | ({"TRITON_INTERPRET": "1"} if self._dry_run else {})
        return limited.run(
            [INTERPRETER, *part.command(call)], log, seconds, ROOT, environment, tick, fork=self._dry_run
        )


def say(text: str) -> None:
    """A line of progress, seen at once where stderr is kept in a file too."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
