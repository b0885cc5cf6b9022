"""Which files of a folder train, validate and test, in which order, and which folders are refused."""

import logging
import os
from itertools import pairwise

import numpy as np
import pytest
import script_runs
from click_lines import line, row_of, write, write_rows, write_stage

from torchrec_pss.advise.tables import from_logs
from torchrec_pss.datasets.criteo_binary import BinaryCriteoReader
from torchrec_pss.datasets.criteo_files import CriteoReader, find_files, open_files
from torchrec_pss.datasets.file_roles import TEST, TRAIN, VAL, arrange, natural_order
from torchrec_pss.datasets.rows import NUM_SPARSE
from torchrec_pss.datasets.splits import describe, split_files, uses_fraction

ROWS = 12  # a file


def folder_of(tmp_path, names):
    """Each file's rows are those of its place in ``names``."""
    for place, name in enumerate(names):
        write_rows(tmp_path / name, range(place * ROWS, (place + 1) * ROWS))
    return tmp_path


def parts_of(folder, train_fraction=2 / 3):
    """Rows that train, validate and test, as they are read."""
    reader = CriteoReader(open_files(folder))
    splits = split_files(reader.rows_per_file, train_fraction, reader.roles)
    return [row_of(next(reader.read(iter([rows]))).ids[0]) for rows in (splits.train, splits.val, splits.test)]


def rows_of(*places, rows=slice(None)):
    return [r for place in places for r in list(range(place * ROWS, (place + 1) * ROWS))[rows]]


FIRST, LAST = slice(None, ROWS // 2), slice(ROWS // 2, None)
ALONE = (rows_of(0, rows=slice(8)), rows_of(0, rows=slice(8, 10)), rows_of(0, rows=slice(10, None)))
PARTS = {
    # As ever: one file by fractions; of several without a role all but the last, which is halved.
    ("log.tsv",): ALONE,
    ("train.csv.gz",): ALONE,
    ("train_and_test.csv",): ALONE,
    ("day_2", "day_10.gz", "day_1"): (rows_of(2, 0), rows_of(1, rows=FIRST), rows_of(1, rows=LAST)),
    ("day_0", "day_-1", "notes.txt"): (rows_of(1), rows_of(0, rows=FIRST), rows_of(0, rows=LAST)),
    ("part-2.csv", "part-10.csv"): (rows_of(0), rows_of(1, rows=FIRST), rows_of(1, rows=LAST)),
    ("2024-01-9.csv", "2024-01-10.csv"): (rows_of(0), rows_of(1, rows=FIRST), rows_of(1, rows=LAST)),
    ("train_9.csv", "train_10.csv"): (rows_of(0), rows_of(1, rows=FIRST), rows_of(1, rows=LAST)),
    ("jan.csv", "feb.csv"): (rows_of(1), rows_of(0, rows=FIRST), rows_of(0, rows=LAST)),
    # Names that say it.
    ("train.csv", "valid.csv", "test.csv"): (rows_of(0), rows_of(1), rows_of(2)),
    ("Test.CSV", "TRAIN.csv", "Validation.csv.gz"): (rows_of(1), rows_of(2), rows_of(0)),
    ("a_test.tsv", "b_dev.tsv", "c_training.tsv"): (rows_of(2), rows_of(1), rows_of(0)),
    ("trainSet10.csv", "trainSet9.csv", "EvalSet.csv", "testSet.csv"): (rows_of(1, 0), rows_of(2), rows_of(3)),
    ("train_day_0.csv", "test_day_2.csv", "val_day_1.csv"): (rows_of(0), rows_of(2), rows_of(1)),
    ("train", "val.gz", "test"): (rows_of(0), rows_of(1), rows_of(2)),
    ("train.txt", "test.txt"): (rows_of(0, rows=slice(8)), rows_of(0, rows=slice(8, None)), rows_of(1)),
    ("train.txt", "val_0.txt", "val_1.txt"): (rows_of(0), rows_of(1), rows_of(2)),
    ("train.txt", "holdout.txt"): (rows_of(0), rows_of(1, rows=FIRST), rows_of(1, rows=LAST)),
    ("hold_out.txt", "train.txt", "val.txt"): (rows_of(1), rows_of(2), rows_of(0)),
    ("hold-out.txt", "train.txt", "test.txt"): (rows_of(1), rows_of(0), rows_of(2)),
    # What is no data.
    (".train.csv", "train.csv", "~train.csv", "train.csv~", "#train.csv#", "train.csv.bak"): (
        rows_of(1, rows=slice(8)), rows_of(1, rows=slice(8, 10)), rows_of(1, rows=slice(10, None))
    ),
}  # fmt: skip


@pytest.mark.parametrize("names", PARTS, ids=", ".join)
def test_parts(tmp_path, names):
    assert parts_of(folder_of(tmp_path, names)) == list(PARTS[names])


REFUSED = {
    ("day_0", "day_0.gz"): "day_0 and day_0.gz are the same data file twice",
    ("day_0", "day_00", "day_1"): "day_0 and day_00 are the same",
    ("day_0", "day_0.txt", "day_1"): "day_0 and day_0.txt are the same",
    ("train.txt", "train.txt.gz"): "train.txt and train.txt.gz are the same",
    ("part-1.csv", "part-1.csv.gz", "part-2.csv"): "part-1.csv and part-1.csv.gz are the same",
    ("part-1.csv", "part_01.tsv"): "part-1.csv and part_01.tsv are the same",
    ("Log.csv", "log.csv"): "Log.csv and log.csv are the same",
    ("train.csv", "valid.csv", "other.csv"): "train.csv says what it is for and other.csv does not",
    ("day_0", "day_1", "test.csv"): "test.csv says what it is for and day_0 does not",
    ("train.csv", "train_test.csv"): "train_test.csv says both 'train' and 'test'",
    ("train.csv", "val.csv", "valid.csv"): "val.csv and valid.csv use two words, 'val' and 'valid'",
    ("val.csv", "test.csv"): "no file to train on: test.csv is for 'test'",
    ("test.csv",): "no file to train on: test.csv",
    ("train.csv", "val.csv", "holdout.csv", "test.csv"): "holdout.csv is held out, beside val.csv and test.csv",
}


@pytest.mark.parametrize("names", REFUSED, ids=", ".join)
def test_folders_that_cannot_be_understood(tmp_path, names):
    with pytest.raises(ValueError, match=REFUSED[names]) as error:
        open_files(folder_of(tmp_path, names))
    assert f"data folder {tmp_path}" in str(error.value)


def test_what_is_left_out_is_said(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    folder_of(tmp_path, ["train.csv", "day_7_val"])
    for name in ("test.parquet", "a.json", ".hidden", "test_report"):
        (tmp_path / name).write_bytes(b"PAR1 and more")
    (tmp_path / "test").mkdir()
    assert parts_of(tmp_path) == [rows_of(0), rows_of(1, rows=FIRST), rows_of(1, rows=LAST)]
    assert "left out, for their names are not those of text: a.json, test.parquet" in caplog.text
    assert "test_report: is Parquet, not text" in caplog.text and "hidden" not in caplog.text


def test_a_folder_of_another_kind(tmp_path):
    (tmp_path / "part-0.parquet").write_bytes(b"PAR1" + bytes(50))
    with pytest.raises(FileNotFoundError, match=r"no Criteo file .*; part-0\.parquet: is Parquet, not text"):
        open_files(tmp_path)


def test_a_file_named_after_a_test_is_divided_aloud(tmp_path, caplog):
    folder_of(tmp_path, ["test.csv"])
    assert parts_of(tmp_path / "test.csv") == list(ALONE) and "not for training by its name" in caplog.text


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_one_file_under_two_names(tmp_path, link):
    folder_of(tmp_path, ["day_0", "day_1"])
    link(tmp_path / "day_0", tmp_path / "day_2")
    with pytest.raises(ValueError, match="day_0 and day_2 are one file by a link"):
        open_files(tmp_path)


def test_kaggles_folder(tmp_path, caplog):
    """Its test file has no labels: it is left out, aloud. One that has labels is tested on."""
    caplog.set_level(logging.INFO)
    write_rows(tmp_path / "train.txt", range(ROWS))
    (tmp_path / "readme.txt").write_text("Rows of tabs,\tand commas.\n")
    write(tmp_path / "test.txt", [line(r)[2:] for r in range(5)])
    assert parts_of(tmp_path) == list(ALONE)
    assert f"left out {tmp_path / 'test.txt'}: it has no labels" in caplog.text
    assert f"left out {tmp_path / 'readme.txt'}: is no Criteo file: its first lines have 2 fields" in caplog.text
    header = [f"I{i}" for i in range(1, 14)] + [f"C{i}" for i in range(1, 27)]
    write(tmp_path / "test.txt", [",".join(header), *(line(r, ",")[2:] for r in range(5))])
    assert parts_of(tmp_path) == list(ALONE)
    write(tmp_path / "test.txt", [line(r)[1:] for r in range(5)])  # an empty label
    assert parts_of(tmp_path) == list(ALONE)
    write_rows(tmp_path / "test.txt", range(ROWS, 2 * ROWS))
    assert parts_of(tmp_path)[2] == rows_of(1)


@pytest.mark.parametrize("names", [("train.csv", "test.csv"), ("a.csv", "b.csv"), ("day_0", "day_1")])
def test_files_to_train_on_need_labels(tmp_path, names):
    folder_of(tmp_path, names)
    delimiter = "," if "csv" in names[0] else "\t"
    write(tmp_path / names[0], [line(r, delimiter)[2:] for r in range(5)])
    with pytest.raises(ValueError, match=f"{names[0]} has no labels"):
        open_files(tmp_path)
    with pytest.raises(ValueError, match=f"{names[0]} has no labels"):
        open_files(tmp_path / names[0])


def test_natural_order():
    names = ["a-1_-10.csv", "a-1_-9.csv", "a-1_2.csv", "a-1_10.csv", "a-2_1.csv", "a-10_1.csv", "b-1.csv", "ba.csv"]
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert sorted(rng.permutation(names).tolist(), key=natural_order) == names
    assert arrange(["x.csv"]) == [("x.csv", None)]


def test_what_serves_which_split_is_said():
    """Rows from 1, and all of them once."""
    splits = split_files([100, 100, 51], 0.1)
    assert describe(splits, ["day_0", "day_1", "day_2"], [100, 100, 51]) == [
        "training: 200 rows: day_0 rows 1 to 100 (all), day_1 rows 1 to 100 (all)",
        "validation: 25 rows: day_2 rows 1 to 25 (of 51)",
        "test: 26 rows: day_2 rows 26 to 51 (of 51)",
    ]
    many = describe(split_files([2] * 100, 0.5), [str(i) for i in range(100)], [2] * 100)[0]
    assert "0 rows 1 to 2" in many and "59 files, 98 rows 1 to 2 (all)" in many
    assert uses_fraction([None]) and uses_fraction(["train", "train", "test"])
    assert not uses_fraction([None, None]) and not uses_fraction(["train", "val", "test"])


@pytest.mark.parametrize("names", [("test.csv", "train.csv", "val.csv"), ("day_0", "day_1")])
def test_the_advisor_counts_training_files_only(tmp_path, names):
    described = from_logs(str(folder_of(tmp_path, names)), 1000, None)
    first = int(names[0] == "test.csv") * ROWS
    known = {int.from_bytes(f"{r:08x}".encode(), "little") for r in range(first, first + ROWS)}
    assert set(described.counts["cat_0"].ids.tolist()) == known
    assert described.source.startswith(f"{ROWS} rows of ") and ("train.csv" in described.source) == (first > 0)


STAGES = {
    ("day_10", "day_2", "day_1"): (["day_1", "day_2", "day_10"], [None] * 3),
    ("test", "train", "val"): (["train", "val", "test"], ["train", "val", "test"]),
    ("train",): (["train"], [None]),
    ("day_-1", "day_0", ".day_0"): (["day_-1", "day_0"], [None, None]),
}


@pytest.mark.parametrize("names", STAGES, ids=", ".join)
def test_stages_of_preprocessed_arrays(tmp_path, names):
    for place, name in enumerate(names):
        write_stage(tmp_path, name, ROWS, place * ROWS)
    reader = BinaryCriteoReader(tmp_path, [10**6] * NUM_SPARSE)
    assert (reader.names, reader.roles) == STAGES[names]
    read = [next(reader.read(iter([range(i * ROWS, (i + 1) * ROWS)]))).ids[0] for i in range(len(reader.names))]
    places = [names.index(name) for name in reader.names]
    assert [ids.tolist() for ids in read] == [rows_of(place) for place in places]


def test_stages_that_cannot_be_understood(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    moduli = [10] * NUM_SPARSE
    for name in ("day_0", "day_00"):
        write_stage(tmp_path, name, 5)
    with pytest.raises(ValueError, match="day_0 and day_00 are the same data file twice"):
        BinaryCriteoReader(tmp_path, moduli)
    for part in ("dense", "sparse", "labels"):
        (tmp_path / f"day_00_{part}.npy").rename(tmp_path / f"test_{part}.npy")
    with pytest.raises(ValueError, match="test says what it is for and day_0 does not"):
        BinaryCriteoReader(tmp_path, moduli)
    (tmp_path / "test_labels.npy").unlink()
    assert BinaryCriteoReader(tmp_path, moduli).names == ["day_0"]
    assert "test_dense.npy: it has no labels" in caplog.text
    for part in ("dense", "sparse", "labels"):
        os.symlink(tmp_path / f"day_0_{part}.npy", tmp_path / f"day_1_{part}.npy")
    with pytest.raises(ValueError, match="are one file by a link"):
        BinaryCriteoReader(tmp_path, moduli)
    (tmp_path / "day_1_labels.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"day_1_labels\.npy does not exist"):
        BinaryCriteoReader(tmp_path, moduli)


def test_the_script_refuses_a_doubled_file(tmp_path):
    folder_of(tmp_path, ["day_0", "day_0.gz"])
    done = script_runs.run("train_criteo.py", "--data_path", tmp_path, "--output_dir", tmp_path / "out", check=False)
    assert done.returncode == 2 and "Traceback" not in done.output
    assert f"error: data folder {tmp_path}: day_0 and day_0.gz are the same data file twice" in done.output


FRACTIONS = {
    "": (["log.tsv"], False),
    "train and test": (["train.csv", "test.csv"], False),
    "--train_fraction 0.5 is not used: the files say which rows are for what": (["day_0", "day_1"], True),
    "all three": (["train.csv", "val.csv", "test.csv"], True),
}


@pytest.mark.parametrize("case", FRACTIONS)
def test_a_fraction_that_is_not_used_is_said(tmp_path, monkeypatch, caplog, case):
    monkeypatch.syspath_prepend(str(script_runs.EXAMPLES))
    import criteo_data
    import criteo_flags
    import process_group
    import torch.distributed as dist

    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(process_group, "first_rank_first", lambda work: work())
    names, said = FRACTIONS[case]
    flags = ["--data_path", str(folder_of(tmp_path, names)), "--cache_dir", str(tmp_path / "cache")]
    criteo_data.load(criteo_flags.parse(flags))
    assert "is not used" not in caplog.text
    criteo_data.load(criteo_flags.parse([*flags, "--train_fraction", "0.5"]))
    assert ("--train_fraction 0.5 is not used" in caplog.text) == said


def test_find_files_is_in_the_order_of_rows(tmp_path):
    names = [f"part-{i}.csv" for i in (11, 2, 1, 10, 100)]
    found = [int(p.stem.split("-")[1]) for p in find_files(folder_of(tmp_path, names))]
    assert all(a < b for a, b in pairwise(found))


@pytest.mark.parametrize("names", [["trainset.csv", "testset.csv", "valset.csv"], ["traindata.csv", "testdata.csv"]])
def test_words_glued_to_others_mean_what_they_say(names):
    roles = dict(arrange(names))
    assert roles[names[0]] == TRAIN and roles[names[1]] == TEST and roles.get("valset.csv", VAL) == VAL


@pytest.mark.parametrize(
    "names", [["mytrain.csv", "mytest.csv"], ["xtest.csv", "xtrain.csv"], ["tr.csv", "te.csv", "va.csv"]]
)
def test_words_that_may_be_meant_are_asked_about(names):
    with pytest.raises(ValueError, match="say what the file is for"):
        arrange(names)
    assert arrange(names[:1])


def test_two_files_of_one_content_are_refused(tmp_path):
    for name in ("train.csv", "train (1).csv"):
        write_rows(tmp_path / name, range(4))
    with pytest.raises(ValueError, match="hold the same rows: take one of them out"):
        open_files(tmp_path)
