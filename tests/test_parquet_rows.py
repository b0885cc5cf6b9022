"""Rows of Parquet: the file's whatever its row groups, types and the windows; what is wrong with it by file and column."""

import json
import shutil
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import script_runs
import torch
from torch.utils.data import DataLoader

from torchrec_pss.datasets import ClickDataset, arrow_batch
from torchrec_pss.datasets import parquet_rows as reading
from torchrec_pss.datasets.criteo_lines import token_ids
from torchrec_pss.datasets.errors import BadRowsError, DataChangedError, DataError
from torchrec_pss.datasets.guessed_schema import guess
from torchrec_pss.datasets.open_rows import find_rows_files, reader_of
from torchrec_pss.datasets.parquet_files import open_parquet
from torchrec_pss.datasets.parquet_rows import ParquetReader
from torchrec_pss.datasets.schema import Schema

SAID = {"label": "y", "dense": {"price": "log", "age": "none"}, "sparse": ["user", "site", "kind"]}
SCHEMA = Schema.of(SAID)
N = 1000


def table(number=N, seed=0, **changed):
    rng = np.random.default_rng(seed)
    columns = {
        "note": pa.array(["x"] * number),
        "site": pa.array([None if v == 0 else f"site-{v}" for v in rng.integers(0, 30, number)]),
        "y": pa.array(rng.integers(0, 2, number), pa.int8()),
        "user": pa.array(rng.integers(-(1 << 63), (1 << 63) - 1, number)),
        "kind": pa.array([None if v == 0 else "abc"[v - 1] for v in rng.integers(0, 4, number)]).dictionary_encode(),
        "age": pa.array([None if v == 0 else int(v) for v in rng.integers(0, 90, number)], pa.uint8()),
        "price": pa.array(rng.normal(size=number) * 10, pa.float32()),
    }
    return pa.table(columns | changed)


def write(path, of, group=137):
    pq.write_table(of, path, row_group_size=group)
    return path


def expected(of):
    column = lambda name: of[name].to_pylist()  # noqa: E731
    price, age = (np.array([v or 0 for v in column(name)], np.float64) for name in ("price", "age"))
    dense = np.stack([(np.sign(price) * np.log1p(np.abs(price))), age], axis=1).astype(np.float32)
    ids = [
        np.array(column("user")),
        *(token_ids([(v or "").encode() for v in column(name)]) for name in ("site", "kind")),
    ]
    return dense, np.stack(ids), np.array(column("y"), np.float32)


def read(path, windows):
    return list(reader_of(find_rows_files(path, SCHEMA), SCHEMA).read(iter(windows)))


def same(block, of, rows):
    dense, ids, labels = expected(of)
    assert (
        np.array_equal(block.dense, dense[rows])
        and np.array_equal(block.ids, ids[:, rows])
        and np.array_equal(block.labels, labels[rows])
    )


@pytest.mark.parametrize("group", [1, 137, 5000])
def test_any_windows_of_any_row_groups(tmp_path, monkeypatch, group):
    monkeypatch.setattr(reading, "_ROWS", 50)
    of = table()
    path = write(tmp_path / "a.parquet", of, group)
    (whole,) = read(path, [range(N)])
    same(whole, of, slice(0, N))
    windows = [range(3, 10), range(10, 10), range(200, 450), range(450, 451), range(999, 1000)]
    for block, window in zip(read(path, windows), windows, strict=True):
        same(block, of, slice(window.start, window.stop))


def test_several_files_in_order_each_row_once(tmp_path):
    parts = [table(n, seed) for seed, n in enumerate((10, 300, 7))]
    for number, of in zip((2, 10, 1), parts, strict=True):
        write(tmp_path / f"part-{number}.parquet", of)
    (tmp_path / "_SUCCESS").write_text("")
    of = pa.concat_tables([parts[2], parts[0], parts[1]], promote_options="permissive")
    windows = [range(i, min(i + 25, 317)) for i in range(0, 317, 25)]
    for block, window in zip(read(tmp_path, windows), windows, strict=True):
        same(block, of, slice(window.start, window.stop))
    data = ClickDataset(tmp_path, 32, schema=SCHEMA)
    assert len(data.rows) == 17  # the last file is held out
    of = table()
    path = write(tmp_path / "one.parquet", of)
    found = [b.labels.numpy() for rank in range(2) for b in DataLoader(ClickDataset(path, 32, schema=SCHEMA, rank=rank, world_size=2, train_fraction=0.8), batch_size=None, num_workers=2)]  # fmt: skip
    assert sum(map(len, found)) in (800, 801)  # a padded row


def test_rows_that_are_left_out(tmp_path, caplog):
    of = table(20)
    y, price = of["y"].to_pylist(), of["price"].to_pylist()
    y[3], y[5], price[7], price[8] = 2, None, float("nan"), float("inf")
    path = write(tmp_path / "a.parquet", table(20, y=pa.array(y), price=pa.array(price)), 6)
    (block,) = read(path, [range(20)])
    assert len(block) == 16
    for said in (
        "row 4: y is 2.0, not 0 or 1",
        "row 6: y is missing, not 0 or 1",
        "row 8: price is nan, not a finite",
        "row 9: price is inf",
    ):
        assert f"{path}, {said}" in caplog.text
    with pytest.raises(BadRowsError, match="3 malformed lines, more than --max_bad_rows 2"):
        list(reader_of(find_rows_files(path, SCHEMA), SCHEMA, 2).read(iter([range(20)])))


BAD = {
    "the column 'site' is list<.*>, and must be whole numbers or text: name it under bags": {"site": pa.array([["a"]] * N)},
    "the column 'user' is double, and must be whole numbers or text: cast it": {"user": pa.array([1.5] * N)},
    r"the column 'price' is decimal128\(5, 2\), and must be a whole or floating-point number": {"price": pa.array([None] * N, pa.decimal128(5, 2))},
    "the column 'y' is string, and must be": {"y": pa.array(["0"] * N)},
}  # fmt: skip


@pytest.mark.parametrize("said", BAD)
def test_columns_of_other_types(tmp_path, said):
    path = write(tmp_path / "a.parquet", table(**BAD[said]))
    with pytest.raises(ValueError, match=f"data file .*a.parquet: {said}"):
        find_rows_files(path, SCHEMA)


def test_files_that_are_wrong(tmp_path):
    path = write(tmp_path / "a.parquet", table())
    with pytest.raises(ValueError, match=r"a.parquet is Parquet: a schema says what its columns are"):
        find_rows_files(path)
    with pytest.raises(ValueError, match=r"the column 'sites' is not there: is it 'site'\?"):
        find_rows_files(path, Schema.of(SAID | {"sparse": ["sites"]}))
    content = path.read_bytes()
    (tmp_path / "cut.parquet").write_bytes(content[:-100])
    with pytest.raises(DataError, match=r"cut.parquet is no Parquet that can be read"):
        find_rows_files(tmp_path / "cut.parquet", SCHEMA)
    files = find_rows_files(path, SCHEMA)
    write(path, table(seed=1))
    with pytest.raises(DataChangedError, match=r"a.parquet has changed since it was opened first"):
        list(reader_of(files, SCHEMA).read(iter([range(5)])))
    folder = tmp_path / "two"
    folder.mkdir()
    write(folder / "p0.parquet", table())
    write(folder / "p1.parquet", table(user=pa.array(["u"] * N)))
    with pytest.raises(
        ValueError,
        match=r"p1.parquet: the column 'user' holds text, and whole numbers in .*p0.parquet: their ids would differ",
    ):
        find_rows_files(folder, SCHEMA)
    write(folder / "p1.parquet", table().slice(0, 0))
    assert [f.path.name for f in find_rows_files(folder, SCHEMA)] == ["p0.parquet"]
    with pytest.raises(ValueError, match=r"p1.parquet has no rows"):
        find_rows_files(folder / "p1.parquet", SCHEMA)
    shutil.copy(folder / "p0.parquet", folder / "p2.parquet")
    with pytest.raises(ValueError, match=r"p0.parquet and .*p2.parquet hold the same rows"):
        find_rows_files(folder, SCHEMA)


def test_what_a_folder_has_beside(tmp_path, caplog):
    caplog.set_level("INFO")
    write(tmp_path / "train.parquet", table())
    write(tmp_path / "test.parquet", table(seed=1).drop_columns(["y"]))
    (tmp_path / "notes.csv").write_text("y,user\n1,a\n")
    assert [f.path.name for f in find_rows_files(tmp_path, SCHEMA)] == ["train.parquet"]
    assert "test.parquet: it has no labels" in caplog.text and "no Parquet files: notes.csv" in caplog.text


@pytest.mark.parametrize("change", ["grown", "in place", "gone"])
def test_files_that_change_while_they_are_read(tmp_path, monkeypatch, change):
    monkeypatch.setattr(reading, "_ROWS", 50)
    path = write(tmp_path / "a.parquet", table())
    blocks = reader_of(find_rows_files(path, SCHEMA), SCHEMA).read(range(i, i + 50) for i in range(0, N, 50))
    next(blocks)
    if change == "grown":
        path.write_bytes(path.read_bytes() + b"x")
    elif change == "in place":
        write(path, table(seed=1))
    else:
        path.unlink()
    with pytest.raises(DataChangedError, match="a.parquet has changed since it was opened first"):
        list(blocks)


def test_numbers_that_are_too_large_for_a_model(tmp_path, caplog):
    age, price = [1.0] * 20, [1.0] * 20
    age[2], price[4] = 1e39, 1e300  # of the second the logarithm is read
    (block,) = read(write(tmp_path / "a.parquet", table(20, age=pa.array(age), price=pa.array(price))), [range(20)])
    assert (
        len(block) == 19
        and np.isfinite(block.dense).all()
        and "row 3: age is 1e+39, not a finite number" in caplog.text
    )


def test_a_schema_is_guessed_of_it(tmp_path):
    write(
        tmp_path / "a.parquet",
        table(seen=pa.array([1.5] * (N // 2) + [2.5] * (N // 2)), flag=pa.array([True, False] * (N // 2))),
    )
    seen, rows = guess(tmp_path / "a.parquet", "y")
    roles = {s.name: s.role for s in seen}
    assert (
        rows == N
        and roles["y"] == "label"
        and {n for n, r in roles.items() if r == "dense"} == {"age", "price", "seen"}
    )
    assert {n for n, r in roles.items() if r == "sparse"} == {"site", "kind", "flag"} and "left out" in roles["user"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_training_on_it_and_serving_what_comes_out(tmp_path):
    """Two ranks, the same AUROC from text; the file of the model takes rows as they were trained on."""
    from torchrec_pss.export import Served
    from torchrec_pss.export import __main__ as export

    rng = np.random.default_rng(0)
    users, sites, kinds = rng.integers(0, 200, 6000), rng.integers(0, 40, 6000), rng.integers(0, 3, 6000)
    effect = rng.normal(size=200)[users] + rng.normal(size=40)[sites]
    of = pa.table({
        "y": (rng.random(6000) < 1 / (1 + np.exp(-2 * effect))).astype(np.int64), "price": np.round(rng.gamma(2, 3, 6000), 3),
        "age": rng.integers(0, 90, 6000), "user": [f"u{v}" for v in users], "site": [f"site-number-{v}" for v in sites], "kind": ["abc"[v] for v in kinds],
    })  # fmt: skip
    (tmp_path / "s.json").write_text(json.dumps(SAID))
    write(tmp_path / "log.parquet", of, 500)
    of.to_pandas().to_csv(tmp_path / "log.csv", index=False)
    flags = ["--schema", tmp_path / "s.json", "--array_bytes", 20_000, "--batch_size", 64, "--epochs", 2, "--embedding_dim", 8, "--dense_arch_layer_sizes", "16,8", "--cache_dir", tmp_path / "cache"]  # fmt: skip
    found = {}
    for name in ("log.parquet", "log.csv"):
        script_runs.run(
            "train_criteo.py",
            "--data_path",
            tmp_path / name,
            *flags,
            "--no-vocabulary",
            "--output_dir",
            tmp_path / name[4:],
            ranks=2,
        )
        found[name] = json.loads((tmp_path / name[4:] / "results.json").read_text())
    assert found["log.parquet"]["auroc_test"] == found["log.csv"]["auroc_test"] > 0.7
    export.main([str(tmp_path / "csv"), "--output", str(tmp_path / "m.pt2")])
    said = Served(tmp_path / "m.pt2").metadata
    assert said["dense_transforms"] == ["log", "none"] and said["features"] == ["user", "site", "kind"]
    assert said["check"]["largest_difference"] == 0


def test_partitions(tmp_path):
    """Folders `key=value` give columns, whole numbers or text, and the order of their rows; files of one name are several files."""
    schema = Schema.of({"label": "y", "sparse": ["a", "day", "shop"]})
    for place, (day, shop) in enumerate(((2, "x y"), (10, "z"), (2, None), (10, "zz"))):
        folder = (
            tmp_path / "data" / f"day={day}" / f"shop={'__HIVE_DEFAULT_PARTITION__' if shop is None else quote(shop)}"
        )
        folder.mkdir(parents=True)
        rows = pa.table({"y": [0, 1], "a": [10 * place, 10 * place + 1]})
        pq.write_table(rows, folder / "part-0.parquet")
    (tmp_path / "data" / "notes").mkdir()
    files = open_parquet(tmp_path / "data", schema)
    assert [f.constants for f in files] == [
        {"day": 2, "shop": None}, {"day": 2, "shop": "x y"}, {"day": 10, "shop": "z"}, {"day": 10, "shop": "zz"},
    ]  # fmt: skip
    assert files[0].texts == ("shop",) and len({f.signature.name for f in files}) == 4
    block = next(ParquetReader(files, schema).read(iter([range(1, 7)])))
    assert block.ids[0].tolist() == [21, 0, 1, 10, 11, 30] and block.ids[1].tolist() == [2, 2, 2, 10, 10, 10]
    assert block.ids[2].tolist() == token_ids([b"", b"x y", b"x y", b"z", b"z", b"zz"]).tolist()
    seen, rows = guess(tmp_path / "data")
    assert rows == 2 and {s.name for s in seen if "it divides the folder" in s.role} == {"day", "shop"}
    (tmp_path / "large").mkdir()
    for key in ("1", "99999999999999999999"):
        (tmp_path / "large" / f"u={key}").mkdir()
        pq.write_table(pa.table({"y": [0], "a": [int(key[:3])]}), tmp_path / "large" / f"u={key}" / "p.parquet")
    assert {
        f.constants["u"] for f in open_parquet(tmp_path / "large", Schema.of({"label": "y", "sparse": ["a", "u"]}))
    } == {"1", "9" * 20}
    # A value may say what its rows are for; and a column of the files is not given by a folder.
    for part in ("train", "val", "test"):
        (tmp_path / "named" / f"evaluation={part}").mkdir(parents=True)
        pq.write_table(
            pa.table({"y": [0, 1], "a": [1, len(part)], "evaluation": [7, 7]}),
            tmp_path / "named" / f"evaluation={part}" / "p.parquet",
        )
    files = open_parquet(tmp_path / "named", Schema.of({"label": "y", "sparse": ["a", "evaluation"]}))
    assert [f.role for f in files] == ["train", "val", "test"] and files[0].constants == {}


def test_batches_of_arrow_tables():
    schema = Schema.of({"label": "y", "dense": ["d"], "sparse": ["a"], "bags": ["b"]})
    table = pa.table(
        {
            "y": [0, 1, 1],
            "d": [1.0, None, 3.0],
            "a": ["k", "l", "k"],
            "b": pa.array([[1], [], [2, 3]], pa.list_(pa.int64())),
        }
    )
    whole = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    batch = arrow_batch(whole, schema)
    assert batch.labels.tolist() == [0, 1, 1] and batch.sparse_features.keys() == ["a", "b"]
    assert batch.sparse_features["b"].lengths().tolist() == [1, 0, 2] and batch.sparse_features[
        "b"
    ].values().tolist() == [1, 2, 3]
    assert batch.sparse_features["a"].values().tolist() == token_ids([b"k", b"l", b"k"]).tolist()
    assert torch.equal(arrow_batch(table.to_batches()[0], schema).dense_features, batch.dense_features)
    with pytest.raises(DataError, match="row 1: y is missing, not 0 or 1"):
        arrow_batch(whole.set_column(0, "y", pa.array([0, None, 1])), schema)
    with pytest.raises(
        DataError, match="the column 'a' is list<.*>, and must be whole numbers or text: name it under bags"
    ):
        arrow_batch(whole.set_column(2, "a", whole.column("b")), schema)
    with pytest.raises(DataError, match="the column 'd' is not there"):
        arrow_batch(whole.drop_columns(["d"]), schema)


def test_files_that_are_none(tmp_path):
    schema = Schema.of({"label": "y", "sparse": ["a"]})
    for name, content in (("a.parquet", b"PAR"), ("b.parquet", b""), ("c", b"PARE" + b"x" * 100 + b"PARE")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name} is no Parquet that can be read"):
            find_rows_files(tmp_path / name, schema)


def test_the_guess_of_lists_that_are_empty(tmp_path):
    write(tmp_path / "t.parquet", table(never=pa.array([[]] * N, pa.list_(pa.string()))))
    seen, _ = guess(tmp_path / "t.parquet")
    assert next(s.role for s in seen if s.name == "never").startswith("left out: it has one value")
