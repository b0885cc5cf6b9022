"""The committed table of what GPU kernels compile to is that of today's kernels and candidates."""

import json
from collections import Counter

import pytest

pytest.importorskip("triton")

from benchmarks import gpu_offline
from torchrec_pss.ops.triton.variants import from_json


def test_the_table_has_every_candidate_of_todays_kernels():
    table = json.loads(gpu_offline.RESULTS.read_text())
    assert table["sources"] == gpu_offline.sources(), "renew it: python -m benchmarks.gpu_offline"
    wanted = Counter((t.kernel, t.kind, str(t.variant), t.capability) for t in gpu_offline.tasks())
    kinds = {t.kernel: type(t.variant) for t in gpu_offline.tasks()}
    found = Counter(
        (row["kernel"], row["launch"], str(from_json(kinds[row["kernel"]], row["variant"])), row["capability"])
        for row in table["kernels"]
    )  # fmt: skip
    assert found == wanted
    assert all(row["registers"] and row["instructions"] and row["bytes"] for row in table["kernels"])


def test_no_default_spills():
    table = json.loads(gpu_offline.RESULTS.read_text())
    defaults = gpu_offline.defaults(table["kernels"])
    assert len(defaults) > 30
    assert all(row["stack"] == row["local"] == 0 for row in defaults)
