"""README's first claims, recomputed from the committed results."""

import json
from pathlib import Path

import pytest

from benchmarks.quality import equal_bytes

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
QUALITY = (ROOT / "docs/results/quality.md").read_text()
LINES = json.loads((ROOT / "benchmarks/results/quality/headline.json").read_text())


def of(name, seed=0):
    return next(line for line in LINES if (line["name"], line["seed"]) == (name, seed))


def short(number):
    return f"{number:.4f}".removeprefix("0")


def line_of(text, beginning):
    (found,) = [line for line in text.splitlines() if line.startswith(beginning)]
    return found


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
    assert "**1,000 times smaller, nothing is lost** on these rows in 4 bits, in full tables' steps" in README
    assert all(above_full("kaggle pss 1000x 4 bits", seed) >= 0 for seed in (0, 1, 2))


def test_ten_thousand_times_smaller():
    lost = -sum(above_full("kaggle pss 10000x 4 bits", seed) for seed in (0, 1, 2)) / 3
    assert (
        f"**10,000 times smaller loses {short(lost)} in the same steps**. After three times the steps and rows"
        in README
    )
    more = "kaggle pss 10000x 4 bits, 3 x the rows"
    assert min(above_full(more, seed) for seed in (0, 1, 2)) > 0
    assert all(of(more, seed)["steps"] == 3 * of("kaggle full", seed)["steps"] for seed in (0, 1, 2))


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
    rows = QUALITY[QUALITY.index("## The scripts' own figures") :].splitlines()
    line = next(text for text in rows if text.startswith("|") and f"| {row}" in text)
    assert short(of(name)["auroc_test"]) in line


def test_the_tables_of_few_bits_are_those_of_the_results():
    rows = json.loads((ROOT / "benchmarks/results/quality/few_bits.json").read_text())
    text = QUALITY
    assert equal_bytes.markdown(rows) in text and equal_bytes.markdown(equal_bytes.headline(rows)) in text
    above = [r["contestants"][equal_bytes.best_rival(r)]["pss_above_by"] for r in rows]
    halves = [r["contestants"][equal_bytes.best_rival(r)]["half"] for r in rows]
    better, same = sum(a > 0 for a in above), sum(a == 0 for a in above)
    below = sum(a < 0 for a in above)
    told = sum(a < -h for a, h in zip(above, halves, strict=True))
    good = len(rows) - told
    assert f"above the best rival in {better} and the same layout in {same}; in {below} it is below" in text
    assert told == 1 and f"One of these {below} lies outside its interval" in text
    assert f"within its interval of the best** in {good} of {len(rows)} comparisons" in README
    assert f"within its interval in {good} of {len(rows)} rows" in text
    outside = sum(a > h for a, h in zip(above, halves, strict=True))
    assert outside == 1 and f"one of the {better} lies outside its interval" in text


def test_what_real_rows_cost():
    rows = json.loads((ROOT / "benchmarks/results/quality/few_bits.json").read_text())
    means = {r["data"]: {n: c["mean"] for n, c in r["contestants"].items()} for r in rows if r["compression"] == 100}
    lost = {name: short(round(of["full"], 4) - round(of["pss"], 4)) for name, of in means.items()}
    criteo = f"{lost['Criteo, 80,000 rows']} and {lost['Criteo, 70,036 rows']} on Criteo's"
    assert (
        f"at 100x {criteo}, {lost['Gowalla, two-tower']} and {lost['Gowalla, sequence']} on Gowalla's pairs" in README
    )


def test_comparisons_at_equal_bytes():
    text = line_of(QUALITY, "**Nothing tuned, ")
    files, pairs = (
        json.loads((ROOT / f"benchmarks/results/quality/{n}.json").read_text()) for n in ("files", "pair_files")
    )

    def above(rows):
        found = [a > 0 for r in rows for a in r.get("pss_above_by") or ()]
        return f"{sum(found)} of {len(found)}"

    drawn = [r for r in files if r["data"].startswith(("other generator", "unseen"))]
    assert (
        f"On click logs at 10x and 100x it is above in {above([r for r in files if r not in drawn])} comparisons"
        in text
    )
    assert f"of another generator in {above(drawn)}." in text
    assert f"above narrow tables in {above([r for r in pairs if r['rival'] == 'narrow'])} runs" in text
