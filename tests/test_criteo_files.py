"""The Criteo reader: dialects, missing values, malformed lines, ranks, resuming."""

import copy
import gzip
import hashlib
import lzma
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click_lines import line, row_of, write

from torchrec_pss.datasets.criteo_binary import BinaryCriteoReader
from torchrec_pss.datasets.criteo_files import CriteoReader, find_files, open_files
from torchrec_pss.datasets.criteo_lines import parse_lines, token_ids
from torchrec_pss.datasets.distinct import DistinctCounter
from torchrec_pss.datasets.errors import BadRowsError
from torchrec_pss.datasets.numbering import Numbering, scattered
from torchrec_pss.datasets.rows import NUM_SPARSE, PADDING_LABEL, RowBlock, num_steps, rank_windows
from torchrec_pss.datasets.splits import split_files, split_rows
from torchrec_pss.datasets.vocabulary import Vocabulary

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"


def read_rows(path, windows, **kwargs):
    reader = CriteoReader(open_files(path), **kwargs)
    blocks = list(reader.read(iter(windows)))
    return [r for block in blocks for r in row_of(block.ids[0])], reader


def test_gzip_is_told_by_content(tmp_path):
    packed, plain = tmp_path / "packed.tsv", tmp_path / "plain.gz"
    packed.write_bytes(gzip.compress(f"{line(0)}\n{line(1)}\n".encode()))
    plain.write_text(f"{line(0)}\n{line(1)}\n")
    assert read_rows(packed, [range(2)])[0] == read_rows(plain, [range(2)])[0] == [0, 1]


@pytest.mark.parametrize("name", ["a.tsv", "a.txt.gz", "b.csv"])
@pytest.mark.parametrize("end", ["\n", ""])
def test_dialects(tmp_path, name, end):
    delimiter = "," if "csv" in name else "\t"
    lines = [line(r, delimiter) for r in range(10)]
    if delimiter == ",":
        lines = ["label," + ",".join([f"I{i}" for i in range(1, 14)] + [f"C{i}" for i in range(1, 27)]), *lines]
    files = open_files(write(tmp_path / name, lines, end))
    assert files[0].num_rows == 10 and files[0].has_header == (delimiter == ",")
    block = next(CriteoReader(files).read(iter([range(10)])))
    assert row_of(block.ids[0]) == list(range(10)) and block.labels.tolist() == [0, 1] * 5
    assert block.dense.dtype == np.float32 and block.dense[:, 3].tolist() == [0] * 10
    raw = np.array([r % 7 - 2 for r in range(10)])
    np.testing.assert_allclose(block.dense[:, 0], np.sign(raw) * np.log1p(abs(raw)), rtol=1e-6)
    assert (block.ids[5] == 0).all()


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("first_step", [0, 2])
def test_ranks_read_every_row_once(tmp_path, world_size, first_step):
    """Across two files, at any world size, from any step on."""
    folder = tmp_path / "days"
    folder.mkdir()
    write(folder / "day_10", [line(r) for r in range(60, 107)])
    write(folder / "day_2", [line(r) for r in range(60)])
    rows = range(5, 101)
    seen, steps = [], set()
    for rank in range(world_size):
        windows = list(rank_windows(rows, 4, rank, world_size, first_step))
        steps.add(len(windows))
        seen += read_rows(folder, windows)[0]
    assert sorted(seen) == list(rows[first_step * 4 * world_size :])
    assert steps == {num_steps(rows, 4, world_size) - first_step}


def test_malformed_lines_are_named_counted_and_limited(tmp_path, caplog):
    lines = [line(r) for r in range(20)]
    lines[3] = "1\t2\t3"
    lines[7] = "2" + lines[7][1:]
    lines[11] = lines[11].replace("\t", "\tabc", 1)
    lines[12] = ""
    path = write(tmp_path / "x.tsv", lines)
    rows, reader = read_rows(path, rank_windows(range(20), 6, 0, 1))
    assert rows == [r for r in range(20) if r not in (3, 7, 11, 12)]
    assert reader.num_bad_rows == 4
    for number, reason in ((4, "3 fields instead of 40"), (8, "label is '2'"), (12, "I1 is 'abc2'"), (13, "1 fields")):
        assert f"{path}:{number}: {reason}" in caplog.text
    with pytest.raises(BadRowsError, match=r"4 malformed lines, more than --max_bad_rows 3; the first: .*x\.tsv:4"):
        read_rows(path, [range(20)], max_bad_rows=3)


def test_a_malformed_line_is_logged_once_however_often_it_is_read(tmp_path, caplog):
    path = write(tmp_path / "x.tsv", [line(0), "bad", line(2), "worse"])
    reader = CriteoReader(open_files(path))
    for one in (copy.copy(reader), copy.copy(reader), reader, reader):
        list(one.read(iter([range(3)])))
    assert reader.num_bad_rows == 2 and caplog.text.count("left out a malformed line") == 1
    list(copy.copy(reader).read(iter([range(4)])))
    assert caplog.text.count(f"{path}:4: ") == 1 and caplog.text.count("left out a malformed line") == 2


@pytest.mark.parametrize("value", ["nan", "inf", "1e999", "0x10", "1,5"])
def test_dense_values_must_be_finite_numbers(value):
    block, bad = parse_lines(
        [line(0).encode(), line(1).replace("\t", f"\t{value}\t", 1).encode().replace(b"\t-1\t", b"\t", 1)], b"\t"
    )
    assert len(block) == 1 and bad[0].position == 1 and "not a finite number" in bad[0].reason


def test_tokens():
    tokens = [b"", b"a", b"68fd1e64", b"05db9164", b"\xff" * 8]
    assert token_ids(tokens).tolist() == [0, 97, *(int.from_bytes(t, "little", signed=True) for t in tokens[2:])]
    long = b"a much longer token"
    mixed = token_ids([*tokens, long])
    assert mixed[:5].tolist() == token_ids(tokens).tolist()
    assert mixed[5] == int.from_bytes(hashlib.blake2b(long, digest_size=8).digest(), "little", signed=True)


def test_windows_of_nothing_still_make_a_batch(tmp_path):
    path = write(tmp_path / "x.tsv", [line(0), "bad"])
    block = list(CriteoReader(open_files(path)).read(iter([range(1, 2), range(2, 2)])))[1]
    assert len(block) == 0
    batch = block.batch()
    assert batch.labels.tolist() == [PADDING_LABEL] and batch.sparse_features.stride() == 1


def test_bad_paths(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_files(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="no Criteo file"):
        open_files(tmp_path)
    (tmp_path / "empty.tsv").write_text("")
    with pytest.raises(ValueError, match=r"empty\.tsv is empty"):
        open_files(tmp_path / "empty.tsv")
    (tmp_path / "no.gz").write_bytes(b"\x1f\x8b no gzip")
    with pytest.raises(ValueError, match=r"no\.gz is unreadable"):
        open_files(tmp_path / "no.gz")
    (tmp_path / "rows.tsv.xz").write_bytes(lzma.compress(line(0).encode()))
    with pytest.raises(ValueError, match=r"rows\.tsv\.xz is packed by xz: unpack it"):
        open_files(tmp_path / "rows.tsv.xz")
    truncated = write(tmp_path / "cut.txt.gz", [line(r) for r in range(5000)])
    truncated.write_bytes(truncated.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"cut\.txt\.gz is unreadable"):
        open_files(truncated)
    (tmp_path / "words.txt").write_text("just words\n")
    with pytest.raises(ValueError, match="neither tabs nor commas"):
        open_files(tmp_path / "words.txt")
    write(tmp_path / "head.csv", ["label,I1"])
    with pytest.raises(ValueError, match="has no rows"):
        open_files(tmp_path / "head.csv")


def test_folders_and_count_cache(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    write(data / "train.txt", [line(0)])
    write(data / "test.txt", [line(1)[2:]])  # as Kaggle's, without labels
    assert [p.name for p in find_files(data)] == ["train.txt"]
    open_files(data, tmp_path / "cache")
    counts = tmp_path / "cache" / "line_counts.json"
    assert counts.exists()
    write(data / "train.txt", [line(0), line(1)])
    assert open_files(data, tmp_path / "cache")[0].num_rows == 2
    counts.write_text("damaged")
    assert open_files(data, tmp_path / "cache")[0].num_rows == 2


def test_splits():
    splits = split_rows(80_000, 0.8)
    assert (splits.train, splits.val, splits.test) == (range(64_000), range(64_000, 72_000), range(72_000, 80_000))
    days = split_files([100, 100, 51], 0.1)
    assert (days.train, days.val, days.test) == (range(200), range(200, 225), range(225, 251))
    for rows, fraction in ((2, 0.5), (100, 0.0), (100, 1.0), (100, 0.999)):
        with pytest.raises(ValueError):
            split_rows(rows, fraction)


def blocks_of_ids(ids):
    return [RowBlock(np.zeros((1, 13)), i, np.zeros(i.shape[1])) for i in ids]


def test_vocabulary(tmp_path):
    rng = np.random.default_rng(0)
    ids = [rng.integers(-5, 5, (NUM_SPARSE, 50)) for _ in range(4)]
    Vocabulary.build(blocks_of_ids(ids)).save(tmp_path / "v.npz")
    vocabulary = Vocabulary.load(tmp_path / "v.npz")
    assert vocabulary.num_distinct == [len(np.unique(np.concatenate([i[t] for i in ids]))) for t in range(NUM_SPARSE)]
    rows = np.stack(vocabulary.rows_of(np.full((NUM_SPARSE, 1), 77)))
    assert (rows == 0).all()
    mapped = np.stack(vocabulary.rows_of(ids[0]))
    assert mapped.min() == 1 and mapped.max() <= 10
    for t in range(NUM_SPARSE):
        assert len(np.unique(mapped[t])) == len(np.unique(ids[0][t]))


def test_numbered_ids(tmp_path):
    """Those that are named come first, in their order; the others follow, and what nobody knows has row 0. Read back from a file; with
    fewer rows the last ids share them."""
    ids = np.tile([[30, 10, 20, 40]], (NUM_SPARSE, 1))
    vocabulary = Vocabulary.build(blocks_of_ids([ids]))
    first = [np.array([40, 10])] + [np.array([], np.int64)] * (NUM_SPARSE - 1)
    made = Numbering.of(vocabulary, first)
    made.save(tmp_path / "ids.npz")
    for numbering in (made, Numbering.load(tmp_path / "ids.npz")):
        rows, places = numbering.rows_of(np.tile([[40, 10, 20, 30, 7]], (NUM_SPARSE, 1))), scattered(5)
        assert (
            rows[0].tolist() == places[[1, 2, 3, 4, 0]].tolist()
            and rows[1].tolist() == places[[4, 1, 2, 3, 0]].tolist()
        )
        assert numbering.num_rows == [5] * NUM_SPARSE and numbering.digest == made.digest
    shared = replace(made, num_rows=[4] + [5] * (NUM_SPARSE - 1))
    assert shared.rows_of(ids)[0].tolist() == scattered(4)[[3, 2, 3, 1]].tolist() and shared.digest == made.digest
    assert Numbering.of(vocabulary, first[1:] + first[:1]).digest != made.digest
    nothing = Numbering([np.zeros(0, np.int64)] * NUM_SPARSE, [1] * NUM_SPARSE)
    assert (np.stack(nothing.rows_of(ids)) == 0).all()


def test_what_ids_that_share_rows_leave_unresolved():
    numbering = Numbering([np.arange(4)], [4])  # places 1, 2, 3 and 4, which shares 3
    reads = np.array([50, 30, 15, 5])
    assert numbering.unresolved(0, reads) == pytest.approx(2 * 15 * 5 / 20 / 100)
    assert replace(numbering, num_rows=[5]).unresolved(0, reads) == 0


def test_rows_of_numbered_ids_say_nothing_about_reads():
    """Or those that are read rarely would have scales of their own."""
    rows = scattered(1001)
    assert rows[0] == 0 and sorted(rows) == list(range(1001)) and (rows == scattered(1001)).all()
    assert abs(np.corrcoef(np.arange(1000), rows[1:])[0, 1]) < 0.1


def test_numbered_ids_of_a_damaged_file(tmp_path):
    good = Numbering([np.array([3, 1])] * NUM_SPARSE, [3] * NUM_SPARSE)
    for bad in (
        {"num_rows": [0] * NUM_SPARSE},
        {"num_rows": [4] * NUM_SPARSE},
        {"ids": [np.array([3, 3])] * NUM_SPARSE},
    ):
        replace(good, **bad).save(tmp_path / "ids.npz")
        with pytest.raises(ValueError, match=r"ids\.npz: arr_0 has 2 ids"):
            Numbering.load(tmp_path / "ids.npz")
    np.savez(tmp_path / "ids.npz", arr_0=np.zeros(3))
    with pytest.raises(ValueError, match="arr_0 is no vector of int64"):
        Numbering.load(tmp_path / "ids.npz")


def test_distinct_counts_are_within_four_standard_errors():
    counter, rng = DistinctCounter(), np.random.default_rng(0)
    sizes = [1, 3, 100, 20_000, 40_000, 500_000]
    for _ in range(20):
        ids = np.zeros((NUM_SPARSE, 50_000), np.int64)
        for t, size in enumerate(sizes):
            ids[t] = rng.integers(0, size, 50_000) * 7919
        counter.add(ids)
    # 10^6 draws from 500,000 values leave out one in e^2.
    expected = [*sizes[:5], 500_000 * (1 - np.exp(-2))]
    for estimate, truth in zip(counter.estimates(), expected, strict=False):
        assert abs(estimate / truth - 1) < 4 * 0.0082


def test_binary_stages(tmp_path):
    for day, rows in ((0, 30), (10, 10), (2, 20)):
        np.save(tmp_path / f"day_{day}_dense.npy", np.full((rows, 13), day, np.float32))
        np.save(tmp_path / f"day_{day}_sparse.npy", np.full((rows, NUM_SPARSE), 25, np.int32))
        np.save(tmp_path / f"day_{day}_labels.npy", np.ones((rows, 1), np.int32))
    reader = BinaryCriteoReader(tmp_path, [10] * NUM_SPARSE)
    assert reader.rows_per_file == [30, 20, 10]
    block = next(reader.read(iter([range(28, 55)])))
    assert block.dense[:, 0].tolist() == [0] * 2 + [2] * 20 + [10] * 5
    assert (block.ids == 5).all() and block.ids.shape == (NUM_SPARSE, 27) and block.labels.sum() == 27
    np.save(tmp_path / "day_0_sparse.npy", np.zeros((30, 3), np.int32))
    with pytest.raises(ValueError, match=r"day_0_sparse\.npy has shape \(30, 3\)"):
        BinaryCriteoReader(tmp_path, [10] * NUM_SPARSE)
    with pytest.raises(FileNotFoundError):
        BinaryCriteoReader(tmp_path / "none", [10] * NUM_SPARSE)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")
def test_real_rows():
    sample = open_files(SHARED / "criteo_sample.csv")
    block = next(CriteoReader(sample, 0).read(iter([range(200)])))
    assert len(block) == 200 and 0.1 < block.labels.mean() < 0.4
    logs = open_files(SHARED / "criteo_80k.tsv.gz")
    reader = CriteoReader(logs, 0)
    blocks = list(reader.read(rank_windows(range(80_000), 10_000, 0, 1)))
    assert sum(map(len, blocks)) == 80_000 and reader.num_bad_rows == 0
    assert abs(np.concatenate([b.labels for b in blocks]).mean() - 0.224) < 0.001
    assert sum(Vocabulary.build(blocks).num_distinct) == 200_026
