"""README's first claims, recomputed from the committed results."""

import json
import re
from pathlib import Path

import pytest

from benchmarks.quality import equal_bytes

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
LINES = json.loads((ROOT / "benchmarks/results/quality/headline.json").read_text())


def of(name, seed=0):
    return next(line for line in LINES if (line["name"], line["seed"]) == (name, seed))


def short(number):
    return f"{number:.4f}".removeprefix("0")


def claim(beginning):
    (found,) = re.findall(rf"^- \*\*{beginning}.*$", README, re.MULTILINE)
    return found


def test_a_thousand_times_smaller():
    full, array, text = of("kaggle full"), of("kaggle pss 1000x 4 bits"), claim("1,000 times smaller")
    assert array["full_bytes"] / array["bytes"] >= 999.9 and array["auroc_test"] >= full["auroc_test"]
    for number in (full["auroc_test"], array["auroc_test"]):
        assert f" {short(number)}" in text
    assert f"{full['bytes'] / 1e9:.2f} GB" in text and f"{array['bytes'] / 1e6:.2f} MB" in text
    assert full["steps"] == array["steps"] and "Both have the same recipe and steps" in text
    others = [(of("kaggle full", s)["auroc_test"], of("kaggle pss 1000x 4 bits", s)["auroc_test"]) for s in (1, 2)]
    assert all(array >= full for full, array in others)
    assert (
        f"two more seeds they reach {', '.join(f'{short(full)} and {short(array)}' for full, array in others)}." in text
    )


def above_full(name, seed):
    """Each less the best possible on its own test rows."""
    array, full = of(name, seed), of("kaggle full", seed)
    return (array["auroc_test"] - array["bayes"]) - (full["auroc_test"] - full["bayes"])


def in_words(numbers):
    *first, last = map(short, numbers)
    return f"{', '.join(first)} and {last}"


def test_ten_thousand_times_smaller():
    full, array, text = of("kaggle full"), of("kaggle pss 10000x 4 bits"), claim("10,000 times smaller")
    assert array["full_bytes"] / array["bytes"] >= 10_000 and full["steps"] == array["steps"]
    lost = [-above_full("kaggle pss 10000x 4 bits", s) for s in (0, 1, 2)]
    assert f"it loses {in_words(lost)}" in text
    assert f"{array['bytes'] / 1e3:.0f} kB reaches {short(array['auroc_test'])}" in text
    assert f"best possible is {short(array['bayes'])}" in text
    more = "kaggle pss 10000x 4 bits, 3 x the rows"
    gained = [above_full(more, s) for s in (0, 1, 2)]
    assert min(gained) > 0 and "nothing lost in three times the steps" in text
    assert f"it is {in_words(gained)} above" in text
    assert all(of(more, s)["steps"] == 3 * full["steps"] for s in (0, 1, 2))


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
    (line,) = [
        text
        for text in README.splitlines()
        if text.startswith("|") and f"| {row}" in text and "GB" * ("full" in row) in text
    ]
    assert short(of(name)["auroc_test"]) in line


def test_the_tables_of_few_bits_are_those_of_the_results():
    rows = json.loads((ROOT / "benchmarks/results/quality/few_bits.json").read_text())
    text = (ROOT / "docs/quality.md").read_text()
    assert equal_bytes.markdown(rows) in text and equal_bytes.markdown(equal_bytes.headline(rows)) in text
    above = [r["contestants"][equal_bytes.best_rival(r)]["pss_above_by"] for r in rows]
    halves = [r["contestants"][equal_bytes.best_rival(r)]["half"] for r in rows]
    better, same = sum(a > 0 for a in above), sum(a == 0 for a in above)
    within = sum(-h <= a < 0 for a, h in zip(above, halves, strict=True))
    assert f"above the best rival in {better} and the same layout in {same}; in {within} it is below" in text
    assert better + same + within == len(rows) and f"within its interval in all of {len(rows)} rows" in text
    outside = sum(a > h for a, h in zip(above, halves, strict=True))
    assert outside == 1 and f"one of the {better} lies outside its interval" in text


def test_comparisons_at_equal_bytes():
    text = claim("Above row hashing and narrow tables")
    files, pairs = (
        json.loads((ROOT / f"benchmarks/results/quality/{n}.json").read_text()) for n in ("files", "pair_files")
    )

    def above(rows):
        found = [a > 0 for r in rows for a in r.get("pss_above_by") or ()]
        return f"{sum(found)} of {len(found)}"

    drawn = [r for r in files if r["data"].startswith(("other generator", "unseen"))]
    assert (
        f"on click logs at 10x and 100x it is above in {above([r for r in files if r not in drawn])},"
        in text.replace("On click", "on click")
    )
    assert f"of another generator in {above(drawn)}." in text
    assert f"above narrow tables in {above([r for r in pairs if r['rival'] == 'narrow'])} runs" in text
