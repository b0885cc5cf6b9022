"""What README, the page of results and their research notes claim, recomputed from the committed results."""

import json
from pathlib import Path

import pytest

from benchmarks.quality import equal_bytes, tables

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
QUALITY = (ROOT / "docs/results/quality.md").read_text()
NOTES = {path.stem[11:]: path.read_text() for path in (ROOT / "docs/research").glob("20*.md")}
RESULTS = ROOT / "benchmarks/results/quality"
LINES = json.loads((RESULTS / "headline.json").read_text())


def of(name, seed=0):
    return next(line for line in LINES if (line["name"], line["seed"]) == (name, seed))


def short(number):
    return f"{number:.4f}".removeprefix("0")


def line_of(text, beginning):
    (found,) = [line for line in text.splitlines() if line.startswith(beginning)]
    return found


def signed(number):
    return f"{number:+.4f}".replace("0.", ".")


def above_full(name, seed):
    """Each less the best possible on its own test rows."""
    array, full = of(name, seed), of("kaggle full", seed)
    return (array["auroc_test"] - array["bayes"]) - (full["auroc_test"] - full["bayes"])


@pytest.mark.parametrize(
    ("row", "name", "times"),
    [
        ("full tables", "kaggle full", 1),
        ("array, 1,000x, 4 bits", "kaggle pss 1000x 4 bits", 1000),
        ("array, 10,000x, 4 bits", "kaggle pss 10000x 4 bits", 10_000),
    ],
)
def test_the_first_table(row, name, times):
    line, found = line_of(README, f"| {row} |"), [of(name, seed) for seed in (0, 1, 2)]
    assert ", ".join(short(f["auroc_test"]) for f in found) in line
    stored = found[0]["bytes"]
    assert any(
        f"| {stored / unit:.{digits}f} {of_unit} |" in line
        for unit, digits, of_unit in ((1e9, 2, "GB"), (1e6, 2, "MB"), (1e3, 0, "kB"))
    )
    assert found[0]["full_bytes"] / stored >= 0.9999 * times
    assert [f["steps"] for f in found] == [of("kaggle full", seed)["steps"] for seed in (0, 1, 2)]
    assert not any("--recipe" in f["flags"] for f in found) and "the same recipe" in README


def test_a_thousand_times_smaller():
    assert (
        "**1,000 times smaller, nothing is lost** on 12M generated clicks, in 4 bits and [full tables' steps]" in README
    )
    assert all("12000000" in of("kaggle full", seed)["flags"] for seed in (0, 1, 2))
    assert all(above_full("kaggle pss 1000x 4 bits", seed) >= 0 for seed in (0, 1, 2))


def test_ten_thousand_times_smaller():
    lost = -sum(above_full("kaggle pss 10000x 4 bits", seed) for seed in (0, 1, 2)) / 3
    assert (
        f"**10,000 times smaller loses {short(lost)}** there in the same steps, and [nothing in three times as many]"
        in README
    )
    more = "kaggle pss 10000x 4 bits, 3 x the rows"
    assert min(above_full(more, seed) for seed in (0, 1, 2)) > 0
    assert all(of(more, seed)["steps"] == 3 * of("kaggle full", seed)["steps"] for seed in (0, 1, 2))


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ("full tables", "kaggle full"),
        ("array, 1,000x, 4 bits", "kaggle pss 1000x 4 bits"),
        ("array, 1,000x, 32 bits", "kaggle pss 1000x 32 bits"),
        ("array, 10,000x, 4 bits", "kaggle pss 10000x 4 bits"),
        ("array, 10,000x, 32 bits", "kaggle pss 10000x 32 bits"),
        ("array, 10,000x, 4 bits, 3 times the rows", "kaggle pss 10000x 4 bits, 3 x the rows"),
    ],
)
def test_the_equal_race(row, name):
    found = [of(name, seed) for seed in (0, 1, 2)]
    _, stored, auroc, above = (cell.strip() for cell in line_of(QUALITY, f"| {row} |").strip("|").split("|"))
    assert auroc == ", ".join(short(f["auroc_test"]) for f in found)
    bytes_ = found[0]["bytes"]
    assert stored in (f"{bytes_ / 1e9:.2f} GB", f"{bytes_ / 1e6:.2f} MB", f"{bytes_ / 1e3:.0f} kB")
    each = [above_full(name, seed) for seed in (0, 1, 2)]
    mean, half = tables.interval(each)
    of_mean = f"{signed(mean)} ±{short(half)}"
    assert above == "-" if name == "kaggle full" else above in (of_mean, ", ".join(map(signed, each)))
    assert f"**10,000 times smaller loses {short(-ten_thousand())} in the same steps, and nothing in three" in QUALITY


def ten_thousand():
    return sum(above_full("kaggle pss 10000x 4 bits", seed) for seed in (0, 1, 2)) / 3


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ("1000x, 4 bits", "kaggle pss 1000x 4 bits"),
        ("1000x, 32 bits", "kaggle pss 1000x 32 bits"),
        ("10,000x, 4 bits", "kaggle pss 10000x 4 bits"),
        ("full | 2.16 GB", "kaggle full"),
        ("full, torchrec_dlrm's recipe", "kaggle full, torchrec_dlrm's recipe"),
    ],
)
def test_the_table_of_generated_rows(row, name):
    rows = NOTES["scripts-figures"].splitlines()
    line = next(text for text in rows if text.startswith("|") and f"| {row}" in text)
    assert short(of(name)["auroc_test"]) in line


def test_the_tables_of_few_bits_are_those_of_the_results():
    rows = json.loads((RESULTS / "few_bits.json").read_text())
    note = NOTES["four-bits-for-everybody"]
    assert equal_bytes.markdown(rows) in note and equal_bytes.markdown(equal_bytes.headline(rows)) in QUALITY
    above = [r["contestants"][equal_bytes.best_rival(r)]["pss_above_by"] for r in rows]
    halves = [r["contestants"][equal_bytes.best_rival(r)]["half"] for r in rows]
    better, same = sum(a > 0 for a in above), sum(a == 0 for a in above)
    below = sum(a < 0 for a in above)
    told = sum(a < -h for a, h in zip(above, halves, strict=True))
    outside = sum(a > h for a, h in zip(above, halves, strict=True))
    good = len(rows) - told
    assert f"above the best rival in {better} and the same layout in {same}; in {below} it is below" in note
    assert told == 1 and f"One of these {below} lies outside its interval" in note
    assert outside == 1 and f"one of the {better} lies outside its interval" in note
    assert f"within its interval in {good} of {len(rows)} rows" in note
    assert f"it is best or within its interval** in [{good} of {len(rows)} comparisons]" in README
    counts = [
        f"| of {len(rows)} rows | |",
        "|---|---|",
        f"| best, or within its interval of the best | {good} |",
        f"| above the best rival | {better} |",
        f"| of those, outside the interval | {outside} |",
        f"| the same layout as the best rival | {same} |",
        f"| below the best rival | {below} |",
        f"| of those, outside the interval | {told} |",
    ]
    assert "\n".join(counts) in QUALITY


@pytest.mark.parametrize(("beginning", "name"), [("| [one pass, ", "main"), ("| [several passes]", "passes")])
def test_how_often_others_are_in_front(beginning, name):
    found = [tables.standing(row) for row in json.loads((RESULTS / f"{name}.json").read_text())]
    kinds = ("best", "level", "within", ".")
    counts = [sum(f.startswith(kind) for f in found) for kind in kinds]
    assert sum(counts) == len(found)
    cells = [cell.strip() for cell in line_of(QUALITY, beginning).strip("|").split("|")]
    assert cells[1:] == [str(n) for n in (len(found), *counts)]
    assert all(f.split()[0] in QUALITY for f in found if f.startswith("."))


def test_what_compression_alone_costs():
    rows = json.loads((RESULTS / "few_bits.json").read_text())
    for data in ("Criteo, 80,000 rows", "Criteo, 70,036 rows", "Gowalla, two-tower", "Gowalla, sequence"):
        means = [{n: round(c["mean"], 4) for n, c in r["contestants"].items()} for r in rows if r["data"] == data]
        lost = [short(m["full"] - m["pss"]) if m["pss"] < m["full"] else "none" for m in means]
        assert line_of(QUALITY, f"| {data} | 4 |") == f"| {data} | 4 | {' | '.join(lost)} | |"

    def generated(bits):
        above = [
            tables.interval([above_full(f"kaggle pss {c}x {bits} bits", s) for s in (0, 1, 2)])[0]
            for c in (1000, 10_000)
        ]
        return " | ".join("none" if a > 0 else short(-a) for a in above)

    assert line_of(QUALITY, "| 12M generated rows").endswith(f"| 32 | | | {generated(32)} |")
    assert line_of(QUALITY, "| | 4 | | | ") == f"| | 4 | | | {generated(4)} |"


def test_what_real_rows_cost():
    rows = json.loads((RESULTS / "few_bits.json").read_text())
    means = {r["data"]: {n: c["mean"] for n, c in r["contestants"].items()} for r in rows if r["compression"] == 100}
    lost = {name: short(round(of["full"], 4) - round(of["pss"], 4)) for name, of in means.items()}
    criteo = f"{lost['Criteo, 80,000 rows']} and {lost['Criteo, 70,036 rows']} on Criteo's"
    assert (
        f"at 100x {criteo}, {lost['Gowalla, two-tower']} and {lost['Gowalla, sequence']} on Gowalla's pairs" in README
    )


def test_comparisons_at_equal_bytes():
    files, pairs, splits = (json.loads((RESULTS / f"{n}.json").read_text()) for n in ("files", "pair_files", "splits"))

    def above(rows):
        found = [a > 0 for r in rows for a in r.get("pss_above_by") or ()]
        return f"{sum(found)} of {len(found)}"

    def claimed(beginning):
        return line_of(QUALITY, beginning).strip("| ").split("|")[-1].strip()

    drawn = [r for r in files if r["data"].startswith(("other generator", "unseen"))]
    logs = "| click logs at 10x and 100x: Criteo's, and generated | row hashing, narrow |"
    assert claimed(logs) == above([r for r in files if r not in drawn])
    assert claimed("| twelve click logs of another generator, 10x and 100x | row hashing, narrow |") == above(drawn)
    unseen = above([r for r in drawn if r["data"].startswith("unseen")])
    assert f"On the six files that were drawn after the last change it is above in {unseen}." in QUALITY
    for rival, name in (("narrow", "narrow"), ("hash", "row hashing")):
        found = above([r for r in pairs if r["rival"] == rival])
        assert claimed(f"| pairs before a dot product, 10x | {name} |") == found
    for compression, beginning in ((10, "| twelve [random splits]"), (100, "| the same at 100x | row hashing |")):
        (row,) = (r for r in splits if (r["compression"], r["contestant"]) == (compression, "row hashing"))
        assert claimed(beginning) == f"{row['pss_above_in']} of {row['splits']}"
