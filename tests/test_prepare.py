"""Prepared rows: those of the files to the bit, from anywhere; stopped, damaged, divided."""

import json
import resource
import sys
from itertools import pairwise

import forked
import numpy as np
import own_logs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click_lines import line, write
from torch.utils.data import DataLoader

from torchrec_pss.datasets import ClickDataset, preparing
from torchrec_pss.datasets.errors import BadRowsError, DataChangedError, DataError
from torchrec_pss.datasets.open_rows import find_rows_files, reader_of, schema_of
from torchrec_pss.datasets.prepared_rows import MANIFEST, open_prepared
from torchrec_pss.datasets.preparing import prepare
from torchrec_pss.datasets.rows import join_blocks
from torchrec_pss.datasets.schema import CRITEO_SCHEMA, Schema
from torchrec_pss.datasets.splits import split_files
from torchrec_pss.prepare import __main__ as command

ARRAYS = ("dense", "ids", "labels", "lengths", "weights")


def rows_at(path, schema, windows):
    files = find_rows_files(path, schema)
    return list(reader_of(files, schema).read(iter(windows)))


def same(a, b):
    for name in ARRAYS:
        x, y = getattr(a, name), getattr(b, name)
        if (x is None) != (y is None) or (x is not None and x.tobytes() != y.tobytes()):
            return False
    return True


@pytest.fixture
def criteo(tmp_path):
    """Two files to train on and one to test on, with malformed lines."""
    folder = tmp_path / "data"
    folder.mkdir()
    for seed, name in enumerate(("train_0.txt", "train_1.txt", "test.txt")):
        lines = [line(row) for row in range(1000 * seed, 1000 * seed + 700)]
        for bad in (3, 4, 500):
            lines[bad] = "2" + lines[bad][1:]
        write(folder / name, lines)
    return folder


def test_rows_are_those_of_the_files(criteo, tmp_path, monkeypatch):
    monkeypatch.setattr(preparing, "_BLOCK_ROWS", 64)
    manifest = prepare(criteo, tmp_path / "out", CRITEO_SCHEMA, part_rows=250, workers=2)
    assert manifest["bad_rows"] == 9 and [f["role"] for f in manifest["files"]] == ["train", "train", "test"]
    assert not (tmp_path / "out" / ".preparing").exists()
    schema = schema_of(tmp_path / "out")
    assert schema.as_json() == CRITEO_SCHEMA.as_json()
    ours, theirs = find_rows_files(tmp_path / "out", schema), find_rows_files(criteo)
    assert [f.num_rows for f in ours] == [f.num_rows for f in theirs]  # positions, with those left out
    args = ([f.num_rows for f in ours], 0.8, [f.role for f in ours])
    assert split_files(*args) == split_files(args[0], 0.8, [f.role for f in theirs])
    rng = np.random.default_rng(0)
    ends = np.sort(rng.choice(2100, 40, replace=False)).tolist()
    windows = [range(a, b) for a, b in pairwise(ends)]
    for a, b in zip(rows_at(tmp_path / "out", schema, windows), rows_at(criteo, CRITEO_SCHEMA, windows), strict=True):
        assert same(a, b)
    backwards = rows_at(tmp_path / "out", schema, windows[::-1])  # from anywhere
    assert same(backwards[-1], rows_at(criteo, CRITEO_SCHEMA, windows[:1])[0])


@pytest.mark.parametrize("name", ["kdd12", "multi_hot"])
def test_other_schemas(tmp_path, name):
    (tmp_path / "data").mkdir()
    path, said = own_logs.LOGS[name](tmp_path / "data")
    schema = Schema.of({k: v for k, v in said.items() if k != "split"})
    command.main([str(path), str(tmp_path / "out"), "--schema", str(written(tmp_path, schema)), "--part_rows", "1111"])
    found = rows_at(tmp_path / "out", schema, [range(own_logs.ROWS)])[0]
    assert same(found, rows_at(path, schema, [range(own_logs.ROWS)])[0])
    assert open_prepared(tmp_path / "out")[0].texts == {"kdd12": schema.features, "multi_hot": ("shop", "tags")}[name]


def written(folder, schema):
    (folder / "schema.json").write_text(json.dumps(schema.as_json()))
    return folder / "schema.json"


def test_a_column_divides_the_rows(tmp_path):
    path, said = own_logs.multi_hot(tmp_path)
    schema = Schema.of(said)
    manifest = prepare(path, tmp_path / "out", schema, part_rows=700)
    assert [(f["name"], f["role"], sum(p["rows"] for p in f["parts"])) for f in manifest["files"]] == [
        ("train", "train", 2400), ("val", "val", 300), ("test", "test", 300)
    ]  # fmt: skip
    # Days ascend in this log: the parts are what they are in the files.
    whole = rows_at(path, Schema.of({k: v for k, v in said.items() if k != "split"}), [range(3000)])[0]
    assert same(rows_at(tmp_path / "out", schema_of(tmp_path / "out"), [range(3000)])[0], whole)
    with pytest.raises(ValueError, match="its schema has a split: prepare the rows first, torchrec-pss prepare"):
        find_rows_files(path, schema)
    dataset = ClickDataset(tmp_path / "out", 128, "test")
    batches = list(DataLoader(dataset, batch_size=None, num_workers=2))
    assert sum(len(b.labels) for b in batches) == 300 and batches[0].sparse_features.weights_or_none() is not None


def test_times_divide_the_rows(tmp_path):
    """Whatever their order in the file, and however large they are."""
    rng = np.random.default_rng(0)
    times = 1_700_000_000 + rng.permutation(500)
    lines = ["y,t,a", *(f"{row % 2},{t},{t}" for row, t in enumerate(times))]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    said = {
        "label": "y",
        "sparse": ["a"],
        "time": "t",
        "split": {"val_from": 1_700_000_301, "test_from": 1_700_000_401},
    }
    prepare(tmp_path / "t.csv", tmp_path / "out", Schema.of(said), part_rows=100)
    files = open_prepared(tmp_path / "out")
    assert [f.num_rows for f in files] == [301, 100, 99]
    plain = Schema.of({k: v for k, v in said.items() if k != "split"})
    whole = rows_at(tmp_path / "t.csv", plain, [range(500)])[0]
    order = [
        np.flatnonzero((times >= a) & (times < b))
        for a, b in ((0, said["split"]["val_from"]), (1_700_000_301, 1_700_000_401), (1_700_000_401, 1e10))
    ]
    assert same(
        join_blocks(rows_at(tmp_path / "out", schema_of(tmp_path / "out"), [range(200), range(200, 500)])),
        whole.take(np.concatenate(order)),
    )

    (tmp_path / "t.csv").write_text("\n".join([*lines, "1,,9"]) + "\n")
    with pytest.raises(BadRowsError, match="t.csv:502: t is '', not a finite number"):
        prepare(tmp_path / "t.csv", tmp_path / "other", Schema.of(said), max_bad_rows=0)
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    late = said | {"split": {"val_from": 1_800_000_000, "test_from": 1_900_000_000}}
    with pytest.raises(DataError, match="leaves no row to validate on"):
        prepare(tmp_path / "t.csv", tmp_path / "late", Schema.of(late))


def test_one_that_was_stopped_goes_on(criteo, tmp_path, monkeypatch):
    out, written_parts = tmp_path / "out", []
    whole = prepare(criteo, tmp_path / "whole", CRITEO_SCHEMA, part_rows=250, workers=1)
    original = preparing.write_part

    def stopped(path, block, schema):
        if len(written_parts) == 4:
            raise KeyboardInterrupt
        written_parts.append(path)
        original(path, block, schema)

    monkeypatch.setattr(preparing, "write_part", stopped)
    with pytest.raises(KeyboardInterrupt):
        prepare(criteo, out, CRITEO_SCHEMA, part_rows=250, workers=1)
    assert not (out / MANIFEST).exists() and not list(out.glob("*.tmp"))
    with pytest.raises(FileNotFoundError):
        open_prepared(out)
    with pytest.raises(ValueError, match="its preparing has not ended"):
        find_rows_files(out)
    with pytest.raises(ValueError, match="was begun with other part_rows: remove it"):
        prepare(criteo, out, CRITEO_SCHEMA, part_rows=300, workers=1)
    monkeypatch.setattr(preparing, "write_part", original)
    kept = [path.stat().st_mtime_ns for path in sorted(out.glob("*.arrow"))]
    found = prepare(criteo, out, CRITEO_SCHEMA, part_rows=250, workers=1)
    assert found | {"source": 0} == whole | {"source": 0} and len(kept) == 4
    assert [path.stat().st_mtime_ns for path in sorted(out.glob("*.arrow"))][:4] == kept
    with pytest.raises(ValueError, match="has rows that were prepared before"):
        prepare(criteo, out, CRITEO_SCHEMA)
    with pytest.raises(ValueError, match="is prepared already"):
        prepare(out, tmp_path / "twice", CRITEO_SCHEMA)


def test_what_is_refused(criteo, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match="full is no empty folder"):
        prepare(criteo, tmp_path / "full", CRITEO_SCHEMA)
    with pytest.raises(BadRowsError, match="9 malformed|malformed lines, more than --max_bad_rows 7"):
        prepare(criteo, tmp_path / "bad", CRITEO_SCHEMA, max_bad_rows=7, workers=1)
    assert not (tmp_path / "bad" / MANIFEST).exists()
    prepare(criteo, tmp_path / "out", CRITEO_SCHEMA, part_rows=400)
    with pytest.raises(ValueError, match="was prepared with another schema"):
        schema_of(tmp_path / "out", Schema("label", ("a",)))


def test_damage_is_seen(criteo, tmp_path):
    out = tmp_path / "out"
    prepare(criteo, out, CRITEO_SCHEMA, part_rows=400)
    part = sorted(out.glob("*.arrow"))[1]
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    schema = schema_of(out)
    assert len(rows_at(out, schema, [range(300)])[0]) == 298  # another part
    with pytest.raises(DataChangedError, match=f"{part.name} is damaged: its SHA-256"):
        rows_at(out, schema, [range(500)])
    part.write_bytes(content[:-1])
    with pytest.raises(DataChangedError, match=f"{part.name} has changed since it was prepared: .* bytes then"):
        rows_at(out, schema, [range(500)])
    part.unlink()
    with pytest.raises(DataChangedError, match=f"{part.name} is not there any more"):
        rows_at(out, schema, [range(500)])
    for text, message in (
        ("{}", "format"),
        ("[", "no JSON"),
        ('{"format": 2, "schema": {}, "texts": [], "files": []}', "format is 2, and this version reads 1"),
    ):
        (out / MANIFEST).write_text(text)
        with pytest.raises(ValueError, match=f"{MANIFEST}.*{message}"):
            open_prepared(out)


def _prepare_within(limit, path, output, errors):
    """With files of so many bytes at most."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        prepare(path, output, CRITEO_SCHEMA, workers=1)
    except OSError as error:
        errors.put(str(error))
    else:
        errors.put("")


def test_a_disk_that_is_full_leaves_nothing_half_written(criteo, tmp_path):
    errors = forked.context().Queue()
    process = forked.context().Process(target=_prepare_within, args=(30_000, criteo, tmp_path / "out", errors))
    process.start()
    assert "part-000000.arrow" in errors.get(timeout=100)
    process.join()
    assert not list((tmp_path / "out").glob("*.arrow*")) and not (tmp_path / "out" / MANIFEST).exists()


def parquet(folder, **columns):
    rows = len(next(iter(columns.values())))
    folder.mkdir(exist_ok=True)
    path = folder / f"part-{len(list(folder.iterdir()))}.parquet"
    pq.write_table(pa.table({"y": np.arange(rows) % 2, "a": np.arange(rows)} | columns), path)
    return folder


def test_times_of_parquet(tmp_path):
    """A missing time is a malformed row; files whose units differ are refused."""
    said = {"label": "y", "sparse": ["a"], "time": "t", "split": {"val_from": -10, "test_from": -5}}
    data = parquet(tmp_path / "one", t=pa.array([-20, None, -8, -2, -3], pa.int64()))
    manifest = prepare(data, tmp_path / "out", Schema.of(said))
    assert manifest["bad_rows"] == 1 and [f.num_rows for f in open_prepared(tmp_path / "out")] == [1, 1, 2]
    data = parquet(tmp_path / "two", t=pa.array([1, 2], pa.timestamp("us")))
    parquet(data, t=pa.array([3, 4, 5], pa.timestamp("ms")))
    with pytest.raises(
        ValueError, match=r"part-1.parquet: the time 't' is timestamp\[ms\], and timestamp\[us\] in .*part-0"
    ):
        prepare(data, tmp_path / "units", Schema.of(said))
    data = parquet(tmp_path / "three", t=pa.array([1, 2], pa.time64("us")))
    with pytest.raises(ValueError, match="the column 't' is time64"):
        prepare(data, tmp_path / "clock", Schema.of(said))


def test_values_that_divide(tmp_path):
    """Whole numbers may be in quotes; words for a column of numbers, and one value of two parts, are refused."""
    data = parquet(tmp_path / "data", fold=pa.array([1, 2, 3, 3, (1 << 64) - 1], pa.uint64()))
    said = {"label": "y", "sparse": ["a"]}

    def rows(val, test):
        out = tmp_path / f"{val}{test}"
        prepare(data, out, Schema.of(said | {"split": {"column": "fold", "val": val, "test": test}}))
        return [f.num_rows for f in open_prepared(out)]

    assert rows(["1"], [2]) == [3, 1, 1] and rows(3, [(1 << 64) - 1]) == [2, 2, 1]
    with pytest.raises(DataError, match="the split's column holds whole numbers, .*'x'"):
        rows(["x"], [2])
    for val, test, message in (
        ([1], ["1"], "1 is in split.val and in split.test"),
        ([1 << 70], [2], "split.val has 1180591620717411303424, and must"),
    ):
        with pytest.raises(ValueError, match=message):
            rows(val, test)


def test_what_was_left_behind_and_what_has_no_rows(criteo, tmp_path):
    with pytest.raises(BadRowsError):
        prepare(criteo, tmp_path / "out", CRITEO_SCHEMA, max_bad_rows=3)
    (tmp_path / "out" / "part-000000.arrow.1.ab.tmp").write_text("half")  # of a process that was killed
    prepare(criteo, tmp_path / "out", CRITEO_SCHEMA)
    assert not list((tmp_path / "out").glob("*.tmp"))
    (tmp_path / "t.csv").write_text("y,a\n1\n0\n")
    with pytest.raises(DataError, match="has no row that can be used; the first: .*t.csv:2: 1 fields instead of 2"):
        prepare(tmp_path / "t.csv", tmp_path / "none", Schema.of({"label": "y", "sparse": ["a"]}))


def test_without_pyarrow(criteo, tmp_path, monkeypatch):
    prepare(criteo, tmp_path / "there", CRITEO_SCHEMA)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for call in (lambda: prepare(criteo, tmp_path / "out", CRITEO_SCHEMA), lambda: open_prepared(tmp_path / "there")):
        with pytest.raises(DataError, match=r"prepared rows need pyarrow \(pip install pyarrow\)"):
            call()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"files": []}, "files is empty"),
        ({"texts": ["zz"]}, "texts has 'zz', which is no feature"),
        ({"name": "../x"}, r"files\[0\].parts\[0\].name is '../x', no file of this folder"),
        ({"left_out": [5, 3]}, "left_out are no ascending rows below 700"),
        ({"rows": 100_000}, "has 697 rows, and 99,997 were written down"),
        ({"role": "zzz"}, r"files\[0\].role is 'zzz'"),
        ({"parts": []}, r"files\[0\].parts is empty"),
    ],
)  # fmt: skip
def test_a_manifest_that_is_damaged(criteo, tmp_path, changed, message):
    out = tmp_path / "out"
    prepare(criteo, out, CRITEO_SCHEMA)
    said = json.loads((out / MANIFEST).read_text())
    file = said["files"][0]
    for name, value in changed.items():
        (said if name in said else file if name in ("role", "parts") else file["parts"][0])[name] = value
    (out / MANIFEST).write_text(json.dumps(said))
    with pytest.raises((ValueError, DataChangedError), match=message):
        rows_at(out, schema_of(out), [range(10)])
