"""Threads by the work of a step: one for small batches, as many as there are for large ones, and a user's own word before all."""

import ast
import importlib
import os
import runpy
import sys
from pathlib import Path

import forked
import numpy as np
import pytest
import torch

EXAMPLES = Path(__file__).parent.parent / "examples"
OF_SCRIPTS = [129_000, 2_361_000]  # multiply-adds a row of train_criteo.py's dense layers, and of MLPerf's


@pytest.fixture
def threads(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    yield importlib.import_module("threads")
    torch.set_num_threads(before)


def test_a_small_step_has_one_thread(threads):
    small, large = OF_SCRIPTS
    assert [threads.number(rows * small, 2) for rows in (16, 64, 256, 512, 1024, 2048)] == [1, 1, 1, 1, 2, 2]
    assert [threads.number(rows * large, 2) for rows in (16, 64, 512)] == [1, 2, 2]
    assert threads.number(2048 * small, 64) == 5 and threads.number(8192 * large, 64) == 64
    assert threads.number(0, 1) == threads.number(10**12, 1) == threads.number(10**12, 0) == 1


def test_who_says_how_many(threads, monkeypatch):
    torch.set_num_threads(4)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    threads.choose(16)
    assert torch.get_num_threads() == 4  # torch was told already
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    threads.choose(10**12)
    assert torch.get_num_threads() == 2
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    threads.choose(16 * OF_SCRIPTS[0])
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    "given, expected",
    [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_waiting_is_brief_unless_the_user_says_otherwise(given, expected, monkeypatch):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    try:
        runpy.run_path(str(EXAMPLES / "threads.py"))
        assert os.environ.get("GOMP_SPINCOUNT") == expected
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.mark.parametrize("script", ["train_criteo.py", "train_interactions.py"])
def test_openmp_is_told_before_torch_is_loaded(script):
    assert others_imported(script)[:2] == ["_launcher", "threads"]
    assert not others_imported("_launcher.py") and not others_imported("threads.py")


def others_imported(script):
    """Not of Python's own, at the top, in their order."""
    imported = [
        node.names[0].name if isinstance(node, ast.Import) else node.module
        for node in ast.parse((EXAMPLES / script).read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    return [name for name in imported if name.split(".")[0] not in sys.stdlib_module_names]


def train_both(folder):
    """One after the other, on eight threads unless they choose."""
    os.environ.pop("OMP_NUM_THREADS", None)
    os.chdir(folder)
    sys.path.insert(0, str(EXAMPLES))
    ids = np.arange(600) % 50
    np.savez("pairs.npz", train_user=ids, train_item=ids, test_user=ids, test_item=ids)
    chosen = []
    for script, flags in {
        "train_interactions": ["--path", "pairs.npz", "--epochs", "1", "--output_dir", "i"],
        "train_criteo": ["--synthetic_rows", "400", "--synthetic_scale", "0.001", "--output_dir", "c", "--epochs", "1"],
    }.items():
        torch.set_num_threads(8)
        importlib.import_module(script).main(flags)
        chosen.append(torch.get_num_threads())
    assert chosen == [1, 1]
    assert "1 threads" in Path("c/log.txt").read_text()


def test_the_scripts_choose(tmp_path):
    process = forked.context().Process(target=train_both, args=(tmp_path,))
    process.start()
    process.join(120)
    assert process.exitcode == 0
