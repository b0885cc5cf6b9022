"""What commands write: over no device, no input of theirs, and no two outputs into one file; and how far they are."""

import io
import json
import os
import re
import sys
import time
from pathlib import Path

import pytest

from torchrec_pss import progress
from torchrec_pss.advise.__main__ import main as advise
from torchrec_pss.plan import __main__ as plan_command
from torchrec_pss.plan.__main__ import main as plan
from torchrec_pss.report.__main__ import main as report
from torchrec_pss.whole_file import write_json


def test_a_device_or_pipe_stays_what_it_is(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    os.symlink("/dev/null", tmp_path / "link")
    for path in (tmp_path / "pipe", tmp_path / "link", Path("/dev/null"), tmp_path):
        with pytest.raises(OSError, match="it is a device, pipe or folder, no file"):
            write_json(path, {})
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "link").is_char_device() and Path("/dev/null").is_char_device()


@pytest.mark.parametrize("command", ["plan", "plan --plot", "advise --json", "advise --plot", "advise twice", "report"])
def test_inputs_are_not_overwritten(tmp_path, command, capsys):
    tables, run = tmp_path / ("t.png" if command.endswith("--plot") else "t.json"), tmp_path / "run"
    tables.write_text(json.dumps([{"name": "a", "rows": 1000}]))
    run.mkdir()
    (run / "results.json").write_text("{}")
    other = tmp_path / "new" / ".." / tables.name  # the same by another name
    (tmp_path / "new").mkdir()
    calls = {
        "plan": (plan, ["--tables", tables, "--json", other], "--json .* is --tables too"),
        "plan --plot": (plan, ["--tables", tables, "--plot", other], "--plot .* is --tables too"),
        "advise --json": (advise, ["--tables", tables, "--json", other], "--json .* is --tables too"),
        "advise --plot": (advise, ["--tables", tables, "--plot", other], "--plot .* is --tables too"),
        "advise twice": (advise, ["--tables", tables, "--json", tmp_path / "x", "--plot", tmp_path / "x"], "--plot .* is --json too"),
        "report": (report, [run, "--output", run / "results.json"], "--output .* is RUN .* too"),
    }  # fmt: skip
    main, flags, message = calls[command]
    before = tables.read_bytes()
    with pytest.raises(SystemExit) as end:
        main([str(flag) for flag in flags])
    assert end.value.code == 2

    assert re.search(f"^error: {message}", capsys.readouterr().err)
    assert (
        tables.read_bytes() == before and (run / "results.json").read_text() == "{}" and not (tmp_path / "x").exists()
    )


def test_tables_of_which_there_is_nothing_to_draw(tmp_path, capsys):
    (tmp_path / "t.json").write_text(json.dumps([{"name": "a", "rows": 1, "dim": 1}]))
    flags = ["--tables", tmp_path / "t.json", "--json", tmp_path / "o.json", "--plot", tmp_path / "p.png"]
    with pytest.raises(SystemExit) as end:
        advise([str(flag) for flag in flags])
    assert end.value.code == 2 and "is not drawn: no compression has a layout" in capsys.readouterr().err
    assert not (tmp_path / "o.json").exists()


def test_long_work_says_how_far_it_is(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS", 0.01)
    plan(["--tables", "kaggle", "--world_size", "2"])
    told = capsys.readouterr().err
    assert all(
        re.search(rf"^planning --pss {m}: [\d,]+ proposals done, \d+ s$", told, re.MULTILINE) for m in ("auto", "never")
    )
    advise(["--tables", "kaggle", "--batch_size", "8"])
    told = capsys.readouterr().err
    assert re.search(r"^counting expected ids: \d+ of 26 tables done, 0 s$", told, re.MULTILINE)
    assert re.search(r"^dividing .* lookups: [1-7] of 8 compressions done, \d+ s$", told, re.MULTILINE)


@pytest.mark.parametrize("on_terminal", [False, True])
def test_a_terminal_has_a_bar_and_a_file_has_lines(on_terminal, monkeypatch):
    stream = io.StringIO()
    stream.isatty = lambda: on_terminal
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "SECONDS", 0.01)
    monkeypatch.setattr(progress, "_BAR_DELAY", 0)
    with pytest.raises(KeyError), progress.told("work", "step", 3) as step:
        step()
        time.sleep(0.3)
        raise KeyError
    assert ("work: 1 of 3 steps done, 0 s\n" in stream.getvalue()) != on_terminal
    assert ("work:  33%" in stream.getvalue()) == on_terminal
    before = stream.getvalue()
    time.sleep(0.1)
    assert stream.getvalue() == before  # nothing goes on


def test_the_plan_that_is_asked_for_is_printed_before_those_for_comparison(monkeypatch, capsys):
    def planned(args, tables, mode, real=plan_command.planned):
        seen.append((mode, "the array: " in capsys.readouterr().out))
        return real(args, tables, mode)

    seen = []
    monkeypatch.setattr(plan_command, "planned", planned)
    assert plan(["--tables", "kaggle", "--world_size", "2", "--pss", "always"]) == 0
    assert seen == [("always", False), ("auto", True), ("never", False)]
