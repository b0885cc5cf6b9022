"""How many lines of each program change: at most five, and as many as docs/project/parity.md says."""

import importlib
import re
from pathlib import Path

import pytest

from public_programs.ways import changed_lines

HERE = Path(__file__).parent
PROGRAMS = sorted(p.stem for p in HERE.glob("test_*.py") if p.stem != "test_lines")


@pytest.mark.parametrize("name", PROGRAMS)
def test_changed_lines(name):
    program = importlib.import_module(f"public_programs.{name}")
    found = {way: changed_lines(program, way) for way in ("swap", "planner")}
    text = (HERE.parents[1] / "docs/project/parity.md").read_text()
    row = re.search(rf"^\|.*public_programs/{name}\.py`.*$", text, re.MULTILINE)
    assert row, f"docs/project/parity.md has no row of {name}.py"
    swap, planner = ([int(n) for n in re.findall(r"\d+", cell)] for cell in row[0].split("|")[3:5])
    assert found == {"swap": sum(swap), "planner": sum(planner)}
    assert max(found.values()) <= 5
