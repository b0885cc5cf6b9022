"""The run of TorchRec's own tests, on a checkout of two files made here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import upstream_parity

HERE = Path(__file__).parent
MODULES = """
import unittest
import torch
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, EmbeddingCollection
from torchrec.modules.embedding_modules import EmbeddingBagCollection as FromItsModule

class BagsTest(unittest.TestCase):
    def setUp(self):
        tables = [EmbeddingBagConfig(name="t", num_embeddings=10, embedding_dim=4, feature_names=["f"])]
        self.ebc = EmbeddingBagCollection(tables=tables)

    def test_both_are_one(self):
        assert EmbeddingBagCollection is FromItsModule and isinstance(self.ebc, EmbeddingBagCollection)

    def test_rows(self):
        assert self.ebc.embedding_bags["t"].weight.shape == (10, 4)

    @unittest.skipIf(True, "Not enough GPUs")
    def test_on_a_gpu(self):
        pass
"""
PLANNER = """
from torchrec.distributed.planner import EmbeddingShardingPlanner
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder

def test_whose_planner():
    assert EmbeddingShardingPlanner.__module__.startswith("torchrec.")

def test_sharders_take_the_same_arguments():
    assert EmbeddingBagCollectionSharder({"a": 1}).fused_params == {"a": 1}
"""


def run(*flags):
    return subprocess.run(
        [sys.executable, HERE / "upstream_parity.py", *flags], capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_outcomes_and_the_page(tmp_path):
    modules = tmp_path / "checkout" / "torchrec" / "modules" / "tests"
    planner = tmp_path / "checkout" / "torchrec" / "distributed" / "planner" / "tests"
    for folder, name, text in ((modules, "test_bags.py", MODULES), (planner, "plans_test.py", PLANNER)):
        folder.mkdir(parents=True)
        (folder / name).write_text(text)
    page, found = tmp_path / "page.md", tmp_path / "found.json"
    page.write_text(f"before\n{upstream_parity._HEAD}\n|---|---|---|---|---|\nafter\n")
    flags = [tmp_path / "checkout", "--json", found, "--doc", page, "--logs", tmp_path / "logs"]
    done = run(*flags)
    bags, plans = "torchrec/modules/tests/test_bags.py", "torchrec/distributed/planner/tests/plans_test.py"
    assert done.returncode == 1 and f"does not say what ours does in {plans}, {bags}" in done.stderr
    results = json.loads(found.read_text())
    assert results[bags]["modules"]["failed"] == ["BagsTest.test_rows"]
    assert results[bags]["torchrec"]["why"] == ["Not enough GPUs"]
    assert results[plans]["planner"]["failed"] == ["plans_test.test_whose_planner"]
    rows = [
        f"| `{plans}` | 2 passed | 2 passed | 1 passed, 1 failed |",
        f"| `{bags}` | 2 passed, 1 skipped | 1 passed, 1 failed, 1 skipped | 2 passed, 1 skipped |",
    ]
    assert page.read_text().splitlines()[3:] == [*(f"{row} ? |" for row in rows), "after"]
    page.write_text(page.read_text().replace("? |", "a reason |"))
    done = run(*flags)  # nothing is run again
    assert done.returncode == 0, done.stderr
    assert page.read_text().splitlines()[3:] == [*(f"{row} a reason |" for row in rows), "after"]
    log = "planner+torchrec+distributed+planner+tests+plans_test.py.log"
    assert (tmp_path / "logs" / log).exists()


def test_a_folder_that_is_no_checkout(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 2 and "not a checkout of TorchRec" in done.stderr
