"""Bags: several ids a row, from text and Parquet to a batch; the kernel as the reference in Python has it."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from torchrec_pss.datasets.bags import Bags, join_bags
from torchrec_pss.datasets.criteo_lines import parse_lines, token_ids
from torchrec_pss.datasets.line_stream import Lines
from torchrec_pss.datasets.open_rows import find_rows_files, reader_of
from torchrec_pss.datasets.rows import PADDING_LABEL, RowBlock, empty_block, join_blocks
from torchrec_pss.datasets.schema import Schema
from torchrec_pss.datasets.text_rows import parse_text

SCHEMA = Schema.of(
    {"label": "y", "sparse": ["a"], "dense": {"d": "none"}, "bags": {"g": {"separator": ";"}, "h": {"weights": "w"}}, "time": "t"}
)  # fmt: skip
NAMES = ["w", "y", "t", "d", "g", "a", "h"]
ARRAYS = ("dense", "ids", "labels", "lengths", "weights", "times")


def lines(number, seed=0):
    """Some of them with quotes, empty pieces, weights that are no numbers, or too many of them."""
    rng = np.random.default_rng(seed)
    for _ in range(number):
        n = rng.integers(0, 5)
        more = int(rng.random() < 0.05)
        weights = "|".join(
            rng.choice(
                ["1", "0.5", "-2e3", "nan", "+1", "1e50", " 2"], n + more, p=[0.4, 0.3, 0.2, 0.02, 0.04, 0.02, 0.02]
            )
        )
        pieces = ";".join(rng.choice(["x", "a token of many bytes", "", "é", "12345678"], rng.integers(0, 5)))
        if rng.random() < 0.05:
            pieces = f'"{pieces},q"'
        ids = "|".join(map(str, rng.integers(0, 10**9, n)))
        yield f"{weights},{rng.integers(2)},{1.6e9 + rng.random():.3f},{rng.random():.4f},{pieces},{rng.integers(9)},{ids}".encode()


def same(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ARRAYS)


def test_the_kernel_reads_what_the_reference_reads():
    given = list(lines(3000))
    text, ends = b"\n".join(given), np.cumsum([len(line) + 1 for line in given]) - 1
    columns = SCHEMA.columns(NAMES)
    found, bad = parse_text(Lines(text, 0, ends), b",", columns)
    expected, expected_bad = parse_lines(given, b",", columns)
    assert same(found, expected) and bad == expected_bad and 100 < len(bad) < 1000
    reasons = {line.reason for line in bad}
    assert "w has 'nan', not a finite number" in reasons and any("ids, and w" in reason for reason in reasons)
    # A row by hand: empty pieces are none.
    block, _ = parse_lines([b"1|.5,1,7,2,x;;y;,k,9|8"], b",", columns)
    assert [f.ids.tolist() for f in block.features()] == [
        token_ids(t).tolist() for t in ([b"k"], [b"x", b"y"], [b"9", b"8"])
    ]
    assert (
        block.lengths.tolist() == [[1], [2], [2]]
        and block.weights.tolist() == [1, 1, 1, 1, 0.5]
        and block.times.tolist() == [7]
    )
    nothing, _ = parse_lines([b",1,7,2,,k,"], b",", columns)
    assert nothing.lengths.tolist() == [[1], [0], [0]] and nothing.ids.tolist() == [ord("k")]


def test_parquet_reads_what_text_reads(tmp_path):
    good = [line for line in lines(1500, 1) if not any(t in line for t in (b"nan", b"+", b"1e50", b" 2", b'"'))]
    rows = [line.decode().split(",") for line in good]
    rows = [row for row in rows if len(row[0].split("|")) == len(row[6].split("|")) and bool(row[0]) == bool(row[6])]
    (tmp_path / "t.csv").write_text("\n".join([",".join(NAMES), *map(",".join, rows)]) + "\n")
    of = dict(zip(NAMES, zip(*rows, strict=True), strict=True))

    def lists(values, separator, kind):
        return [[kind(v) for v in value.split(separator) if v] for value in values]

    table = pa.table({
        "y": pa.array(map(int, of["y"])), "t": pa.array(map(float, of["t"])), "d": pa.array(map(float, of["d"])), "a": pa.array(of["a"]).dictionary_encode(),
        "g": pa.array([v or None for v in of["g"]]), "h": pa.array(lists(of["h"], "|", str), pa.list_(pa.string())),
        "w": pa.array(lists(of["w"], "|", float), pa.large_list(pa.float64())),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=97)
    blocks = []
    for name in ("t.csv", "t.parquet"):
        files = find_rows_files(tmp_path / name, SCHEMA)
        number = files[0].num_rows
        windows = [range(i, min(i + 61, number)) for i in range(0, number, 61)]
        reader = reader_of(files, SCHEMA, 0)
        blocks.append(join_blocks(list(reader.read(iter(windows)))))
    assert len(blocks[0]) == len(rows) > 900 and same(*blocks)


def test_parquet_rows_that_are_left_out(tmp_path, caplog):
    table = pa.table({
        "y": [1, 0, 1, 0], "t": [1.0, 2.0, 3.0, 4.0], "d": [0.0] * 4, "a": ["k"] * 4, "g": ["x"] * 4,
        "h": pa.array([[1], [1, 2], None, [3]], pa.list_(pa.int64())), "w": pa.array([[1.0], [1.0], None, [None]], pa.list_(pa.float32())),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "t.parquet")
    reader = reader_of(find_rows_files(tmp_path / "t.parquet", SCHEMA), SCHEMA)
    block = next(reader.read(iter([range(4)])))
    assert block.times.tolist() == [1, 3] and block.lengths[2].tolist() == [1, 0] and reader.num_bad_rows == 2
    assert (
        "row 2: h has 2 ids, and w 1 weights" in caplog.text
        and "row 4: w has nothing, not a finite number" in caplog.text
    )


def random_block(number, seed, weighted):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 4, number).astype(np.int32)
    ids = rng.integers(-9, 9, lengths.sum())
    weights = rng.random(len(ids)).astype(np.float32) if weighted else None
    features = [Bags(rng.integers(0, 9, number)), Bags(ids, lengths, weights)]
    return RowBlock.of(
        rng.random((number, 2)).astype(np.float32),
        features,
        rng.integers(0, 2, number).astype(np.float32),
        rng.random(number),
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_rows_are_taken_and_joined(weighted):
    block = random_block(50, 0, weighted)
    rows = np.random.default_rng(1).permutation(50)[:30]
    taken = block.take(rows)
    each = [block.take(np.array([row])) for row in rows]
    assert same(join_blocks(each), taken)
    mask = np.zeros(50, bool)
    mask[rows] = True
    assert same(block.take(mask), block.take(np.sort(rows)))
    assert same(join_blocks([block.take(np.arange(20)), block.take(np.arange(20, 50))]), block)
    assert same(join_blocks([empty_block(2, 2, True, weighted, True), block]), block)
    mapped = block.mapped(lambda ids: [of + 100 for of in ids])
    assert np.array_equal(mapped.ids, block.ids + 100) and same(
        mapped.mapped(lambda ids: [of - 100 for of in ids]), block
    )
    assert np.array_equal(join_bags([f.take(np.arange(50)) for f in block.features()[1:]]).ids, block.features()[1].ids)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_batch_has_the_bags(weighted):
    block = random_block(7, 3, weighted)
    features = block.batch(["a", "h"]).sparse_features
    bags = block.features()[1]
    at = np.concatenate([[0], bags.lengths.cumsum()])
    assert features.keys() == ["a", "h"] and features.stride() == 7
    for row, values in enumerate(features["h"].to_dense()):
        assert values.tolist() == bags.ids[at[row] : at[row + 1]].tolist()
    assert (features["a"].weights_or_none() is not None) == weighted
    if weighted:
        assert (
            torch.equal(features["h"].weights(), torch.from_numpy(bags.weights))
            and (features["a"].weights() == 1).all()
        )
    padding = empty_block(2, 2, True, weighted).batch(["a", "h"])
    assert padding.labels.tolist() == [PADDING_LABEL] and padding.sparse_features.lengths().tolist() == [1, 1]
    assert (padding.sparse_features.weights_or_none() is not None) == weighted


BAD = {
    "bags.h.pooling is 'max', not sum or mean": {"bags": {"h": {"pooling": "max"}}},
    "bags.h.separator is '||', and must be one": {"bags": {"h": {"separator": "||"}}},
    "bags.h has 'weight', and may have weights, pooling, separator: is it 'weights'": {"bags": {"h": {"weight": "w"}}},
    "bags.h.pooling is 'mean', and there are weights": {"bags": {"h": {"pooling": "mean"}, "g": {"weights": "w"}}},
    "the column 'a' comes twice": {"sparse": ["a"], "bags": ["a"]},
    "the column 'h' comes twice": {"bags": {"h": {"weights": "h"}}},
    "sparse names no column, nor do bags": {"bags": {}},
    "bags has 7 where a name belongs": {"bags": {7: {}}},
}  # fmt: skip


@pytest.mark.parametrize("message", BAD)
def test_schemas_that_are_wrong(message):
    with pytest.raises(ValueError, match=message.replace("||", r"\|\|")):
        Schema.of({"label": "y"} | BAD[message])


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([1, 2]), "the bags 'h' are int64, and must be lists, or text"),
        (pa.array([[1.5], [2.0]]), "the column 'h' is double, and must be whole numbers or text"),
    ],
)
def test_columns_that_are_no_bags(tmp_path, column, message):
    pq.write_table(pa.table({"y": [0, 1], "h": column}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=message):
        find_rows_files(tmp_path / "t.parquet", Schema.of({"label": "y", "bags": ["h"]}))


def test_text_of_bags_alone(tmp_path):
    """Also a line that Python reads, and one whose bag is divided by what may divide fields."""
    (tmp_path / "t.csv").write_text('y,g\n1,a|b\n0,"c"\n1,\n7,d\n')
    schema = Schema.of({"label": "y", "bags": ["g"]})
    block = next(reader_of(find_rows_files(tmp_path / "t.csv", schema), schema).read(iter([range(4)])))
    assert block.lengths.tolist() == [[2, 1, 0]] and block.ids.tolist() == token_ids([b"a", b"b", b"c"]).tolist()
    (tmp_path / "t.txt").write_text("1|a,b,c|x\n0|,,|y\n")
    schema = Schema.of({"label": "y", "sparse": ["u"], "bags": {"g": {"separator": ","}}, "fields": ["y", "g", "u"]})
    block = next(reader_of(find_rows_files(tmp_path / "t.txt", schema), schema).read(iter([range(2)])))
    assert block.lengths[1].tolist() == [3, 0] and block.labels.tolist() == [1, 0]


def test_lists_of_nothing_and_categories(tmp_path):
    schema = Schema.of({"label": "y", "sparse": ["a"], "bags": {"h": {"weights": "w"}, "g": {}}})
    full = pa.table({
        "y": [1, 0], "a": ["k", None], "h": pa.array([[1], [2, 3]], pa.list_(pa.int64())), "w": pa.array([[1.0], [2.0, 3.0]], pa.list_(pa.float32())),
        "g": pa.array(["x|y", None]).dictionary_encode(),
    })  # fmt: skip
    none = pa.table(
        {"y": [0], "a": pa.nulls(1), "h": pa.array([[]]), "w": pa.array([[]]), "g": pa.array(["z"]).dictionary_encode()}
    )
    pq.write_table(none, tmp_path / "0.parquet")
    pq.write_table(full, tmp_path / "1.parquet")
    files = find_rows_files(tmp_path, schema)
    block = next(reader_of(files, schema).read(iter([range(3)])))
    assert block.lengths.tolist() == [[1, 1, 1], [0, 1, 2], [1, 2, 0]] and files[1].texts == ("a", "g")
    assert block.ids.tolist() == [0, ord("k"), 0, 1, 2, 3, ord("z"), ord("x"), ord("y")]
