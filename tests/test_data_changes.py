"""Data files that are not what they were: under a run, between a run and its resumption, and in the caches."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
import script_runs
from click_lines import line, row_of, write_rows, write_stage

from torchrec_pss.datasets import line_counts
from torchrec_pss.datasets.criteo_binary import BinaryCriteoReader
from torchrec_pss.datasets.criteo_files import CriteoReader, open_files
from torchrec_pss.datasets.errors import BadRowsError, DataChangedError
from torchrec_pss.datasets.file_signature import FileSignature, check_same_files
from torchrec_pss.datasets.rows import NUM_SPARSE
from torchrec_pss.datasets.vocabulary import Vocabulary
from torchrec_pss.distributed.checksums import MANIFEST

ROWS = 6000  # more than are read ahead at once


def rewritten(path, content):
    """In place, with the same times."""
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(content)
    os.utime(path, ns=times)


def windows(rows, size=500):
    return (range(start, min(start + size, rows)) for start in range(0, rows, size))


CHANGES = {
    "2,000 now": lambda content: b"\n".join(content.split(b"\n")[:2000]) + b"\n",
    "12,000 now": lambda content: content * 2,
    "6,001 now": lambda content: content + line(0).encode(),
    "0 now": lambda content: b"",
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("rows_now", CHANGES)
def test_a_file_that_changes_while_it_is_read(tmp_path, rows_now, packed):
    path = write_rows(tmp_path / ("log.tsv.gz" if packed else "log.tsv"), range(ROWS))
    reader = CriteoReader(open_files(path))
    blocks = reader.read(windows(ROWS))
    assert len(next(blocks)) == 500
    content = CHANGES[rows_now](gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    path.write_bytes(gzip.compress(content) if packed else content)
    expected = f"data file {path} has changed since its rows were counted: 6,000 rows then, {rows_now}"
    with pytest.raises(DataChangedError, match=expected):
        list(blocks)
    with pytest.raises(DataChangedError, match=expected):
        next(reader.read(windows(ROWS)))


def test_a_file_that_changes_between_two_passes(tmp_path):
    path = write_rows(tmp_path / "log.tsv", range(20))
    reader = CriteoReader(open_files(path))
    content = path.read_bytes()
    os.utime(path, ns=(0, 0))  # as a copy: the content is the same
    assert row_of(next(reader.read(iter([range(20)]))).ids[0]) == list(range(20))
    path.write_bytes(content.replace(b"\t3\t", b"\t4\t"))
    with pytest.raises(DataChangedError, match="20 rows then, 20 now .other content in the same"):
        next(reader.read(iter([range(20)])))
    path.write_bytes(gzip.compress(content)[:-20])
    with pytest.raises(DataChangedError, match="20 rows then, none that can be read now"):
        next(reader.read(iter([range(20)])))
    path.unlink()
    with pytest.raises(DataChangedError, match="none that can be read now .it is not there any more"):
        next(reader.read(iter([range(20)])))


@pytest.mark.parametrize("part", ["dense", "sparse", "labels"])
@pytest.mark.parametrize("columns_first", [False, True])
def test_arrays_that_change_while_they_are_read(tmp_path, part, columns_first):
    """What is memory-mapped and cut off ends the process without a word (SIGBUS)."""
    write_stage(tmp_path, "day_0", 3000)
    path = tmp_path / f"day_0_{part}.npy"
    if columns_first:
        np.save(path, np.asfortranarray(np.load(path)))
    reader = BinaryCriteoReader(tmp_path, [10**6] * NUM_SPARSE)
    assert next(reader.read(iter([range(1000, 1010)]))).ids[3].tolist() == list(range(1000, 1010))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])
    with pytest.raises(
        DataChangedError, match=rf"day_0_{part}\.npy has changed since .*: 3,000 rows then, room for 9\d\d"
    ):
        next(reader.read(iter([range(2990, 3000)])))
    with pytest.raises(ValueError, match=rf"day_0_{part}\.npy is cut off: its shape \(3000, .* needs {len(content):,}"):
        BinaryCriteoReader(tmp_path, [10] * NUM_SPARSE)
    path.write_bytes(content)
    assert len(next(reader.read(iter([range(2990, 3000)])))) == 10
    path.write_bytes(bytes(reversed(content)))
    os.utime(path, ns=(0, 0))
    with pytest.raises(DataChangedError, match="other content in the same"):
        next(reader.read(iter([range(10)])))
    path.unlink()
    with pytest.raises(DataChangedError, match="it is not there any more"):
        next(reader.read(iter([range(10)])))


BAD_ARRAYS = {
    "holds object, not numbers": ("dense", np.zeros((5, 13), object)),
    "holds float64, not integers": ("sparse", np.zeros((5, 26))),
    r"has shape \(5, 2\), not \[n, 1\]": ("labels", np.zeros((5, 2))),
    r"has shape \(\), not": ("labels", np.array(3)),
    "has no rows": ("dense", np.zeros((0, 13))),
}


@pytest.mark.parametrize("message", BAD_ARRAYS)
def test_arrays_that_are_refused(tmp_path, message):
    part, array = BAD_ARRAYS[message]
    write_stage(tmp_path, "day_0", len(array) if array.shape == (0, 13) else 5)
    np.save(tmp_path / f"day_0_{part}.npy", array)
    with pytest.raises(ValueError, match=rf"day_0_{part}\.npy {message}"):
        BinaryCriteoReader(tmp_path, [10] * NUM_SPARSE)


def test_arrays_with_rows_that_nothing_can_be_learnt_of(tmp_path):
    write_stage(tmp_path, "day_0", 5)
    reader = BinaryCriteoReader(tmp_path, [10] * NUM_SPARSE)
    labels = np.ones((5, 1), np.int32)
    labels[3] = -1  # what stands for padding inside
    np.save(tmp_path / "day_0_labels.npy", labels)
    with pytest.raises(BadRowsError, match=r"day_0_labels\.npy, row 3: a label that is not 0 or 1: -1"):
        next(BinaryCriteoReader(tmp_path, [10] * NUM_SPARSE).read(iter([range(5)])))
    np.save(tmp_path / "day_0_labels.npy", labels**2)
    dense = np.zeros((5, 13), np.float32)
    dense[2, 7] = -np.inf
    np.save(tmp_path / "day_0_dense.npy", dense)
    with pytest.raises(BadRowsError, match=r"day_0_dense\.npy, row 2: a number that is not finite: -inf"):
        next(BinaryCriteoReader(tmp_path, [10] * NUM_SPARSE).read(iter([range(5)])))
    del reader


def test_signatures_see_small_changes(tmp_path):
    path = tmp_path / "f"
    content = bytearray(np.random.default_rng(0).bytes(3 << 20))
    path.write_bytes(content)
    before = FileSignature.of(path)
    os.utime(path, ns=(0, 0))
    assert before.difference(FileSignature.of(path)) is None
    check_same_files(json.loads(json.dumps([before.as_json()])), [FileSignature.of(path)])
    for place in (0, len(content) // 2 - 100_000, len(content) - 1):
        changed = content.copy()
        changed[place : place + 100_000] = bytes(len(changed[place : place + 100_000]))
        path.write_bytes(changed)
        if place != len(content) // 2 - 100_000:  # between two blocks of a large file nothing is seen
            assert "other content" in before.difference(FileSignature.of(path))
    small = tmp_path / "small"
    small.write_bytes(content[:100_000])
    before = FileSignature.of(small)
    for place in range(0, 100_000, 997):  # of a small one every byte is
        changed = content[:100_000]
        changed[place] ^= 1
        small.write_bytes(changed)
        assert before.difference(FileSignature.of(small))


def signature(name, size=5, sample="a", mtime_ns=1):
    return FileSignature(name, size, mtime_ns, sample)


DIFFERENT = {
    "data file b of the checkpoint is not there any more": [signature("a")],
    "data file c was not there when": [signature("a"), signature("b"), signature("c")],
    "data file b has changed since the checkpoint was written: 5 bytes then, 6 now": [
        signature("a"),
        signature("b", 6),
    ],
    "data file a has changed since .*: other content in the same 5 bytes": [signature("a", sample="x"), signature("b")],
    "in the order .'a', 'b'. and are in .'b', 'a'. now": [signature("b"), signature("a")],
}


def test_files_of_a_checkpoint():
    then = [signature(name).as_json() for name in "ab"]
    check_same_files(then, [signature("a", mtime_ns=2), signature("b")])
    for message, now in DIFFERENT.items():
        with pytest.raises(DataChangedError, match=message):
            check_same_files(then, now)
    for damaged in (None, 5, [5], [{}], {"a": 1}, [then[0] | {"size": "5"}], [then[0] | {"more": 1}]):
        with pytest.raises(ValueError, match="no list of signatures"):
            check_same_files(damaged, [signature("a")])


def test_counts_are_of_the_content_not_of_its_time(tmp_path):
    path = write_rows(tmp_path / "log.tsv", range(4))
    cache = tmp_path / "cache"
    assert open_files(path, cache)[0].num_rows == 4
    long = line(0)
    rewritten(path, "\n".join([long + "x" * (path.stat().st_size - len(long) - 1), ""]).encode())
    assert open_files(path, cache)[0].num_rows == 1


def test_a_file_that_changes_while_it_is_counted(tmp_path, monkeypatch):
    path = write_rows(tmp_path / "log.tsv", range(4))

    def count(path):
        path.write_bytes(path.read_bytes() * 2)
        return 4

    monkeypatch.setattr(line_counts, "count_lines", count)
    with pytest.raises(
        DataChangedError, match=r"log\.tsv has changed while its rows were counted: 435 bytes then, 870 now"
    ):
        open_files(path, tmp_path / "cache")
    assert not (tmp_path / "cache" / "line_counts.json").exists()


DAMAGED = {
    "text": lambda known: b"damaged",
    "other bytes": lambda known: b"\xff\xfe\x00",
    "a list": lambda known: b"[1]",
    "deep": lambda known: b"[" * 200_000,
    "another count": lambda known: json.dumps({k: v | {"lines": 3} for k, v in known.items()}).encode(),
    "no number": lambda known: json.dumps({k: v | {"lines": "4"} for k, v in known.items()}).encode(),
    "negative": lambda known: json.dumps({k: v | {"lines": -4} for k, v in known.items()}).encode(),
    "a number alone": lambda known: json.dumps(dict.fromkeys(known, 10**30)).encode(),
    "of another file": lambda known: json.dumps({k + "0": v for k, v in known.items()}).encode(),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_cache_of_counts_is_built_again(tmp_path, kind, caplog):
    path, cache = write_rows(tmp_path / "log.tsv", range(4)), tmp_path / "cache"
    open_files(path, cache)
    file = cache / "line_counts.json"
    right = file.read_bytes()
    file.write_bytes(DAMAGED[kind](json.loads(right)))
    assert open_files(path, cache)[0].num_rows == 4
    assert "line_counts.json" in caplog.text and file.read_bytes() == right
    caplog.clear()
    assert open_files(path, cache)[0].num_rows == 4 and not caplog.text


def test_caches_that_cannot_be_used(tmp_path, monkeypatch):
    path, cache = write_rows(tmp_path / "log.tsv", range(4)), tmp_path / "cache"
    (tmp_path / "file").write_text("")
    for bad in (tmp_path / "file", tmp_path / "file" / "below", "a\0b"):
        with pytest.raises(ValueError, match="--cache_dir .* cannot be (written|read)"):
            open_files(path, bad)
    (cache / "line_counts.json").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"--cache_dir .*line_counts\.json cannot be read: .* is a folder"):
        open_files(path, cache)
    (cache / "line_counts.json").rmdir()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(line_counts, "write_json", full)
    with pytest.raises(ValueError, match=r"--cache_dir .*line_counts\.json cannot be written: .*No space left"):
        open_files(path, cache)


def test_vocabularies_are_checked(tmp_path):
    path = tmp_path / "v.npz"
    ids = [np.arange(t + 1) * 7 for t in range(NUM_SPARSE)]
    Vocabulary(ids).save(path, "these rows")
    assert all(np.array_equal(a, b) for a, b in zip(Vocabulary.load(path, "these rows").ids, ids, strict=True))
    content = path.read_bytes()
    with pytest.raises(ValueError, match=r"v\.npz is of other rows"):
        Vocabulary.load(path, "others")
    for damaged in (b"", b"text", content[:500], content[:900] + bytes(50) + content[950:], b"PAR1", b"\x93NUMPY\x01"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"vocabulary .*v\.npz is no readable"):
            Vocabulary.load(path, "these rows")
    names = [f"arr_{t}" for t in range(NUM_SPARSE)]
    key = np.frombuffer(b"these rows", np.uint8)
    for wrong in (ids[1].astype(float), ids[1][::-1], np.array([7, 7]), np.zeros((2, 2), int), np.array(3)):
        np.savez(path, key=key, **dict(zip(names, [ids[0], wrong, *ids[2:]], strict=True)))
        with pytest.raises(ValueError, match="arr_1 is no ascending vector"):
            Vocabulary.load(path, "these rows")
    np.savez(path, key=key, **dict(zip(names[1:], ids[1:], strict=True)))
    with pytest.raises(ValueError, match="has no array arr_0"):
        Vocabulary.load(path, "these rows")
    empty = Vocabulary([np.zeros(0, np.int64)] * NUM_SPARSE)
    assert (np.stack(empty.rows_of(np.ones((NUM_SPARSE, 2), np.int64))) == 0).all()


# What the script does. Rows are cut, or the file doubled, when its first step is taken.
CUT = """
import os, sys
sys.path.insert(0, {examples!r})
import criteo_trainer, train_criteo
from script_end import one_line_errors

train = criteo_trainer.Trainer._train

def cut(trainer, *args):
    if trainer.rank == 1:
        os.truncate(trainer.args.data_path, os.path.getsize(trainer.args.data_path) // 3)
    return train(trainer, *args)

criteo_trainer.Trainer._train = cut
with one_line_errors():
    train_criteo.main()
"""


@pytest.fixture
def flags(tmp_path):
    return ["--data_path", tmp_path / "log.tsv", "--array_bytes", 8192, "--batch_size", 20, "--test_batch_size", 100,
            "--epochs", 1, "--cache_dir", tmp_path / "cache", "--output_dir", tmp_path / "out"]  # fmt: skip


def test_rows_cut_off_end_the_run_on_all_ranks(tmp_path, flags):
    path = write_rows(tmp_path / "log.tsv", range(400))
    script = tmp_path / "cut.py"
    script.write_text(CUT.format(examples=str(Path(script_runs.EXAMPLES))))
    done = script_runs.run(script, *flags, ranks=2, check=False)
    assert done.returncode == 2 and "Traceback" not in done.output, done.output
    assert done.output.count(f"error: data file {path} has changed since its rows were counted: 400 rows then, 13") == 2
    assert not (tmp_path / "out" / "checkpoint").exists() and " loss 0.0" not in done.output


def test_a_run_goes_on_with_the_same_files_only(tmp_path, flags):
    path = write_rows(tmp_path / "log.tsv", range(400))
    done = script_runs.run("train_criteo.py", *flags, "--train_fraction", 0.5)
    log = (tmp_path / "out" / "log.txt").read_text().splitlines()
    assert [text.split(" ", 1)[1] for text in log if " rows: log.tsv rows " in text] == [
        "training: 200 rows: log.tsv rows 1 to 200 (of 400)",
        "validation: 100 rows: log.tsv rows 201 to 300 (of 400)",
        "test: 100 rows: log.tsv rows 301 to 400 (of 400)",
    ], done.output
    file = tmp_path / "out" / "checkpoint" / "progress.json"
    progress = json.loads(file.read_text())
    assert progress["data"]["files"] == [FileSignature.of(path).as_json()]
    content = path.read_bytes()
    path.write_bytes(content * 2)
    resume = [*flags, "--train_fraction", 0.5, "--resume"]
    done = script_runs.run("train_criteo.py", *resume, check=False)
    assert done.returncode == 2 and "Traceback" not in done.output
    assert (
        f"error: --resume: data file log.tsv has changed since the checkpoint was written: {len(content):,}"
        in done.output
    )
    # A copy has another time; and an earlier version did not say what its files were.
    path.write_bytes(content)
    file.write_text(json.dumps(progress | {"data": None}))
    (file.parent / MANIFEST).unlink()
    done = script_runs.run("train_criteo.py", *resume)
    assert "nobody can tell whether its data are these" in done.output


def test_generated_rows_and_preprocessed_arrays_are_known_again(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(script_runs.EXAMPLES))
    import criteo_data
    import criteo_flags
    import process_group
    import torch.distributed as dist

    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: 1)
    monkeypatch.setattr(process_group, "first_rank_first", lambda work: work())

    def load(*flags):
        return criteo_data.load(criteo_flags.parse(["--embedding", "full", *map(str, flags)]))

    small = ["--synthetic_rows", 1000, "--synthetic_scale", 0.001]
    then = json.loads(json.dumps(load(*small).signature))
    load(*small).check_same(then)
    with pytest.raises(ValueError, match="log of the data was .*'skew': 1.1.* and is now .*'skew': 1.2"):
        load(*small, "--synthetic_skew", 1.2, "--num_embeddings", 5).check_same(
            load(*small, "--num_embeddings", 5).signature
        )
    with pytest.raises(ValueError, match="splits of the data was .*1000.* and is now .*2000"):
        load("--synthetic_rows", 2000, *small[2:]).check_same(then)
    write_stage(tmp_path, "train", 100)
    arrays = ["--in_memory_binary_criteo_path", tmp_path]
    with pytest.raises(ValueError, match="rows were 'generated' and are 'preprocessed' now"):
        load(*arrays).check_same(then)
    then = load(*arrays).signature
    assert [f["name"] for f in then["files"]] == ["train_dense.npy", "train_sparse.npy", "train_labels.npy"]
    load(*arrays).check_same(then)
    np.save(tmp_path / "train_labels.npy", np.zeros((100, 1), np.int32))
    with pytest.raises(ValueError, match=r"data file train_labels\.npy has changed .*: other content"):
        load(*arrays).check_same(then)
    for damaged in (5, [], {"kind": 1}, {}):
        with pytest.raises(ValueError, match="the checkpoint's rows were"):
            load(*arrays).check_same(damaged)


def test_a_damaged_vocabulary_is_built_again(tmp_path, monkeypatch, caplog):
    monkeypatch.syspath_prepend(str(script_runs.EXAMPLES))
    import criteo_data
    import criteo_flags
    import process_group

    monkeypatch.setattr(process_group, "first_rank_first", lambda work: work())
    caplog.set_level("WARNING", "criteo_data")  # whatever the tests before have set
    path, cache = write_rows(tmp_path / "log.tsv", range(50)), tmp_path / "cache"
    args = ["--embedding", "full", "--data_path", path, "--cache_dir", cache]

    def load():
        caplog.clear()
        return criteo_data.load(criteo_flags.parse(list(map(str, args)))).num_embeddings

    rows = load()
    (file,) = cache.glob("vocabulary-*.npz")
    right = dict(np.load(file))
    assert load() == rows and not caplog.text
    for damage in (lambda: file.write_bytes(b"damaged"), lambda: np.savez(file, **(right | {"arr_0": np.arange(9.0)})),
                   lambda: np.savez(file, **(right | {"key": right["key"][:-1]}))):  # fmt: skip
        damage()
        assert load() == rows and str(file) in caplog.text and "it is built again" in caplog.text
    file.unlink()
    file.mkdir()
    with pytest.raises(ValueError, match=rf"--cache_dir {cache}: {file.name} cannot be read: .* is a folder"):
        load()
    # Rows of the same number of bytes, written in place within the time's resolution.
    file.rmdir()
    rewritten(path, path.read_bytes().replace(b"0000000a", b"0000000b"))
    assert load()[0] == rows[0] - 1
