"""Data behind URLs: the same rows as from local files, only what is needed of them, and what stores do when they fail."""

import json
import os
import pickle
import socket
import sys
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import script_runs
from click_lines import line, row_of, write_rows
from http_store import HttpStore
from moto.server import ThreadedMotoServer
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader
from upath import UPath

from torchrec_pss.advise.tables import from_logs
from torchrec_pss.datasets import ClickDataset, remote_errors, remote_stores
from torchrec_pss.datasets.errors import DataChangedError, DataError
from torchrec_pss.datasets.file_signature import FileSignature, check_same_files
from torchrec_pss.datasets.locations import location
from torchrec_pss.datasets.open_rows import find_rows_files, reader_of
from torchrec_pss.datasets.rows import SPARSE_NAMES, rank_windows
from torchrec_pss.datasets.schema import CRITEO_SCHEMA, Schema
from torchrec_pss.schema.__main__ import main as guess_schema

ROWS = 12_000  # 1.6 MB: more than are read ahead at once
SCHEMA = Schema.of({"label": "y", "dense": ["price"], "sparse": ["user", "site"]})


@pytest.fixture(scope="module")
def s3():
    """The URL of a bucket of a server of its own."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.delenv("AWS_PROFILE", raising=False)
        fsspec.filesystem("s3").mkdir("logs")
        yield "s3://logs"
    server.stop()


@pytest.fixture
def http():
    with HttpStore() as store:
        yield store


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(remote_errors, "_FIRST_WAIT", 1e-3)


@pytest.fixture(params=["s3", "http", "memory"])
def put(request, tmp_path):
    """Copies what lies in a local folder; its URL."""
    kind = request.param

    def copied(folder: Path) -> str:
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        if kind == "http":
            store = request.getfixturevalue("http")
            store.files |= {f"/{folder.name}/{name}": content for name, content in files.items()}
            return f"{store.url}/{folder.name}/"
        base = request.getfixturevalue("s3") if kind == "s3" else "memory://"
        url = f"{base}/{tmp_path.name}/{folder.name}"
        for name, content in files.items():
            UPath(f"{url}/{name}").write_bytes(content)
        return url

    return copied


def blocks(path, schema=CRITEO_SCHEMA, windows=(range(5, 700), range(700, 701), range(9000, 9100)), **kwargs):
    return list(reader_of(find_rows_files(str(path), schema, **kwargs), schema).read(iter(windows)))


def same(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert len(a) and a.dense.tobytes() == b.dense.tobytes()
        assert a.ids.tobytes() == b.ids.tobytes() and a.labels.tobytes() == b.labels.tobytes()


def clicks(rows=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    return pa.table({"note": [rng.bytes(50) for _ in range(rows)], "y": rng.integers(0, 2, rows), "price": rng.normal(size=rows),
                     "user": rng.integers(0, 99, rows), "site": [f"s{i}" for i in rng.integers(0, 9, rows)]})  # fmt: skip


def folder_of(tmp_path, name="data"):
    (tmp_path / name).mkdir()
    return tmp_path / name


def rows_of(batches):
    return [row for batch in batches for row in row_of(batch.sparse_features[SPARSE_NAMES[0]].values().numpy())]


def test_text_is_the_same_to_the_bit(tmp_path, put):
    folder = folder_of(tmp_path)
    paths = [write_rows(folder / name, range(ROWS)) for name in ("log.tsv", "log.csv.gz")]
    url = put(folder)
    for path in paths:
        there = f"{url.rstrip('/')}/{path.name}"
        same(blocks(there), blocks(path))
        here, remote = FileSignature.of(path), FileSignature.of(location(there))
        assert (here.name, here.size, here.sample) == (remote.name, remote.size, remote.sample)


def test_a_folder_is_the_same_to_the_bit(tmp_path, put):
    folder = folder_of(tmp_path)
    write_rows(folder / "train_2.csv", range(6000, ROWS))
    write_rows(folder / "train_1.csv.gz", range(6000))
    write_rows(folder / "test.csv", range(300))
    (folder / "README.md").write_text("not data")
    url = put(folder)
    files = find_rows_files(url)
    assert [(f.path.name, f.role, f.num_rows) for f in files] == [
        (f.path.name, f.role, f.num_rows) for f in find_rows_files(folder)
    ]
    windows = list(rank_windows(range(ROWS), 500, 1, 2))
    same(list(reader_of(files).read(iter(windows))), blocks(folder, windows=windows))


def test_parquet_is_the_same_to_the_bit(tmp_path, put):
    folder = folder_of(tmp_path)
    for name, seed in (("train.parquet", 0), ("test.parquet", 1)):
        pq.write_table(clicks(seed=seed), folder / name, row_group_size=1000)
    url = put(folder)
    same(blocks(url, SCHEMA), blocks(folder, SCHEMA))
    one = f"{url.rstrip('/')}/train.parquet"
    windows = list(rank_windows(range(ROWS), 700, 1, 2))
    same(blocks(one, SCHEMA, windows), blocks(folder / "train.parquet", SCHEMA, windows))


def test_only_what_is_needed_of_parquet_is_requested(tmp_path, http):
    path = tmp_path / "a.parquet"
    pq.write_table(clicks(), path, row_group_size=1000)
    http.files["/a.parquet"] = path.read_bytes()
    http.times["/a.parquet"] = 1e9  # without one the content is compared
    files = find_rows_files(f"{http.url}/a.parquet", SCHEMA)
    http.asked.clear()
    (block,) = reader_of(files, SCHEMA).read(iter([range(5500, 5600)]))
    assert len(block) == 100
    footer = pq.ParquetFile(path).metadata.serialized_size
    group = pq.ParquetFile(path).metadata.row_group(5)
    wanted = sum(group.column(c).total_compressed_size for c in range(1, 5))
    assert sum(sent for _, sent in http.asked) <= wanted + max(footer, 1 << 16) + (1 << 13)
    reading = reader_of(files, SCHEMA).read(iter([range(10), range(9000, 9010)]))
    assert len(next(reading)) == 10
    http.denied = True
    for found in (reading, reader_of(files, SCHEMA).read(iter([range(10)]))):
        with pytest.raises(DataError, match="a.parquet is unreadable: .*access was denied"):
            next(found)


def test_bytes_come_in_growing_blocks_and_once(http):
    content = np.random.default_rng(0).bytes(30 << 20)
    http.files["/a"] = content
    path = location(f"{http.url}/a")
    with path.open("rb", 1 << 20) as stream:
        assert b"".join(iter(lambda: stream.read(1 << 20), b"")) == content
    sizes = [sent for _, sent in http.asked]
    assert max(sizes) == 8 << 20 and sum(sizes) == len(content) and sizes[0] == 1 << 20
    http.asked.clear()
    with path.open("rb", 0) as stream:
        stream.seek(-1000, 2)
        assert stream.read(10) == content[-1000:-990]
        stream.seek(7)
        assert stream.read(3) == content[7:10] and stream.seek(len(content) + 5) and stream.read(9) == b""
    assert http.asked == [(len(content) - 1000, 10), (7, 3)]


def test_workers_ranks_and_resuming(tmp_path, s3):
    path = write_rows(tmp_path / "rows.tsv", range(ROWS))
    url = f"{s3}/workers/rows.tsv"
    UPath(url).write_bytes(path.read_bytes())
    expected = list(range(9600))
    of_rank = []
    for rank in range(2):
        data = ClickDataset(url, 400, train_fraction=0.8, rank=rank, world_size=2)
        of_rank.append([rows_of([batch]) for batch in DataLoader(data, batch_size=None, num_workers=2)])
    assert [row for step in zip(*of_rank, strict=True) for rows in step for row in rows] == expected

    def loader():
        data = ClickDataset(UPath(url), 400, train_fraction=0.8)
        return StatefulDataLoader(data, batch_size=None)

    first = loader()
    batches = iter(first)
    before = rows_of(next(batches) for _ in range(7))
    state = first.state_dict()
    del batches
    second = loader()
    second.load_state_dict(state)
    assert before + rows_of(second) == expected


def test_paths_may_be_sent(s3):
    path = location(f"{s3}/sent/a b#c.txt")
    UPath(str(path)).write_bytes(b"text")
    again = pickle.loads(pickle.dumps(path))
    assert again == path and {again} == {path} and again.read_text() == "text" and again.name == "a b#c.txt"
    assert location("file:///a/b") == location("/a/b") == Path("/a/b")
    assert location("http://host/a/train.csv?token=test").name == "train.csv"


def test_options_of_a_path_of_fsspec(tmp_path):
    path = write_rows(tmp_path / "rows.tsv", range(20))
    with HttpStore() as store:
        store.files["/logs/rows.tsv"] = path.read_bytes()
        there = UPath("s3://logs/rows.tsv", endpoint_url=store.url, key="k", secret="s")
        assert rows_of(ClickDataset(there, 4, train_fraction=0.8)) == list(range(16))


def test_folders_with_marks_and_files_that_fail(tmp_path, s3, http):
    path = write_rows(tmp_path / "rows.tsv", range(20))
    UPath(f"{s3}/train/train").write_bytes(path.read_bytes())
    fsspec.filesystem("s3").call_s3("put_object", Bucket="logs", Key="train/", Body=b"")
    assert [f.path.name for f in find_rows_files(f"{s3}/train/")] == ["train"]
    http.files |= {"/logs/part-1": path.read_bytes(), "/logs/part-2": b"text\n" * 9}
    with pytest.raises(DataError, match="part-1 is unreadable: .*cannot be reached .5 attempts.: .*503"):
        http.faults = [503] * 5
        find_rows_files(f"{http.url}/logs/")
    assert [f.path.name for f in find_rows_files(f"{http.url}/logs/")] == ["part-1"]


def test_counts_and_schemas(tmp_path, put, caplog):
    folder, cache = folder_of(tmp_path), tmp_path / "cache"
    write_rows(folder / "rows.tsv", range(50))
    said = SCHEMA.as_json()
    (folder / "s.json").write_text(json.dumps(said))
    (folder / "s.yaml").write_text(json.dumps(said))
    clicks(200).drop_columns("note").to_pandas().to_csv(folder / "clicks.csv", index=False)
    url = put(folder).rstrip("/")
    for _ in range(2):
        assert find_rows_files(f"{url}/rows.tsv", cache_dir=cache)[0].num_rows == 50
        (key,) = json.loads((cache / "line_counts.json").read_text())
        assert key.startswith(f"{url}/rows.tsv:")
    assert Schema.read(f"{url}/s.json") == Schema.read(f"{url}/s.yaml") == SCHEMA
    with pytest.raises(ValueError, match=f"{url}/rows.tsv is no JSON"):
        Schema.read(f"{url}/rows.tsv")
    guess_schema([f"{url}/clicks.csv", "--output", str(tmp_path / "guessed.yaml")])
    guess_schema([str(folder / "clicks.csv"), "--output", str(tmp_path / "local.yaml")])
    assert (tmp_path / "guessed.yaml").read_text() == (tmp_path / "local.yaml").read_text()
    described = from_logs(f"{url}/clicks.csv", 100, None, schema=f"{url}/s.yaml")
    assert described.source == f"100 rows of {url}/clicks.csv" and len(described.tables) == 2


def test_what_is_missing(s3, http):
    for url in (f"{s3}/nothing.tsv", "s3://no-such-bucket/a.tsv", f"{http.url}/nothing", "memory://nothing/at/all"):
        with pytest.raises(FileNotFoundError, match=f"data file {url} does not exist"):
            find_rows_files(url)
    with pytest.raises(FileNotFoundError, match=f"schema {s3}/nothing.yaml does not exist"):
        Schema.read(f"{s3}/nothing.yaml")


def at(monkeypatch, url, **more):
    """S3 is there."""
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": url, "key": "k", "secret": "s"} | more)


def test_what_is_denied(monkeypatch, http):
    http.files["/logs/rows.tsv"] = b"text"
    http.denied = True
    at(monkeypatch, http.url)
    with pytest.raises(
        DataError, match="s3://logs/rows.tsv: access was denied .* in AWS_ACCESS_KEY_ID and .*FSSPEC_S3"
    ):
        find_rows_files("s3://logs/rows.tsv")
    with pytest.raises(DataError, match=f"{http.url}/logs/rows.tsv: access was denied .*403.* in .*FSSPEC_HTTP"):
        find_rows_files(f"{http.url}/logs/rows.tsv")


def test_what_cannot_be_reached(monkeypatch, caplog):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    at(monkeypatch, url)
    for path in ("s3://logs/rows.tsv", f"{url}/rows.tsv"):
        caplog.clear()
        with pytest.raises(DataError, match=f"{path} cannot be reached .5 attempts.: .*127.0.0.1"):
            find_rows_files(path)
        assert caplog.text.count(": attempt ") == 4


def test_protocols_and_packages(monkeypatch):
    with pytest.raises(DataError, match="nonsense://a/b: the protocol nonsense:// is not known"):
        find_rows_files("nonsense://a/b")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(
        DataError, match=r"gs://a/b: gs:// lacks its package: .*gcsfs.*pip install 'torchrec_pss\[gcs\]'"
    ):
        find_rows_files("gs://a/b")
    monkeypatch.setitem(sys.modules, "upath", None)
    with pytest.raises(DataError, match=r"s3://a/b: .*universal_pathlib \(pip install 'torchrec_pss\[s3\]'"):
        find_rows_files("s3://a/b")


def test_what_fails_twice_and_then_answers(monkeypatch, tmp_path, http, caplog):
    path = write_rows(tmp_path / "rows.tsv", range(ROWS))
    http.files["/logs/rows.tsv"] = path.read_bytes()
    http.tagged = True
    at(monkeypatch, http.url)
    for url in ("s3://logs/rows.tsv", f"{http.url}/logs/rows.tsv"):
        files = find_rows_files(url)
        for faults in ([503, 500], ["cut", 429], ["cut", "cut"]):
            caplog.clear()
            http.faults = [lambda: None, *faults]  # the second block's
            same(list(reader_of(files).read(iter([range(ROWS)]))), blocks(path, windows=[range(ROWS)]))
            assert not http.faults and caplog.text.count(f"{url}: ") == 2 and "attempt 3 of 5" in caplog.text
        http.head_faults = [503, 503]
        if url.startswith("s3"):
            assert location(url).is_file() and not http.head_faults
        http.head_faults = []
        http.faults = [404]
        with pytest.raises(DataError, match="rows.tsv is unreadable: .*does not exist"):
            next(reader_of(files).read(iter([range(10)])))


def test_what_does_not_answer_in_time(monkeypatch, tmp_path, http):
    monkeypatch.setattr(remote_stores, "_READ_SECONDS", 0.3)
    http.files["/logs/rows.tsv"] = write_rows(tmp_path / "rows.tsv", range(20)).read_bytes()
    at(monkeypatch, http.url, config_kwargs={"read_timeout": 0.3})
    for url in (f"{http.url}/logs/rows.tsv", "s3://logs/rows.tsv"):
        http.faults = ["hang"]
        assert len(blocks(url, windows=[range(20)])[0]) == 20 and not http.faults
    http.faults = ["hang"] * 5
    with pytest.raises(DataError, match=f"{url} cannot be reached .5 attempts.: .*imeout"):
        find_rows_files(url)


def test_a_server_without_ranges(tmp_path, http):
    path = write_rows(tmp_path / "rows.tsv", range(ROWS))
    http.files["/rows.tsv"] = path.read_bytes()
    http.ranges = False
    with pytest.raises(DataError, match=r"rows.tsv cannot be read from any place: its server has no ranges; copy it"):
        find_rows_files(f"{http.url}/rows.tsv")


@pytest.mark.parametrize("kind", ["s3", "http"])
def test_what_changes_while_it_is_read(tmp_path, request, kind):
    content = write_rows(tmp_path / "rows.tsv", range(ROWS)).read_bytes()
    other = write_rows(tmp_path / "other.tsv", range(1, ROWS + 1)).read_bytes()
    store = request.getfixturevalue(kind)
    url = f"{store}/changing/rows.tsv" if kind == "s3" else f"{store.url}/rows.tsv"

    def write(content):
        if kind == "s3":
            UPath(url).write_bytes(content)
        else:
            store.files["/rows.tsv"] = content
            store.times["/rows.tsv"] = store.times.get("/rows.tsv", 1e9) + 1

    def delete():
        if kind == "s3":
            UPath(url).unlink()
        else:
            del store.files["/rows.tsv"]

    assert len(content) == len(other) > 1 << 20
    for change, said in (
        (
            lambda: write(content + line(0).encode()),
            f"{len(content):,} bytes then, {len(content) + len(line(0)):,} now",
        ),
        (lambda: write(content[:700_000]), f"{len(content):,} bytes then, 700,000 now"),
        (lambda: write(other), "written anew, .* bytes as before|other content in the same"),
        (delete, "it is not there any more"),
    ):
        write(content)
        files = find_rows_files(url)
        reading = reader_of(files).read(iter([range(500), range(500, ROWS)]))
        assert len(next(reading)) == 500
        change()
        expected = (
            f"data file {url} has changed since its rows were counted: 12,000 rows then, not counted now .({said})"
        )
        with pytest.raises(DataChangedError, match=expected):
            list(reading)
        if "written anew" in said and kind == "s3":
            continue  # within S3's second nothing says it but the content
        with pytest.raises(DataChangedError, match=expected):
            next(reader_of(files).read(iter([range(500)])))


def test_parquet_that_changes_while_it_is_read(tmp_path, s3):
    path, url = tmp_path / "a.parquet", f"{s3}/changing/a.parquet"
    for seed in (1, 2):
        pq.write_table(clicks(seed=0), path, row_group_size=1000)
        UPath(url).write_bytes(path.read_bytes())
        files = find_rows_files(url, SCHEMA)
        reading = reader_of(files, SCHEMA).read(iter([range(500), range(5000, 5500)]))
        assert len(next(reading)) == 500
        if seed == 1:
            pq.write_table(clicks(seed=seed), path, row_group_size=1000)
            UPath(url).write_bytes(path.read_bytes())
        else:
            UPath(url).unlink()
        with pytest.raises(DataChangedError, match=f"data file {url} has changed since it was opened first: "):
            next(reading)


def test_files_of_a_checkpoint(tmp_path, http):
    path = write_rows(tmp_path / "rows.tsv", range(50))
    http.files["/rows.tsv"] = path.read_bytes()
    then = json.loads(json.dumps([FileSignature.of(location(f"{http.url}/rows.tsv")).as_json()]))
    check_same_files(then, [FileSignature.of(path)])
    http.files["/rows.tsv"] = path.read_bytes().replace(b"\t3\t", b"\t4\t")
    with pytest.raises(DataChangedError, match="data file rows.tsv has changed since the checkpoint .*: other content"):
        check_same_files(then, [FileSignature.of(location(f"{http.url}/rows.tsv"))])


SCRIPT = """
import os, sys
os.environ.update({environment!r})
sys.path.insert(0, {examples!r})
import train_criteo
from script_end import one_line_errors

with one_line_errors():
    train_criteo.main()
"""


def test_training_on_two_ranks(tmp_path, s3):
    url, script = f"{s3}/training", tmp_path / "script.py"
    said = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    script.write_text(SCRIPT.format(environment=said, examples=str(script_runs.EXAMPLES)))
    clicks(2000).drop_columns("note").to_pandas().to_csv(tmp_path / "clicks.csv", index=False)
    UPath(f"{url}/clicks.csv").write_bytes((tmp_path / "clicks.csv").read_bytes())
    UPath(f"{url}/schema.yaml").write_text(json.dumps(SCHEMA.as_json()))
    flags = ["--schema", f"{url}/schema.yaml", "--array_bytes", 4096, "--batch_size", 50, "--epochs", 1, "--vocabulary",
             "--embedding_dim", 8, "--dense_arch_layer_sizes", "8", "--over_arch_layer_sizes", "8,1", "--limit_train_batches", 4,
             "--layout", "rules", "--cache_dir", tmp_path / "cache"]  # fmt: skip
    flags += ["--data_path", f"{url}/clicks.csv", "--output_dir", tmp_path / "out"]
    script_runs.run(script, *flags, ranks=2)
    assert 0 < json.loads((tmp_path / "out" / "results.json").read_text())["auroc_test"] < 1
    assert len(list((tmp_path / "cache").glob("vocabulary-*.npz"))) == 1
    UPath(f"{url}/clicks.csv").write_bytes((tmp_path / "clicks.csv").read_bytes().replace(b"\n0,", b"\n1,", 5))
    done = script_runs.run(script, *flags, "--batch_size", 100, "--resume", check=False)
    assert done.returncode == 2 and "Traceback" not in done.output
    assert (
        "error: --resume: data file clicks.csv has changed since the checkpoint was written: other content"
        in done.output
    )
