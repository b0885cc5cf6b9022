"""Tables of docs/results/performance.md, recomputed from the committed results."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/results/performance.md").read_text()


def result(name):
    return json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())


def rows_below(head):
    """Cells of the table's rows, less bold."""
    lines = PAGE[PAGE.index(head) :].splitlines()
    end = next(i for i, line in enumerate(lines) if not line.startswith("|"))
    assert end > 2
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines[2:end]]


def size_of(case, unit):
    layout, bytes_, dim = case["layout"], case["array_bytes"] / 1e6, case["embedding_dim"]
    return f"{layout}, {bytes_:.0f} MB, D {dim}, {case['batch_size']} x {case['ids_per_bag']}{unit}"


def test_the_lookup_on_the_cpu():
    found = {}
    for case in result("bench_lookup_quick"):
        what = size_of(case, " (MLPerf)" if case["tables"] == "mlperf" else "")
        what += ", uniform ids" if case["ids"] == "uniform" else ""
        ratios = ("ratio_vs_fbgemm_forward", "ratio_vs_fbgemm_step", "ratio_vs_embedding_bag_step")
        found[what if case["threads"] == 2 else "the same, one thread"] = [f"{case[r]:.2f}" for r in ratios]
    rows = rows_below("| array, D, batch x ids a bag | forward | step | step, `EmbeddingBag` |")
    assert len(rows) == 11 and all(found[what] == ratios for what, *ratios in rows)


def test_how_often_the_goals_are_reached():
    small = [c for c in result("bench_lookup_quick") if c["array_bytes"] <= 10_000_000]
    forward, step = ([c[f"ratio_vs_fbgemm_{part}"] for c in small] for part in ("forward", "step"))
    reached = f"The forward reaches its goal in {sum(r >= 1.5 for r in forward)} of {len(small)} cases, the step in {sum(r >= 3 for r in step)}."
    assert reached in PAGE
    (first, *_), (second, *_) = (rows_below("| | the array against full tables |")[i][1:] for i in (0, 1))
    assert first.startswith(f"{min(forward):.2f} to {max(forward):.2f} times") and f"{sorted(forward)[5]:.2f}" in first
    assert second == f"{min(step):.2f} to {max(step):.2f} times, median {sorted(step)[5]:.2f}"


def test_steps_on_two_processes():
    found = {}
    for case in result("bench_step")["cases"]:
        network = f"{case['gbit']:.0f} Gbit/s" if case["gbit"] else "loopback"
        sides = ("shared array", "array, bf16", "array, sparse")
        ratios = [f"{case['full']['seconds'] / case[side]['seconds']:.2f}" for side in sides]
        found[f"{case['batch_size']}, {network}"] = ratios
    assert {what: ratios for what, *ratios in rows_below("| batch a rank, network | ddp |")} == found


def test_steps_of_public_programs():
    found = {}
    for name, of_world in result("bench_programs")["seconds"].items():
        ways = [(world, way) for world in ("1", "2") for way in ("swap", "planner")]
        found[name.replace("_", " ")] = [f"{of_world[w][way] / of_world[w]['plain']:.2f}" for w, way in ways]
    assert {what: ratios for what, *ratios in rows_below("| program | swap, 1 process |")} == found


def test_the_lookup_on_a_gpu():
    found = {}
    for case in result("gpu_check_h200")["cases"]:
        busy, wall = case["busy_milliseconds"], case["milliseconds"]
        eager = [wall[f"fbgemm {part}"] / wall[part] for part in ("forward", "step")]
        of_busy = [busy[f"fbgemm {part}"] / busy[part] for part in ("forward", "step")]
        graph = wall["fbgemm step"] / wall["graph step"]
        found[size_of(case, "")] = [f"{r:.2f}" for r in (*of_busy, *eager, graph)]
    rows = rows_below("| array, batch x ids a bag | forward, busy |")
    assert len(rows) == 6 and all(found[what] == ratios for what, *ratios in rows)


def test_serving():
    rows = rows_below("| tables | contestant | batch 1 | 16 | 256 | 4,096 |")
    sides = [
        (name, side) for name in ("bench_serving", "bench_serving_mlperf") for side in ("array 4 bits", "fbgemm int8")
    ]
    assert len(rows) == len(sides)
    for (name, side), row in zip(sides, rows, strict=True):
        assert row[2:] == [f"{of_size[side]['p50']:.0f}" for of_size in result(name)["lookup"].values()]
