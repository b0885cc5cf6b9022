"""Every benchmark starts: it imports, and knows its own command line."""

import importlib
import pkgutil
import sys
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

import benchmarks
import benchmarks.quality
from torchrec_pss.ops import FeatureColumn, feature_matrix, lookup

MODULES = sorted(
    package.__name__ + "." + module.name
    for package in (benchmarks, benchmarks.quality)
    for module in pkgutil.iter_modules(package.__path__)
    if not module.ispkg
)


@pytest.mark.parametrize("name", MODULES)
def test_a_benchmark_starts(name, monkeypatch, capsys):
    module = importlib.import_module(name)
    if not hasattr(module, "main"):
        return  # a part of others
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "set")  # or those that want it set would start themselves anew
    with pytest.raises(SystemExit) as left:
        module.main()
    assert left.value.code == 0
    assert "usage" in capsys.readouterr().out


def test_the_threads_benchmark_makes_steps():
    """With the scripts' own parts, whatever becomes of those."""
    from benchmarks.bench_threads import _Steps

    steps = _Steps("train_criteo.py", 16)
    before = {name: p.clone() for name, p in steps.model.named_parameters()}
    steps.step()
    assert all(not p.equal(before[name]) for name, p in steps.model.named_parameters() if name.endswith("weight"))
    assert 100_000 < steps.multiply_adds / 16 < 200_000


def test_bits_are_compared_at_as_many_elements():
    from benchmarks import bench_bits

    found = bench_bits.measure(300_000, 1)
    assert {line["bits"] for line in found} == set(bench_bits.BITS)
    elements = [line["elements"] for line in found]
    assert max(elements) < 1.02 * min(elements) and all(line["ratio"] > 0 for line in found)


def test_packed_elements_are_read_in_the_cases_of_the_lookup():
    from benchmarks import bench_bits

    case = replace(bench_bits.CASE, array_bytes=300_000, batch_size=32)
    found = bench_bits.measure_read(case, 1, table_gib=0.001)
    parts = [(line["bits"], line["part"]) for line in found]
    assert parts == [*((bits, "read") for bits in bench_bits.BITS), (4, "loaded")]
    assert found[0]["ratio"] == 1 and all(line["ratio"] > 0 for line in found)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_serving_is_measured(tmp_path):
    """All sides answer, and each process tells what it took."""
    from benchmarks import bench_serving

    shape = replace(bench_serving.SHAPES["kaggle"].scaled(20_000), array_bytes=100_000, kinds=("fbgemm int8",))
    found = bench_serving.measure(0.01, "kaggle", shape, tmp_path, (1, 3), (4,))
    assert set(found["lookup"]) == set(found["model"]) == {1, 3} and len(found["lookup"][1]) == 4
    calls = [line for part in ("lookup", "model") for size in (1, 3) for line in found[part][size].values()]
    assert all(line["calls"] >= 100 and 0 < line["p50"] <= line["p99"] for line in calls)
    assert set(found["process"]) == set(found["model"][1]) - {"array 4 bits, eager"}
    assert all(p["seconds"] > 0 and p["file_bytes"] > 0 for p in found["process"].values())
    assert found["rows"] == sum(shape.rows) and "| array 4 bits |" in bench_serving.markdown(found)


def test_the_launch_path_is_measured():
    pytest.importorskip("triton")
    from benchmarks import bench_launch

    stub = not torch.cuda.is_available()
    with bench_launch.stubbed_launches() if stub else nullcontext():
        found = bench_launch.measure(1, "cpu" if stub else "cuda", [50, 3000])
    assert [(line["layout"], line["embedding_dim"]) for line in found] == [
        ("default", 16),
        ("plain", 16),
        ("default", 64),
    ]
    for line in found:
        assert list(line["microseconds"]) == list(bench_launch.PARTS) and min(line["microseconds"].values()) > 0
    assert bench_launch.markdown(found).count("\n") == 4
    array = torch.ones(8)  # the CPU's lookups are its own again
    features = feature_matrix(
        [{FeatureColumn.WIDTH: 4, FeatureColumn.PREFIX: 4, FeatureColumn.ROWS: 2}], torch.device("cpu")
    )
    assert lookup(array, features, torch.tensor([1]), torch.tensor([0, 1]), total_width=4).sum() == 4
