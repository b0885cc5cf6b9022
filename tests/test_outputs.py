"""What commands write: over no device, no input of theirs, and no two outputs into one file."""

import json
import os
import re
from pathlib import Path

import pytest

from torchrec_pss.advise.__main__ import main as advise
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


@pytest.mark.parametrize("command", ["plan", "advise --json", "advise --plot", "advise twice", "report"])
def test_inputs_are_not_overwritten(tmp_path, command, capsys):
    tables, run = tmp_path / ("t.png" if command == "advise --plot" else "t.json"), tmp_path / "run"
    tables.write_text(json.dumps([{"name": "a", "rows": 1000}]))
    run.mkdir()
    (run / "results.json").write_text("{}")
    other = tmp_path / "new" / ".." / tables.name  # the same by another name
    (tmp_path / "new").mkdir()
    calls = {
        "plan": (plan, ["--tables", tables, "--json", other], "--json .* is --tables too"),
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
