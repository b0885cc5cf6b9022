"""The lab's studies: from results to tables, each from start to end, and where one stopped."""

import csv
import gzip
import json
import logging
import sys

import pytest

from benchmarks.quality import (
    click_data,
    conversion,
    equal_bytes,
    few_bits,
    files,
    headline,
    main_study,
    rivals,
    run,
    script_run,
    splits,
    tables,
)
from benchmarks.quality.click_trial import ClickTrial
from benchmarks.quality.jobs import Job, Results


def test_intervals_are_students():
    mean, half = tables.interval([1.0, 2.0, 3.0])
    assert mean == 2 and half == pytest.approx(4.303 / 3**0.5, rel=1e-3)
    assert tables.interval([1.5]) == (1.5, 0.0)


def test_how_pss_stands():
    def row(**found):
        return {"contestants": {n: {"mean": m, "half": 0.002} for n, m in found.items()} | {"tt": {"impossible": ""}}}

    assert tables.standing(row(pss=0.78, full=0.78, narrow=0.77)) == "best"
    assert tables.standing(row(pss=0.78, full=0.79, narrow=0.78)) == "level with narrow"
    assert tables.standing(row(pss=0.78, full=0.79, narrow=0.7815)) == "within its interval"
    assert tables.standing(row(pss=0.78, full=0.79, narrow=0.785)) == ".0050 below"
    assert tables.standing(row(full=0.79, narrow=0.785)) == "impossible"


@pytest.mark.slow
def test_a_study_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setitem(main_study.MAIN, "generated:2000:0.0005:1.1", (("dlrm",), (10,), 64))
    results = Results(tmp_path / "trials.jsonl")
    rows = main_study.study(["generated:2000:0.0005:1.1"], results, workers=2, quick=True)
    found = rows[0]["contestants"]
    assert set(found) == set(rivals.CONTESTANTS) and "mean" in found["pss"] and rows[0]["bayes"] > 0.6
    (passed,) = main_study.study_passes(rows, Results(tmp_path / "passes.jsonl"), workers=2, quick=True)
    assert passed["passes"] == 3 and passed["bayes"] == rows[0]["bayes"]
    for name, result in passed["contestants"].items():
        if "impossible" in found[name]:
            assert result == found[name]
        else:
            assert (result["trial"], result["bytes"]) == (found[name]["trial"], found[name]["bytes"])
            assert result["auroc_test"] != found[name]["auroc_test"]
    again = Results(tmp_path / "trials.jsonl")
    monkeypatch.setattr("benchmarks.quality.jobs._run", None)  # nothing is left to run
    assert main_study.study(["generated:2000:0.0005:1.1"], again, workers=2, quick=True) == rows
    text = tables.markdown(rows, list(rivals.CONTESTANTS))
    assert "**" in text and len(text.splitlines()) == 3
    tables.plot(tmp_path / "p.png", rows)
    assert (tmp_path / "p.png").stat().st_size > 5000


def test_an_impossible_budget_is_a_result(tmp_path):
    results = Results(tmp_path / "trials.jsonl")
    job = Job("generated:2000:0.0005:1.1", ClickTrial("narrow", 1000.0, batch_size=64))
    results.run([job], 1, "one")
    assert "width 1 needs" in results.of(job)["impossible"]
    assert json.loads((tmp_path / "trials.jsonl").read_text())["job"]["contestant"] == "narrow"


@pytest.mark.slow
def test_the_headline_study_runs_the_script_once(tmp_path, monkeypatch):
    flags = ("--synthetic_rows", "3000", "--synthetic_scale", "0.0005", "--compression", "50", "--batch_size", "64")
    monkeypatch.setattr(headline, "runs", lambda quick: [headline.Run("a b", "kaggle", flags)])
    (line,) = headline.study(tmp_path, 2, quick=True)
    assert line["compression"] >= 50 and line["auroc_test"] > 0.5 and line["curve"][-1][0] == line["steps"]
    assert 0 < line["share_of_bayes"] < 1 and (tmp_path / "headline_kaggle.png").stat().st_size > 5000
    monkeypatch.setattr(script_run, "_train", None)  # nothing is left to run
    assert headline.study(tmp_path, 2, quick=True) == [line]
    assert len(tables.headline([line]).splitlines()) == 3


def test_contestants_of_few_bits_are_compared_split_by_split(tmp_path, monkeypatch):
    of = few_bits.Set("criteo", "dlrm", ["generated:3000:0.0005:1.1"] * 2, (10, 100), 64)
    monkeypatch.setattr(few_bits, "SETS", {"small": of, "other": of})
    chosen = [
        {
            "data": "criteo",
            "model": "dlrm",
            "compression": c,
            "contestants": {
                "QR": {"trial": 2} if c == 10 else {},
                "full": {"trial": 3},
                "narrow": {},
                "CAFE": {"trial": 1},
            },
        }
        for c in (10, 100)
    ]
    (tmp_path / "main.json").write_text(json.dumps(chosen))
    results = Results(tmp_path / "trials.jsonl")
    given = (results, 1, False, "small", tmp_path / "main.json", ["full", "narrow", "QR", "CAFE"], 3)
    first, second = rows = few_bits.study(*given)
    assert [r["compression"] for r in rows] == [10, 100] and "narrow" in second["impossible"]
    runs = [json.loads(line)["job"] for line in (tmp_path / "trials.jsonl").read_text().splitlines()]
    assert {(r["contestant"], r["trial"], r.get("bits", 32), r["passes"]) for r in runs} == {
        ("pss", 0, 4, 2), ("full", 3, 32, 2), ("narrow", 0, 4, 2), ("QR", 2, 4, 2), ("CAFE", 1, 4, 2),
    }  # fmt: skip
    for row in rows:
        ours = row["contestants"]["pss"]["held_out"]
        for name, found in row["contestants"].items():
            assert len(found["held_out"]) == 2 and 0.4 < found["mean"] < 0.9
            assert name == "pss" or found["pss_above_in"] == sum(
                o > t for o, t in zip(ours, found["held_out"], strict=True)
            )
    assert few_bits.study(*given) == rows
    lines = equal_bytes.markdown(rows).splitlines()
    assert len(lines) == 4 and lines[2].startswith("| small, 10x |") and all(line.count("|") == 7 for line in lines)
    assert all(
        f"{first['contestants'][n]['mean']:.4f}".removeprefix("0") in lines[2] for n in ("full", "pss", "narrow")
    )
    equal_bytes.write_csv(tmp_path / "all.csv", rows)
    with open(tmp_path / "all.csv") as stream:
        written = list(csv.DictReader(stream))
    assert len(written) == sum(len(r["contestants"]) for r in rows)
    of_qr = next(line for line in written if line["contestant"] == "QR")
    assert float(of_qr["mean_auroc"]) == pytest.approx(first["contestants"]["QR"]["mean"], abs=1e-6)
    monkeypatch.setattr(equal_bytes, "_HEADLINE", ("small",))
    assert equal_bytes.headline(rows) == rows
    equal_bytes.plot(tmp_path / "lost.png", rows)
    assert (tmp_path / "lost.png").stat().st_size > 5000


def test_headline_runs_pair_up_by_seed():
    found = headline.runs(quick=False)
    assert len({r.folder for r in found}) == len(found) and all(r.folder.isidentifier() for r in found)
    more = {r.name: r for r in found if r.seed == 0}["kaggle pss 10000x 4 bits, 3 x the rows"]
    assert more.flags[more.flags.index("--synthetic_rows") + 1] == "36000000"
    fp32 = [r for r in found if r.script is not None]
    assert {r.name for r in fp32} == {f"kaggle pss {c}x 4 bits read in fp32" for c in (1000, 10000)}
    assert all(r.script.is_file() and "4" in r.flags for r in fp32)
    assert all(r.full is None or (r.full, r.seed) in {(f.name, f.seed) for f in found} for r in found)

    def line(name, seed, auroc, full=None):
        return {"name": name, "seed": seed, "full": full, "auroc_test": auroc, "bayes": 0.8, "share_of_bayes": 0.9,
                "bytes": 4000, "compression": 2.0, "steps": 7}  # fmt: skip

    lines = [
        line("full", 0, 0.75),
        line("full", 1, 0.77),
        line("half", 0, 0.751, "full"),
        line("half", 1, 0.768, "full"),
    ]
    *_, full, half = tables.headline(lines).splitlines()
    assert full == "| full | 4,000 | 2x | 0.7500, 0.7700 | - | 90.0 % |"
    assert half == "| half | 4,000 | 2x | 0.7510, 0.7680 | +0.0010, -0.0020 | 90.0 % |"


def test_conversion_study():
    """Rows migrated into exact tables are the array's; a larger array explains more."""
    found = {r["what"]: r for r in conversion.study(click_data.generated(6_000, 0.001, 1.1))}
    explained = [found[f"compressed {c}x"]["explained"] for c in (2, 4, 10)]
    assert explained == sorted(explained, reverse=True) and explained[0] > 0.95
    exact = found["10x array, migrated to exact"]
    assert exact["explained"] > 0.9999
    assert exact["auroc_test"] == pytest.approx(found["compressed 10x"]["auroc_test"], abs=1e-4)


class ByName:
    """Results of jobs that nobody ran: an AUROC by contestant and split."""

    def run(self, jobs, workers, description):
        self.keys = {job.key for job in jobs}

    def of(self, job):
        assert job.key in self.keys
        base = {"pss": 0.75, "row hashing": 0.74, "narrow": 0.76, "full": 0.77}[job.trial.contestant]
        own = base + (0.02 if job.trial.contestant == "narrow" and job.data == "shuffled:0" else 0)
        return {"auroc_val": own - 0.01, "auroc_test": own + 0.01}


def test_splits_are_compared_one_by_one():
    rows = splits.study(ByName(), workers=2, quick=True)
    by_name = {(r["compression"], r["contestant"]): r for r in rows}
    assert set(by_name) == {(10.0, n) for n in ("pss", "row hashing", "narrow", "full")} | {
        (100.0, n) for n in ("pss", "row hashing")
    }
    hashing, narrow = by_name[10.0, "row hashing"], by_name[10.0, "narrow"]
    assert hashing["pss_above_by"] == pytest.approx(0.01) and hashing["pss_above_in"] == hashing["splits"] == 2
    assert narrow["pss_above_by"] == pytest.approx(-0.02) and narrow["pss_above_in"] == 0
    assert narrow["half"] == pytest.approx(12.71 * 0.01, rel=1e-3)  # of -.03 and -.01
    text = splits.markdown(rows)
    assert (
        "| 10x | row hashing | 0.7400 | +0.0100 ±0.0000 | 2 of 2 |" in text and "| 10x | pss | 0.7500 | - | - |" in text
    )


def test_kinds_are_split_likewise(tmp_path, monkeypatch):
    """Each made once, with the steps of a file of its size, and a rival that does not fit."""
    source = tmp_path / "rows.tsv.gz"
    row = "\t".join(["1", *"0" * 13, *["7d7"] * 26])
    source.write_bytes(gzip.compress(f"{row}\n".encode() * 2))
    monkeypatch.setattr(files, "CRITEO_ROWS", source)
    kinds = {
        "all": files.Kind(list),
        "few": files.Kind(list, limit=20_000),
        "modulo": files.Kind(files._modulo(1000)),
        "generated": files._generated(1.1),
    }
    monkeypatch.setattr(files, "KINDS", kinds)
    ran = []

    class Found:
        def run(self, jobs, workers, description):
            ran.extend(jobs)

        def of(self, job):
            assert job in ran
            if job.trial.contestant == "narrow":
                return {"impossible": "too small"}
            of_split = 0.01 * int(job.data.split(":")[1])
            ours = 0.02 if job.trial.contestant == "pss" else 0
            return {"auroc_val": 0.7 + of_split + ours, "auroc_test": 0.72 + of_split + ours}

    rows = splits.study_kinds(Found(), tmp_path, workers=1, quick=False)
    assert [r["data"] for r in rows] == ["few"] * 5 + ["modulo"] * 5
    hashing = next(r for r in rows if r["contestant"] == rivals.UNTUNED_ROW_HASHING)
    assert hashing["pss_above_by"] == pytest.approx(0.02) and hashing["pss_above_in"] == hashing["splits"] == 6
    steps = {job.data.split(":")[2]: job.trial.batch_size for job in ran}
    assert steps == {
        str(tmp_path / "files" / "few" / "rows.tsv"): 16,
        str(tmp_path / "files" / "modulo" / "rows.tsv"): 32,
    }
    assert "\t7\t7" in (tmp_path / "files" / "modulo" / "rows.tsv").read_text()
    text = splits.markdown(rows)
    assert "| few | 10x | narrow | does not fit | - | - |" in text
    assert "| modulo | 100x | row hashing, untuned | 0.7350 | +0.0200 ±0.0000 | 6 of 6 |" in text


def test_a_study_says_what_it_does_in_its_log(tmp_path, monkeypatch, capfd):
    def study(results, workers, quick):
        logging.getLogger(splits.__name__).info("half of it")
        return []

    monkeypatch.setattr(splits, "study", study)
    monkeypatch.setattr(sys, "argv", ["run", "splits", "--out", str(tmp_path)])
    monkeypatch.setattr(logging.root, "handlers", [logging.StreamHandler()])  # as imports leave it
    run.main()
    assert "half of it" in capfd.readouterr().err and (tmp_path / "splits.json").exists()
