"""The lab's files and pairs: other generators, and the scripts run on what they make."""

import gzip
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.quality import (
    click_data,
    dense_rows,
    files,
    pair_files,
    script_run,
)
from benchmarks.quality.dense_rows import Ratings, Usage
from benchmarks.quality.other_pairs import OtherPairs, draw
from benchmarks.quality.other_rows import OtherRows, write
from torchrec_pss.datasets.interactions import Interactions


def test_files_are_made_and_the_script_runs_on_them(tmp_path, monkeypatch):
    """What the script is told, and a rival that it refuses."""
    row = ["1", *(str(i) for i in range(13)), *(format(1000 * i + 7, "x") for i in range(25)), ""]
    source = tmp_path / "rows.tsv.gz"
    source.write_bytes(gzip.compress(("\t".join(row) + "\n").encode() * 3))
    monkeypatch.setattr(files, "CRITEO_ROWS", source)
    kinds = {
        "a b": files.Kind(files._modulo(1000), limit=2),
        "c": files._generated(1.4),
        "d": files._other(20, (3, 9), (0.7, 1.5), clusters=True, seed=1),
    }
    monkeypatch.setattr(files, "KINDS", kinds)
    calls = []

    def results_of(folder, flags):
        calls.append(" ".join(flags))
        if "--embedding narrow" in calls[-1]:
            raise ValueError("too small")
        return {"auroc_held_out": 0.75 if "--embedding pss" in calls[-1] else 0.74}

    monkeypatch.setattr(files, "results_of", results_of)
    found = files.study(tmp_path, workers=1, quick=False)
    made = (tmp_path / "files" / "a_b" / "rows.tsv").read_text().splitlines()
    assert made == ["\t".join([*row[:14], *["7"] * 25, ""])] * 2
    assert len((tmp_path / "files" / "d" / "rows.tsv").read_text().splitlines()) == 20
    assert len(set(calls)) == (2 + 1 + 1) * 5 and sum("--synthetic_skew 1.4" in call for call in calls) == 5
    assert [(r["data"], r["compression"], r["rival"]) for r in found[:3]] == [
        ("a b", 10, "hash"),
        ("a b", 10, "narrow"),
        ("a b", 100, "hash"),
    ]
    assert found[0]["pss_above_by"] == pytest.approx([0.01, 0.01]) and found[1]["impossible"] == "too small"
    text = files.markdown(found)
    assert "| a b | 10x | .7500 | hash | .7400 | +0.0100, +0.0100 |" in text and "| narrow | does not fit | - |" in text


def test_all_contestants_have_as_few_bits_and_kinds_may_be_picked(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "KINDS", {"dense, a": files._generated(1.1), "b": files._generated(1.4)})
    calls = []
    monkeypatch.setattr(files, "results_of", lambda folder, flags: calls.append(flags) or {"auroc_held_out": 0.7})
    found = files.study(tmp_path, workers=1, quick=False, bits=4, only="dense")
    assert {r["data"] for r in found} == {"dense, a"}
    assert len(calls) == 5 and all(flags[flags.index("--bits") + 1] == "4" for flags in calls)


@pytest.mark.parametrize(
    "rows, fields", [(Ratings(3000, users=60, items=40), 8), (Usage(3000, users=30, items=50), 10)]
)
def test_dense_logs_are_written_as_criteo_files(tmp_path, rows, fields):
    """Few fields, no numbers, every large field's ids many times; labels that user and item together explain."""
    for name, made in (("a", rows), ("again", rows), ("b", replace(rows, seed=6))):
        dense_rows.write(made, tmp_path / name)
    assert (tmp_path / "a").read_text() == (tmp_path / "again").read_text() != (tmp_path / "b").read_text()
    lines = [line.split("\t") for line in (tmp_path / "a").read_text().splitlines()]
    assert len(lines) == 3000 and {len(line) for line in lines} == {40}
    assert {(all(line[14 : 14 + fields]), any(line[1:14] + line[14 + fields :])) for line in lines} == {(True, False)}
    assert len({line[14] for line in lines}) <= rows.users and len({line[15] for line in lines}) <= rows.items
    ids, labels = rows.fields()
    assert [int(line[0]) for line in lines] == labels.astype(int).tolist() and 0.2 < labels.mean() < 0.8
    means = [np.array([labels[ids[:, f] == k].mean() for k in set(ids[:, f])]) for f in (0, 1)]
    assert max(m.std() for m in means) > 0.1


@pytest.mark.parametrize("of_ids", [{}, {"clusters": True}, {"pairs": 0}])
def test_another_generator_writes_criteo_files(tmp_path, of_ids):
    rows = OtherRows(4000, (3, 300), (0.7, 1.5), seed=5, **of_ids)
    for name, written in (("a", rows), ("again", rows), ("b", replace(rows, seed=6))):
        write(written, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "again").read_bytes() != (tmp_path / "b").read_bytes()
    log = click_data.criteo(tmp_path / "a")
    assert log.dense.shape == (4000, 13) and log.ids.shape == (26, 4000) and 0.1 < log.labels.mean() < 0.6
    tokens = [line.split("\t")[14:] for line in (tmp_path / "a").read_text().splitlines()]
    assert np.mean([[not t for t in line] for line in tokens]) == pytest.approx(0.03, abs=0.005)
    distinct = [len({t for t in column if t}) for column in zip(*tokens, strict=True)]
    assert 3 <= min(distinct) < 20 and 100 < max(distinct) <= 300
    # Ids say something of the label: squared errors of click rates are 1 on average by chance.
    squares = []
    for ids in log.ids.numpy():
        of_id = [log.labels.numpy()[ids == k] for k in np.unique(ids) if (ids == k).sum() >= 200]
        squares += [(float(c.mean() - log.labels.mean()) / (c.std() / len(c) ** 0.5)) ** 2 for c in of_id]
    assert len(squares) > 30 and np.mean(squares) > 2


@pytest.mark.parametrize("of_tastes", [{"factors": 3}, {"clusters": 5}])
def test_another_generator_draws_pairs(of_tastes):
    of = OtherPairs(400, 300, 12_000, effect=2.0, popularity=1.0, seed=1, **of_tastes)
    first, again, other = draw(of), draw(of), draw(replace(of, seed=2))
    assert np.array_equal(first.train_item, again.train_item) and len(first.train_item) != len(other.train_item)
    users = np.concatenate([first.train_user, first.test_user])
    items = np.concatenate([first.train_item, first.test_item])
    assert len(np.unique(users * 300 + items)) == len(users) and len(first.test_user) == pytest.approx(
        len(users) / 5, abs=1
    )
    number = np.bincount(users, minlength=400)
    assert number.min() == 3 and number.max() <= 100 and number.sum() == pytest.approx(12_000, rel=0.15)
    # Few directions explain who likes what, beyond how popular items are.
    likes = np.zeros((400, 300))
    likes[users, items] = 1
    independent = number[:, None] * likes.sum(0) / number.sum()
    strengths = np.linalg.svd((likes - independent) / np.sqrt(independent + 1e-9), compute_uv=False)
    assert strengths[2] > 1.15 * strengths[6]


def test_pairs_are_made_and_the_script_runs_on_them(tmp_path, monkeypatch):
    monkeypatch.setattr(pair_files, "PAIRS", {"a b": OtherPairs(60, 40, 600, 2.0, 1.0, seed=1, factors=2)})
    calls = []

    def results_of(folder, flags, script):
        assert script.name == "train_interactions.py" and folder.parent == tmp_path / "pair_files" / "a_b"
        calls.append(" ".join(flags))
        return {"auroc_test": 0.75 if "--embedding pss" in calls[-1] else 0.74}

    monkeypatch.setattr(pair_files, "results_of", results_of)
    found = pair_files.study(tmp_path, workers=1, quick=False)
    made = Interactions.load(tmp_path / "pair_files" / "a_b" / "pairs.npz")
    assert (made.num_users, made.num_items) == (60, 40)
    assert len(set(calls)) == 2 * 2 * 3 and all("--compression 10 " in call for call in calls)
    assert [(r["data"], r["rival"]) for r in found[1:3]] == [("a b, D = 64", "hash"), ("a b, D = 32", "narrow")]
    assert found[0]["pss_above_by"] == pytest.approx([0.01, 0.01])


def test_scripts_are_told_apart(tmp_path):
    script = tmp_path / "other.py"
    script.write_text("import pathlib, sys\npathlib.Path(sys.argv[-1], 'results.json').write_text('{\"a\": 1}')\n")
    assert script_run.results_of(tmp_path / "out", (), script=script) == {"a": 1}


def test_what_the_script_refuses_is_told_from_a_failure(tmp_path, monkeypatch):
    script = tmp_path / "script.py"
    monkeypatch.setattr(script_run, "SCRIPT", script)
    script.write_text("print('12:00:00 error: too small')\nraise SystemExit(2)\n")
    with pytest.raises(ValueError, match="error: too small"):
        script_run.results_of(tmp_path / "refused", ())
    script.write_text("raise SystemExit(3)\n")
    with pytest.raises(subprocess.CalledProcessError, match="exit status 3"):
        script_run.results_of(tmp_path / "failed", ())
