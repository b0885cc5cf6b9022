"""The suite on several versions of TorchRec, on a small TorchRec and a small suite made here."""

import json
import subprocess
import sys
from pathlib import Path

import matrix
import pytest

HERE = Path(__file__).parent
SUITE = """
import torchrec

def test_passes():
    assert torchrec.__version__ == "0.0.1"

def test_fails():
    assert False

def test_is_skipped():
    import pytest
    pytest.skip("no reason")
"""


@pytest.fixture
def folder(tmp_path):
    """As pip has left it; of the package no more than what is looked at."""
    package = tmp_path / "matrix" / "torchrec-0.0.1" / "torchrec"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = '0.0.1'\n")
    return tmp_path / "matrix"


def run(folder, *flags):
    command = [sys.executable, HERE / "matrix.py", "--folder", folder, *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_outcomes_of_a_part(folder, tmp_path):
    suite = tmp_path / "suite" / "test_suite.py"
    suite.parent.mkdir()
    suite.write_text(SUITE)
    page, found = tmp_path / "page.md", tmp_path / "found.json"
    page.write_text(f"{matrix._HEAD}\n|---|---|---|---|---|\n")
    found.write_text(json.dumps({"1.0.0": {"arguments": ["tests/x.py"]}}))
    flags = ["--versions", "0.0.1", "--json", found, "--doc", page, "--", str(suite), "-n", "0"]
    done = run(folder, *flags)
    assert done.returncode == 1, done.stderr
    assert "TorchRec 0.0.1: 1 passed, failed: test_suite.test_fails; 1 skipped" in done.stdout
    outcome = json.loads(found.read_text())["0.0.1"]
    assert (outcome["passed"], outcome["failed"], outcome["skipped"]) == (1, ["test_suite.test_fails"], 1)
    assert outcome["arguments"] == flags[-3:] and "torch" in outcome["beside"]
    assert page.read_text().count("\n") == 2  # a part of the suite is not on the page
    assert "1.0.0" in json.loads(found.read_text())
    assert "1 failed" in (folder / "torchrec-0.0.1.log").read_text()
    done = run(folder, *flags[:-3], str(suite), "-k", "passes")
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_what_is_imported_is_looked_at(folder):
    renamed = folder / "torchrec-0.0.2"
    (folder / "torchrec-0.0.1").rename(renamed)
    done = run(folder, "--versions", "0.0.2")
    assert done.returncode == 2 and f"{renamed} has TorchRec 0.0.1, not 0.0.2" in done.stderr
    (renamed / "torchrec" / "__init__.py").unlink()  # a folder of no package: the installed one comes before it
    done = run(folder, "--versions", "0.0.2")
    assert done.returncode == 2 and "is imported, not" in done.stderr
    (renamed / "torchrec" / "__init__.py").write_text("import nothing_such")
    done = run(folder, "--versions", "0.0.2")
    assert done.returncode == 2 and "cannot be imported: ModuleNotFoundError" in done.stderr


def test_no_version(capsys):
    with pytest.raises(SystemExit) as ended:
        matrix.main(["--folder", "nowhere", "--versions", ","])
    assert ended.value.code == 2 and capsys.readouterr().err.startswith("error: --versions")


def test_the_page(tmp_path):
    page = tmp_path / "page.md"
    rows = "| 1.10.0 | 7 | none | 0 | 1 |\n| 1.8.0 | 6 | none | 0 | 1 |\n"
    page.write_text(f"before\n{matrix._HEAD}\n|---|---|---|---|---|\n{rows}\nafter\n")
    whole = {"passed": 9, "failed": [], "skipped": 2, "seconds": 610, "arguments": []}
    results = {
        "1.8.0": whole,
        "1.9.2": whole | {"failed": ["test_a.test_b"], "error": "pytest ended with 3"},
        "1.6.1": whole | {"arguments": ["-k", "x"]},
    }
    matrix.renew(page, results)
    assert page.read_text().splitlines()[3:] == [
        "| 1.8.0 | 9 | none | 2 | 10 |",
        "| 1.9.2 | 9 | `test_a.test_b`, pytest ended with 3 | 2 | 10 |",
        "| 1.10.0 | 7 | none | 0 | 1 |",
        "",
        "after",
    ]


def test_a_run_that_does_not_end(tmp_path):
    suite = tmp_path / "test_suite.py"
    suite.write_text("def test_sleeps():\n    import time\n    time.sleep(100)\n")
    found = matrix.run("0.0.1", tmp_path / "torchrec-0.0.1", [str(suite), "-n", "0"], 1)
    assert found["error"] == "not done in 1 s" and not found["failed"]
