"""The run of TorchRec's own tests, on a checkout of one file made here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import upstream_parity

HERE = Path(__file__).parent
TESTS = """
import unittest
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner
from torchrec.modules.embedding_modules import EmbeddingBagCollection as FromItsModule

class BagsTest(unittest.TestCase):
    def setUp(self):
        tables = [EmbeddingBagConfig(name="t", num_embeddings=10, embedding_dim=4, feature_names=["f"])]
        self.ebc = EmbeddingBagCollection(tables=tables)

    def test_both_are_one(self):
        assert EmbeddingBagCollection is FromItsModule and isinstance(self.ebc, EmbeddingBagCollection)

    def test_rows(self):
        assert self.ebc.embedding_bags["t"].weight.shape == (10, 4)

    def test_sharders_take_the_same_arguments(self):
        assert EmbeddingBagCollectionSharder({"a": 1}).fused_params == {"a": 1}

    def test_whose_planner(self):
        assert EmbeddingShardingPlanner.__module__.startswith("torchrec.")

    @unittest.skipIf(True, "Not enough GPUs")
    def test_on_a_gpu(self):
        pass
"""
FILE = "torchrec/distributed/planner/tests/bags_test.py"


def run(*flags):
    return subprocess.run(
        [sys.executable, HERE / "upstream_parity.py", *flags], capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_outcomes_and_the_page(tmp_path):
    file = tmp_path / "checkout" / FILE
    file.parent.mkdir(parents=True)
    file.write_text(TESTS)
    page, found = tmp_path / "page.md", tmp_path / "found.json"
    page.write_text(f"before\n{upstream_parity._HEAD}\n|---|---|---|---|---|\nafter\n")
    flags = [tmp_path / "checkout", "--json", found, "--doc", page, "--logs", tmp_path / "logs"]
    done = run(*flags)
    assert done.returncode == 1 and f"does not say what ours does in {FILE}" in done.stderr
    outcomes = json.loads(found.read_text())[FILE]
    assert outcomes["torchrec"]["why"] == ["Not enough GPUs"] and len(outcomes["torchrec"]["passed"]) == 4
    assert outcomes["modules"]["failed"] == ["BagsTest.test_rows"]
    assert outcomes["planner"]["failed"] == ["BagsTest.test_whose_planner"]
    fewer = "3 passed, 1 failed, 1 skipped"
    row = f"| `{FILE}` | 4 passed, 1 skipped | {fewer} | {fewer} |"
    assert page.read_text().splitlines()[3:] == [f"{row} ? |", "after"]
    page.write_text(page.read_text().replace("? |", "a reason |"))
    done = run(*flags)  # nothing is run again
    assert done.returncode == 0, done.stderr
    assert page.read_text().splitlines()[3:] == [f"{row} a reason |", "after"]
    log = "planner+torchrec+distributed+planner+tests+bags_test.py.log"
    assert (tmp_path / "logs" / log).exists()


def test_a_folder_that_is_no_checkout(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 2 and "not a checkout of TorchRec" in done.stderr
