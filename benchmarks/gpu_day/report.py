"""The day's report: `report.json` for programs, `report.md` for people, written whole whenever a part's state changes."""

from pathlib import Path
from typing import Any

from benchmarks.gpu_day import lines, tables
from benchmarks.gpu_day.parts import PARTS, Part
from torchrec_pss.whole_file import read_json, write_json, write_text

_SAME = ("device", "torch", "triton", "dry_run")


class Report:
    """
    Args:
        folder: of the day; it is made. A report in it is gone on with.
        machine: of `benchmarks.gpu_day.machine.described`.
        dry_run: whether figures mean nothing.
        minutes: of this call.

    Attributes:
        call: number of this call, from 1 on.

    Raises:
        ValueError: the folder's report is of another device, of other versions, or a dry run and this is none.
    """

    def __init__(self, folder: Path, machine: dict, dry_run: bool, minutes: float) -> None:
        self.folder = folder
        path = folder / "report.json"
        told = machine | {"dry_run": dry_run}
        self._content: dict[str, Any] = read_json(path) if path.exists() else told | {"calls": [], "parts": {}}
        for name in _SAME:
            if self._content.get(name) != told.get(name):
                raise ValueError(
                    f"{path} is of {name} {self._content.get(name)}, and here it is {told.get(name)}: give another --out"
                )
        self.call = len(self._content["calls"]) + 1
        self._content["calls"].append({"minutes": minutes})
        folder.mkdir(parents=True, exist_ok=True)
        self.refresh()

    def state(self, part: Part) -> str:
        """ "passed", "failed", "cut", "left out" or "waiting"."""
        return self._of(part).get("state", "waiting")

    def seconds(self, part: Part) -> float:
        """It took so far."""
        return self._of(part).get("seconds", 0.0)

    def set(self, part: Part, state: str, seconds: float = 0.0, **values: Any) -> None:
        """Notes how a part ended, with ``seconds`` more, and writes the report."""
        taken = round(self.seconds(part) + seconds, 1)
        self._content["parts"][part.name] = {"state": state, "seconds": taken, "limit": part.seconds, **values}
        self.refresh()

    def leave_out(self, part: Part, why: str) -> None:
        """Notes why a part that is not finished does not run in this call."""
        if self.state(part) == "waiting":
            self.set(part, "waiting", why=why)

    def said(self, part: Part) -> str:
        """A part's state in a line."""
        of, cases = self._of(part), lines.read(part.lines(self.folder)).values()
        errors = [line for line in cases if "error" in line]
        text = f"{of['state']}, {len(cases)} lines in {of['seconds']:.0f} s"
        text += f", {len(errors)} failed, the first: {errors[0]['case']}: {errors[0]['error']}" if errors else ""
        return text + (f" ({of['why']})" if "why" in of else "")

    def _of(self, part: Part) -> dict[str, Any]:
        return self._content["parts"].get(part.name, {})

    def refresh(self) -> None:
        """Writes it, with what parts have finished by now."""
        for part in PARTS:
            of = self._content["parts"].setdefault(
                part.name, {"state": "waiting", "seconds": 0.0, "limit": part.seconds}
            )
            of["lines"] = list(lines.read(part.lines(self.folder)).values())
            of["json"] = _json_of(part.json(self.folder))
        write_json(self.folder / "report.json", self._content)
        write_text(self.folder / "report.md", tables.page(self._content))


def _json_of(path: Path) -> Any:
    """What a benchmark wrote by now; None where it has not, or was ended while it did."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None
