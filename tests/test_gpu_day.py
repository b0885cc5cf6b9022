"""`benchmarks.gpu_day`: every part runs dry, finished parts are not repeated, and neither a failure nor a limit loses anything."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import forked
import pytest
import torch

from benchmarks.gpu_day import day, limited, lines, workers
from benchmarks.gpu_day.guarded import Guarded
from benchmarks.gpu_day.parts import PARTS, Call, Part
from benchmarks.gpu_day.report import Report

ROOT = Path(__file__).parents[1]
_MACHINE = {"device": "none", "torch": torch.__version__, "triton": None}


def _main(*flags: object) -> int:
    from benchmarks.gpu_day.__main__ import main

    os.environ["PYTHONWARNINGS"] = "ignore"
    return main([str(flag) for flag in flags])


def _report(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="gpu_day itself is for that")
def test_every_part_runs_dry_and_is_not_repeated(tmp_path):
    status = forked.call(_main, "--dry-run", "--out", tmp_path)
    report = _report(tmp_path)
    states = {name: of["state"] for name, of in report["parts"].items()}
    lacking = {part.name for part in PARTS if part.lacks()}
    logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(tmp_path.glob("*.log")))
    assert status == 0, f"{states}\n{logs}"
    assert states == {part.name: "left out" if part.name in lacking else "passed" for part in PARTS}
    assert not {"correctness", "lookup", "script", "mlperf", "update"} & lacking
    for name in ("correctness", "lookup", "script", "mlperf", "update"):
        cases = report["parts"][name]["lines"]
        assert cases and not any("error" in line or "left_out" in line for line in cases), name
    assert {line["case"] for line in report["parts"]["script"]["lines"]} == {"array", "full tables"}
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# a dry run on the CPU") and "## lookup" in text
    assert "No table" not in text
    assert max(line.count("|") for line in text.splitlines()) <= 7  # six columns
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.jsonl")}
    assert forked.call(_main, "--dry-run", "--out", tmp_path) == 0
    assert before == {path.name: path.read_bytes() for path in tmp_path.glob("*.jsonl")}
    assert len(_report(tmp_path)["calls"]) == 2
    assert {name: of["state"] for name, of in _report(tmp_path)["parts"].items()} == states


def _script_part(folder: Path, name: str, text: str, seconds: float = 30.0) -> Part:
    """A part that is a script, which has its JSON lines' path and the call's number as arguments."""
    script = folder / f"{name}.py"
    script.write_text(text)

    def command(call: Call) -> list[str]:
        return ["-S", str(script), str(call.folder / f"{name}.jsonl"), str(call.number)]

    return Part(name, f"what {name} does", seconds, command)


_HANGS = """
import os, subprocess, sys, time
lines, call = sys.argv[1:]
if call == "1":
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"], start_new_session=True)
    open(lines, "a").write('{"case": "one", "call": 1, "child": %d}\\n{"case": "ha' % child.pid)
    time.sleep(60)
assert '"one"' in open(lines).read()
"""


def test_a_run_of_the_script_that_is_ended_says_where_it_was(tmp_path, monkeypatch):
    from benchmarks.gpu_day import script

    slow = tmp_path / "slow.py"
    slow.write_text("import time\nprint('step 50/100 loss 0.5 9000 samples/s')\ntime.sleep(60)\n")
    monkeypatch.setattr(script, "_SCRIPT", slow)
    monkeypatch.setattr(script, "_SECONDS", 1)
    wanted = r'ended at its limit of 1 s after step 50/100 .* 9000 samples/s; it was at File ".*slow.py", line 3'
    with pytest.raises(RuntimeError, match=wanted):
        script.train("array", (), tmp_path / "x.log", dry_run=False)


@pytest.fixture
def at_once(monkeypatch):
    """However little time is left, a part is begun."""
    monkeypatch.setattr(day, "_LEAST", 0.0)


def test_a_part_over_its_limit_is_ended_with_its_children_and_goes_on_in_the_next_call(tmp_path, at_once, monkeypatch):
    part = _script_part(tmp_path, "correctness", _HANGS, seconds=0.5)
    out = tmp_path / "out"
    assert day.Day(Report(out, _MACHINE, False, 1), 0.7, False).run([part]) == day.UNFINISHED
    of = _report(out)["parts"]["correctness"]
    assert of["state"] == "cut" and [line["case"] for line in of["lines"]] == ["one"]
    assert not limited._lives(of["lines"][0]["child"])
    assert 'correctness.py", line 7' in part.log(out).read_text()  # where it hung
    # Its own time is spent: it has what the call leaves.
    assert day.Day(Report(out, _MACHINE, False, 1), 30, False).run([part]) == day.FINE
    assert _report(out)["parts"]["correctness"]["state"] == "passed"


def test_a_part_that_fails_stops_no_other_and_is_tried_again_in_the_next_call(tmp_path, at_once, capfd):
    bad = _script_part(tmp_path, "host", "import sys; print('what went wrong'); sys.exit(int(sys.argv[2] == '1') * 7)")
    good = _script_part(tmp_path, "lookup", "print(open(__file__).name)")
    out = tmp_path / "out"
    assert day.Day(Report(out, _MACHINE, False, 1), 60, False).run([bad, good]) == day.FAILED
    parts = _report(out)["parts"]
    assert parts["host"]["state"] == "failed" and parts["host"]["last_lines"] == ["what went wrong"]
    assert parts["host"]["why"] == "exit status 7" and parts["lookup"]["state"] == "passed"
    assert "what went wrong" in (out / "report.md").read_text()
    told = capfd.readouterr().err
    assert told.count("host: ") == 2 and told.count("lookup: ") == 2
    assert day.Day(Report(out, _MACHINE, False, 1), 60, False).run([bad, good]) == day.FINE
    assert capfd.readouterr().err.count("lookup: ") == 0  # it had passed


def test_a_part_that_ends_itself_with_work_left_is_cut(tmp_path, at_once):
    part = _script_part(tmp_path, "tournament", "import sys; sys.exit(3 * int(sys.argv[2] == '1'))")
    out = tmp_path / "out"
    assert day.Day(Report(out, _MACHINE, False, 1), 0.5, False).run([part]) == day.UNFINISHED
    assert _report(out)["parts"]["tournament"]["state"] == "cut"
    assert day.Day(Report(out, _MACHINE, False, 1), 30, False).run([part]) == day.FINE


def test_a_part_that_has_no_time_waits(tmp_path):
    part = _script_part(tmp_path, "host", "")
    out = tmp_path / "out"
    assert day.Day(Report(out, _MACHINE, False, 1), 1, False).run([part]) == day.UNFINISHED
    assert _report(out)["parts"]["host"]["why"] == "no time was left in this call"


def test_a_report_is_of_one_device(tmp_path):
    Report(tmp_path, _MACHINE, False, 1)
    with pytest.raises(ValueError, match="is of device none, and here it is another: give another --out"):
        Report(tmp_path, _MACHINE | {"device": "another"}, False, 1)
    with pytest.raises(ValueError, match="is of dry_run False"):
        Report(tmp_path, _MACHINE, True, 1)


def test_flags(tmp_path, capsys):
    assert _main("--list") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [part.name for part in PARTS]
    for flag, value in (("--only", "lookup,lokup"), ("--minutes", "0")):
        with pytest.raises(SystemExit) as left:
            _main(flag, value)
        assert left.value.code == 2 and flag in capsys.readouterr().err


def test_lines_are_kept_and_failures_tried_once_a_call(tmp_path):
    path, ran = tmp_path / "x.jsonl", []

    def fails():
        ran.append(1)
        raise ValueError("no\nwonder")

    for call in (1, 1, 2):
        done = lines.Lines(path, call)
        done.run("good", lambda: {"value": 1.5})
        done.run("bad", fails)
        assert done.failed == 1
    assert len(ran) == 2
    with path.open("a") as file:
        file.write('{"case": "half')
    done = lines.Lines(path, 3)
    done.add("bad", value=float("nan"))
    found = lines.read(path)
    assert found["good"]["value"] == 1.5 and set(found) == {"good", "bad"}
    assert found["bad"]["error"] == "a number of it is not finite: {'value': nan}"


def test_canaries_fall_where_something_writes_or_reads_beside_a_tensor():
    guard = Guarded()
    with guard:
        made = torch.zeros(3)
        assert guard.has(made) and not made.any()
    assert guard.check("made") == 1
    assert torch.as_strided(made, (1,), (1,), made.storage_offset() + 3).isnan().all()
    for beside, side in ((-1, "before"), (3, "behind")):
        guard = Guarded()
        made = guard.inside(torch.ones(3))
        torch.as_strided(made, (1,), (1,), made.storage_offset() + beside).fill_(7)
        with pytest.raises(AssertionError, match=f"4 bytes {side} a tensor of 12 bytes were written"):
            guard.check("made")


def _dies() -> None:
    os._exit(9)


def _loses_the_device() -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def _pid() -> dict:
    return {"pid": os.getpid()}


def _found(jobs) -> dict:
    return dict(workers.done_by(jobs, 1, "fork"))


def test_a_worker_that_dies_costs_the_job_in_hand():
    jobs = [("a", _pid), ("dies", _dies), ("b", _pid), ("loses", _loses_the_device), ("c", _pid), ("d", _pid)]
    found = forked.call(_found, jobs)
    assert set(found) == {name for name, _ in jobs}
    assert found["dies"]["error"] == "the process died with exit code 9" and "CUDA error" in found["loses"]["error"]
    assert len({found[name]["pid"] for name in "abc"}) == 3 and found["c"]["pid"] == found["d"]["pid"]


def test_tests_that_passed_are_not_run_again(tmp_path):
    (tmp_path / "test_x.py").write_text(
        "import os, pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert os.environ.get('MENDED')\n"
        "def test_skipped(): pytest.skip('one device')\n"
    )
    path = tmp_path / "several.jsonl"
    run = partial(subprocess.run, cwd=tmp_path, capture_output=True, text=True, check=False)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "benchmarks.gpu_day.pytest_lines"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = run([*command, f"--lines={path}", "--call=1"], env=environment)
    found = lines.read(path)
    assert first.returncode == 1 and found["test_x.py::test_skipped"]["left_out"] == "one device"
    assert "error" in found["test_x.py::test_bad"] and "seconds" in found["test_x.py::test_good"]
    second = run([*command, f"--lines={path}", "--call=2"], env=environment | {"MENDED": "1"})
    assert second.returncode == 0 and "1 passed, 2 deselected" in second.stdout, second.stdout + second.stderr
    assert "seconds" in lines.read(path)["test_x.py::test_bad"]
