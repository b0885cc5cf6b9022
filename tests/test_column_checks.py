"""Columns that say nothing or say the label are named, and no others; labels of another kind are told what is supported."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click_lines import line
from script_mains import end_of
from sklearn.metrics import roc_auc_score

from torchrec_pss.datasets.column_checks import OddColumn, odd_columns
from torchrec_pss.datasets.criteo_files import CriteoReader, open_files
from torchrec_pss.datasets.errors import BadRowsError
from torchrec_pss.datasets.guessed_schema import guess
from torchrec_pss.datasets.label_values import SUPPORTED, advice
from torchrec_pss.datasets.open_rows import find_rows_files, reader_of
from torchrec_pss.datasets.schema import Schema
from torchrec_pss.schema import __main__ as command

QUICK = ["--array_bytes", 4000, "--embedding_dim", 8, "--dense_arch_layer_sizes", "16,8", "--batch_size", 64, "--epochs", 1, "--limit_train_batches", 3]  # fmt: skip


def names(labels, dense=None, sparse=None):
    return [odd.name for odd in odd_columns(labels, dense or {}, sparse or {})]


def labels_of(number, share=0.3, seed=0):
    return (np.random.default_rng(seed).random(number) < share).astype(np.float32)


def test_what_is_named():
    labels, rng = labels_of(1000), np.random.default_rng(1)
    dense = {
        "noise": rng.normal(size=1000),
        "paid": labels * rng.random(1000),
        "unpaid": 5 - labels,
        "strong": labels * 2.5 + rng.normal(size=1000),
        "flat": np.full(1000, 3.0),
    }
    only_clicks = np.where(labels == 1, np.arange(1000) + 1, 0)  # a number of an order, where there is one
    sparse = {
        "user": rng.integers(0, 50, 1000),
        "row": np.arange(1000),
        "copy": labels.astype(int),
        "order": only_clicks,
        "same": np.zeros(1000, int),
    }
    found = {odd.name: odd.auroc for odd in odd_columns(labels, dense, sparse)}
    assert list(found) == ["paid", "unpaid", "flat", "copy", "order", "same"]
    assert found["flat"] is found["same"] is None and found["paid"] == found["unpaid"] == found["copy"] == 1
    strong = roc_auc_score(labels, dense["strong"])
    assert 0.9 < strong < 0.99
    assert "AUROC 1.0000" in str(OddColumn("a", 1.0)) and "it has one value" in str(OddColumn("a", None))


def test_ids_are_learned_on_the_first_half():
    """Mean label of each id there, scored on the second half; ids that are new there have the mean of all."""
    labels = labels_of(400)
    user = np.random.default_rng(2).integers(0, 9, 400)
    user[labels == 1] += 4
    from torchrec_pss.datasets.column_checks import _of_ids

    first = {u: labels[:200][user[:200] == u].mean() for u in set(user[:200].tolist())}
    scores = [first.get(u, labels[:200].mean()) for u in user[200:].tolist()]
    assert _of_ids(user, labels.astype(float), 200) == pytest.approx(roc_auc_score(labels[200:], scores), abs=1e-12)
    assert _of_ids(np.arange(400), labels.astype(float), 200) == 0.5


def test_no_false_alarm():
    for rows, share in ((99, 0.5), (1000, 0.01)):  # few rows, few positives
        labels = labels_of(rows, share)
        assert not names(labels, {"a": labels}, {"b": labels.astype(int)})
    in_order = np.sort(labels_of(1000))  # the first half has one class
    assert not names(in_order, {"a": np.arange(1000.0)}, {"b": in_order.astype(int)})
    assert names(np.zeros(1000), {"a": np.zeros(1000)}, {"b": np.arange(1000)}) == ["a"]
    for seed in range(200):  # noise, with as few positives as are looked at
        rng, labels = np.random.default_rng(seed), labels_of(100, 0.25, seed)
        assert not names(
            labels, {"d": rng.normal(size=100)}, {"few": rng.integers(0, 3, 100), "many": rng.integers(0, 80, 100)}
        )


def log(path, number=600, **changed):
    rng, label = np.random.default_rng(0), labels_of(number, seed=1).astype(int)
    columns = {
        "click": label, "price": rng.random(number).round(3), "refund": label * 9.5, "site": [f"s{v}" for v in rng.integers(0, 9, number)],
        "order": [f"o{v}" if y else "" for v, y in zip(rng.integers(0, 7, number), label, strict=True)], "one": ["k"] * number,
    } | changed  # fmt: skip
    if path.suffix == ".parquet":
        pq.write_table(pa.table({name: pa.array(column) for name, column in columns.items()}), path)
    else:
        rows = zip(*columns.values(), strict=True)
        path.write_text("\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_guess_warns(tmp_path, capsys, kind):
    path = log(tmp_path / f"log.{kind}")
    command.main([str(path), "--output", str(tmp_path / "s.yaml")])
    text, said = (tmp_path / "s.yaml").read_text(), capsys.readouterr().err
    assert [line.split("'")[1] for line in said.splitlines()] == ["refund", "order", "one"]
    assert "warning: column 'refund', first 600 rows: alone it has AUROC 1.0000" in said
    assert "warning: column 'one', first 600 rows: it has one value" in said
    assert text.count("Warning: alone it has AUROC 1.0000") == 2 and "# one: left out: it has one value" in text
    assert Schema.read(tmp_path / "s.yaml") == Schema("click", ("site", "order"), ("price", "refund"), ("log", "log"))
    command.main([str(log(tmp_path / f"few.{kind}", 90))])
    assert "Warning" not in (said := capsys.readouterr()).out and not said.err


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_training_warns(tmp_path, kind):
    """Of the schema's columns, once, though rows are malformed too."""
    times = np.arange(600)
    times[10], times[560:] = (8, times[560:]) if kind == "csv" else (10, times[560:] - 560)
    path = log(tmp_path / f"log.{kind}", when=times.tolist())
    if kind == "csv":
        path.write_text(path.read_text().replace("when\n", "when\nx,1,1,a,b,k,1\n", 1))
    said = {"label": "click", "dense": ["price", "refund"], "sparse": ["site", "order", "one"], "time": "when"}
    (tmp_path / "s.json").write_text(json.dumps(said))
    flags = ["--data_path", path, "--schema", tmp_path / "s.json", *QUICK, "--cache_dir", tmp_path / "cache"]
    ended = end_of("train_criteo", *flags, "--output_dir", tmp_path / "run")
    assert ended.status == 0, ended.output[-2000:]
    assert ended.output.count("alone it has AUROC") == 2 and ended.output.count("it has one value") == 1
    assert ended.output.count("left out a malformed line") == (kind == "csv")
    where = (
        "training row 10 is later than"
        if kind == "csv"
        else "the first test rows begin at 0, before training row 514, 513"
    )
    assert ended.output.count("time 'when': ") == 1 and where in ended.output
    for name in ("refund", "order", "one"):
        assert f"column '{name}', first 514 training rows: " in ended.output
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["grouped_auroc_test"] is found["grouped_by"] is None and 0 < found["logloss_test"] < 2


def test_preprocessed_arrays_are_looked_at(tmp_path):
    rng, labels = np.random.default_rng(0), labels_of(700).astype(np.int32)
    dense, sparse = rng.normal(size=(700, 13)).astype(np.float32), rng.integers(0, 50, (700, 26))
    dense[:, 3], sparse[:, 7] = -labels, 3
    for name, array in (("dense", dense), ("sparse", sparse), ("labels", labels[:, None])):
        np.save(tmp_path / f"train_{name}.npy", array)
    flags = ["--in_memory_binary_criteo_path", tmp_path, *QUICK, "--num_embeddings", 50]
    ended = end_of("train_criteo", *flags, "--output_dir", tmp_path / "run")
    assert ended.status == 0, ended.output[-2000:]
    assert "column 'int_3', first 600 training rows: alone it has AUROC 1.0000" in ended.output
    assert "column 'cat_7', first 600 training rows: it has one value" in ended.output
    assert ended.output.count("training rows: ") == 2


KINDS = {
    (b"1", b"2", b"5"): f"3 whole numbers from 1 to 5, like ratings or classes; {SUPPORTED}",
    (b"0.5", b"5", b"3.5", b"4"): "numbers from 0.5 to 5, like amounts or prices; a label is 0 or 1",
    tuple(str(v).encode() for v in range(300)): "numbers from 0 to 299, like amounts",
    (b"1", b"-1"): "it holds -1 and 1: write 0 and 1 for them",
    (b"0.0", b"1.0", b""): "it holds 0 and 1 written otherwise, or nothing",
    (b"True", b"False"): "words for yes and no: write 1 and 0",
    (b"cat", b"dog", b"1"): SUPPORTED,
    (b"nan", b"1"): SUPPORTED,
}


@pytest.mark.parametrize("values", KINDS, ids=lambda values: values[0].decode())
def test_labels_of_another_kind(values):
    assert KINDS[values] in advice(values)


def test_the_guess_says_what_a_label_is(tmp_path):
    rng = np.random.default_rng(0)
    path = log(tmp_path / "a.csv", rating=rng.integers(1, 6, 600), click=rng.integers(2, 4, 600))
    with pytest.raises(
        ValueError, match=r"the label 'rating' is '2' somewhere, .* 5 whole numbers from 1 to 5, .*rating >= 4"
    ):
        guess(path, "rating")
    with pytest.raises(ValueError, match="no column is 0 and 1 in its first lines, and 'click' .* it holds 2 and 3"):
        guess(path)
    both = log(tmp_path / "b.csv", click=rng.integers(1, 6, 600), flag=rng.integers(0, 2, 600))
    with pytest.raises(
        ValueError, match="flag is 0 and 1 in its first lines, and 'click' is named as labels are: it holds 5"
    ):
        guess(both)
    graded = log(tmp_path / "c.csv", click=rng.integers(5, 7, 600), stars=rng.integers(1, 6, 600))
    graded.write_text(graded.read_text().replace("click", "clock", 1))
    with pytest.raises(
        ValueError, match="no column is 0 and 1 in its first lines, and 'stars' is named .* 5 whole numbers"
    ):
        guess(graded)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_readers_say_what_a_label_is(tmp_path, kind):
    said = Schema.of({"label": "click", "sparse": ["site"]})
    path = log(tmp_path / f"log.{kind}", click=np.random.default_rng(0).integers(1, 6, 600))
    with pytest.raises(
        BadRowsError, match=r"more than --max_bad_rows 100.* Most are wrong in the label: .*rating >= 4"
    ):
        list(reader_of(find_rows_files(path, said), said).read(iter([range(600)])))


def test_other_malformed_lines_say_nothing_of_labels(tmp_path):
    path = Path(tmp_path / "a.tsv")
    path.write_text("\n".join(["x\t1", "y", "3" + line(0)[1:], *map(line, range(9))]) + "\n")
    with pytest.raises(BadRowsError) as error:
        list(CriteoReader(open_files(path), max_bad_rows=2).read(iter([range(12)])))
    assert "3 malformed lines" in str(error.value) and "Most" not in str(error.value)
