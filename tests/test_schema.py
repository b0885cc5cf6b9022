"""Logs of any columns: what a schema says, what is wrong with it, and that its rows are those of the file whatever the order of columns."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from click_lines import line, write_rows
from torch.utils.data import DataLoader

from torchrec_pss.advise.tables import from_logs
from torchrec_pss.datasets import ClickDataset
from torchrec_pss.datasets.criteo_files import CriteoReader, open_files
from torchrec_pss.datasets.criteo_lines import token_ids
from torchrec_pss.datasets.open_rows import find_rows_files
from torchrec_pss.datasets.rows import DENSE_NAMES, SPARSE_NAMES
from torchrec_pss.datasets.schema import Schema
from torchrec_pss.schema import __main__ as command

ROOT = Path(__file__).parents[1]
SCHEMA = {"label": "click", "dense": {"price": "log", "age": "none"}, "sparse": ["site", "url"]}
HEADER = ["id", "url", "click", "age", "note", "price", "site"]


def rows(number, seed=0):
    rng = np.random.default_rng(seed)
    return [
        [str(i), f"http://a.org/{rng.integers(9)}", str(rng.integers(2)), rng.choice(["", "17", "-2.5"]), "x y", rng.choice(["", "3", "0.25"]), f"s{rng.integers(5)}"]
        for i in range(number)
    ]  # fmt: skip


def write(path, lines, delimiter=","):
    path.write_text("\n".join(delimiter.join(fields) for fields in lines) + "\n")
    return path


def schema_file(folder, said=SCHEMA):
    path = folder / "schema.json"
    path.write_text(json.dumps(said))
    return path


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_columns_by_name(tmp_path, delimiter):
    """Anywhere in the line, in the schema's order; the others are not looked at."""
    data = rows(200)
    path = write(tmp_path / "log.csv", [HEADER, *data], delimiter)
    (block,) = CriteoReader(open_files(path, schema=Schema.of(SCHEMA))).read(iter([range(200)]))
    at = {name: place for place, name in enumerate(HEADER)}
    column = lambda name: [row[at[name]] for row in data]  # noqa: E731
    price, age = (np.array([float(v or 0) for v in column(name)]) for name in ("price", "age"))
    assert np.array_equal(block.dense[:, 0], (np.sign(price) * np.log1p(np.abs(price))).astype(np.float32))
    assert np.array_equal(block.dense[:, 1], age.astype(np.float32))
    assert block.labels.tolist() == [float(v) for v in column("click")]
    for place, name in enumerate(("site", "url")):
        assert block.ids[place].tolist() == token_ids([v.encode() for v in column(name)]).tolist()
    batch = next(
        iter(DataLoader(ClickDataset(path, 50, schema=schema_file(tmp_path), train_fraction=0.5), batch_size=None))
    )
    assert batch.sparse_features.keys() == ["site", "url"] and batch.dense_features.shape == (50, 2)


def test_lines_that_are_not_plain(tmp_path, caplog):
    """By the reference, in the order of the schema as well."""
    data = rows(9)
    data[2][1], data[4][5], data[6][2] = '"a,b"', "x", "2"
    path = write(tmp_path / "log.csv", [HEADER, *data])
    (block,) = CriteoReader(open_files(path, schema=Schema.of(SCHEMA))).read(iter([range(9)]))
    assert len(block) == 7 and block.ids[1, 2] == token_ids([b"a,b"])[0]
    assert (
        "log.csv:6: price is 'x', not a finite number" in caplog.text
        and "log.csv:8: click is '2', not 0 or 1" in caplog.text
    )


def test_a_label_that_is_missing_and_a_number_that_is_too_large(tmp_path, caplog):
    """Whatever is wrong with other lines: of the label nothing is filled in, and fp32 must hold what is read as it is."""
    for others in ("17", "x"):
        data = rows(9)
        data[2][2], data[3][3], data[4][5], data[5][3] = "", "1e39", "1e39", others
        path = write(tmp_path / f"{others}.csv", [HEADER, *data])
        (block,) = CriteoReader(open_files(path, schema=Schema.of(SCHEMA))).read(iter([range(9)]))
        assert len(block) == 7 - (others == "x") and np.isfinite(block.dense).all()
        assert (
            f"{others}.csv:4: click is '', not 0 or 1" in caplog.text
            and f"{others}.csv:5: age is '1e39'" in caplog.text
        )


def test_files_of_a_folder(tmp_path, caplog):
    """As of Criteo's: packed ones without another suffix, those to test on without labels, and what does not speak beside those that do."""
    caplog.set_level("INFO")
    write(tmp_path / "train", [HEADER, *rows(30)])
    (tmp_path / "train.gz").write_bytes(gzip.compress((tmp_path / "train").read_bytes()))
    (tmp_path / "train").unlink()
    (tmp_path / "test.gz").write_bytes(gzip.compress(b"url,site\na,b\n"))
    (tmp_path / "readme.txt").write_text("hello\n")
    assert [f.path.name for f in open_files(tmp_path, schema=Schema.of(SCHEMA))] == ["train.gz"]
    assert (
        "left out" in caplog.text
        and "test.gz: the column 'click' is not there" in caplog.text
        and "readme.txt" in caplog.text
    )
    (tmp_path / "train.gz").write_bytes(gzip.compress(b"url,site\na,b\n"))
    with pytest.raises(ValueError, match=r"train.gz: the column 'click' is not there"):
        open_files(tmp_path, schema=Schema.of(SCHEMA))


def test_what_divides_the_fields(tmp_path):
    said = Schema.of({"label": "y", "sparse": ["u", "t"], "fields": ["y", "u", "t"]})
    path = write(tmp_path / "a.tsv", [["0", "u0", "a, b, c, d"]] * 9, "\t")
    (block,) = CriteoReader(open_files(path, schema=said)).read(iter([range(9)]))
    assert block.ids[1, 0] == token_ids([b"a, b, c, d"])[0]
    path = write(tmp_path / "b.csv", [["y", "u", '"a;b;c;d"'], ["1", "p", "q"]])
    assert open_files(path, schema=Schema.of({"label": "y", "sparse": ["u", "a;b;c;d"]}))[0].delimiter == b","
    path = write(tmp_path / "c.csv", [["0", "u0"]] * 9)
    with pytest.raises(
        ValueError, match=r"c.csv: neither tabs, commas, semicolons nor bars divide its first line into 3"
    ):
        open_files(path, schema=said)


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is a pipe, not a file"):
        find_rows_files(tmp_path / "pipe", Schema.of(SCHEMA))


def test_the_order_of_columns_is_part_of_what_is_trained_on():
    turned = SCHEMA | {"dense": {"age": "none", "price": "log"}}
    assert json.dumps(Schema.of(SCHEMA).as_json()) != json.dumps(Schema.of(turned).as_json())
    assert Schema.of(Schema.of(turned).as_json()) == Schema.of(turned) != Schema.of(SCHEMA)


def test_a_group_of_rows():
    said = Schema.of(SCHEMA | {"group": "site"})
    assert said.group == "site" and Schema.of(said.as_json()) == said and "group" not in Schema.of(SCHEMA).as_json()


def test_text_without_a_header_and_without_numbers(tmp_path):
    said = {"label": "y", "sparse": ["b", "a"], "fields": ["a", "y", "b"]}
    path = write(tmp_path / "log.tsv", [["p", "1", "q"], ["r", "0", ""]] * 10, "\t")
    data = ClickDataset(path, 4, schema=Schema.of(said), train_fraction=0.5)
    batch = next(iter(data))
    assert batch.dense_features.tolist() == [[0.0]] * 4  # of a DLRM's dense part
    ids = batch.sparse_features.values().view(2, 4)[:, :2].tolist()
    assert ids == [[ord("q"), 0], [ord("p"), ord("r")]]


def test_criteos_own_columns_by_a_schema(tmp_path):
    names = ["label", *(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27))]
    said = Schema.of({"label": "label", "dense": names[1:14], "sparse": names[14:]})
    plain = write_rows(tmp_path / "plain.tsv", range(50))
    named = tmp_path / "named.tsv"
    named.write_text("\t".join(names) + "\n" + plain.read_text())
    (expected,) = CriteoReader(open_files(plain)).read(iter([range(50)]))
    (found,) = CriteoReader(open_files(named, schema=said)).read(iter([range(50)]))
    assert found.dense.tobytes() == expected.dense.tobytes() and np.array_equal(found.ids, expected.ids)
    assert (found.labels == expected.labels).all() and len(DENSE_NAMES) == 13 and len(SPARSE_NAMES) == 26


BAD = {
    "it lacks label": {"sparse": ["a"]},
    "sparse names no column": {"label": "y", "sparse": []},
    "sparse is 'a', not a list": {"label": "y", "sparse": "a"},
    r"sparse\[1\] is 3, not a text": {"label": "y", "sparse": ["a", 3]},
    "the column 'a' comes twice": {"label": "y", "sparse": ["a", "b", "a"]},
    "the column 'y' comes twice": {"label": "y", "sparse": ["y"]},
    "dense.a is 'sqrt', not one of log, none": {"label": "y", "dense": {"a": "sqrt"}, "sparse": ["b"]},
    "it has 'spars', and may have label, dense, sparse, bags, fields, time, split, group: is it 'sparse'": {
        "label": "y",
        "sparse": ["a"],
        "spars": [],
    },
    "the column 'b' is not there; there are 'y', 'a'": {"label": "y", "sparse": ["a", "b"], "fields": ["y", "a"]},
    "the column 'a' is there twice": {"label": "y", "sparse": ["a"], "fields": ["y", "a", "a"]},
    "name is 't_a.b': a module of TorchRec": {"label": "y", "sparse": ["a.b"]},
    r"group is 'usr', which is no sparse column: is it 'user'\?": {"label": "y", "sparse": ["user"], "group": "usr"},
    "group is 'y', which is no sparse column; there are 'user'": {"label": "y", "sparse": ["user"], "group": "y"},
    "group is 3, not a text": {"label": "y", "sparse": ["user"], "group": 3},
    "it is 3, not an object": 3,
    "it has 1 where a name belongs: write it in quotes": "label: y\ndense: {1: log}\nsparse: [a]",
    "it has True where a name belongs": "label: y\nsparse: [a]\nyes: 3",
}


@pytest.mark.parametrize("said", BAD)
def test_schemas_that_are_wrong(tmp_path, said):
    path = tmp_path / "s.yaml"
    path.write_text(BAD[said] if isinstance(BAD[said], str) else json.dumps(BAD[said]))  # which is YAML, too
    with pytest.raises(ValueError, match=f"schema .*s.yaml: .*{said}"):
        Schema.read(path)


def test_files_that_do_not_fit(tmp_path):
    with pytest.raises(FileNotFoundError, match="schema .*none.json does not exist"):
        Schema.read(tmp_path / "none.json")
    (tmp_path / "s.yaml").write_text("a: [")
    with pytest.raises(ValueError, match="schema .*s.yaml is no YAML that can be read"):
        Schema.read(tmp_path / "s.yaml")
    path = write(tmp_path / "log.csv", [["click", "sites", "price", "age", "url"], ["1", "a", "2", "3", "b"]])
    with pytest.raises(ValueError, match=r"log.csv: the column 'site' is not there: is it 'sites'\?"):
        open_files(path, schema=Schema.of(SCHEMA))
    with pytest.raises(ValueError, match=r"its first lines have 5 fields, not 40; of other columns a schema says"):
        open_files(path)


def test_a_schema_is_guessed(tmp_path, capsys):
    rng = np.random.default_rng(0)
    data = [
        [str(i), str(rng.integers(2)), f"{rng.random():.3f}", str(rng.integers(9)), "k", f"t{i}", str(rng.integers(99))]
        for i in range(300)
    ]
    path = write(tmp_path / "log.csv", [["id", "click", "price", "site", "one", "hour", "num_views"], *data])
    command.main([str(path), "--output", str(tmp_path / "s.yaml")])
    found = Schema.read(tmp_path / "s.yaml")
    assert found == Schema("click", ("site",), ("price", "num_views"), ("log", "log"))
    text = (tmp_path / "s.yaml").read_text()
    assert (
        "# id: left out: nearly every row has its own" in text
        and "# one: left out: it has one value" in text
        and "# hour: left out" in text
    )
    assert "site  # 9 values" in text and "look it through" in capsys.readouterr().out
    path = write(
        tmp_path / "odd.csv",
        [["y", "a.b", "keys", "seen"], ["1", "p", "q", "2024-01-02 10:00"], ["0", "r", "s", "2024-01-03"]],
    )
    command.main([str(path), "--output", str(tmp_path / "odd.yaml")])
    assert Schema.read(tmp_path / "odd.yaml") == Schema("y", ("keys",))
    path = write(tmp_path / "twice.csv", [["y", "a", "a"], ["1", "p", "q"]])
    with pytest.raises(SystemExit):
        command.main([str(path)])
    assert "the column 'a' is there twice" in capsys.readouterr().err
    path = write(tmp_path / "two.csv", [["a", "b", "y"], ["0", "1", "x"], ["1", "0", "z"]])
    for flags, said in (
        (["--output", str(path)], "--output"),
        (["--label", "y"], "the label 'y' is 'x' somewhere, and must be 0 or 1"),
        ([], "a, b are 0 and 1 in its first lines"),
        (["--label", "q"], "has no column 'q'; there are a, b, y"),
    ):
        with pytest.raises(SystemExit):
            command.main([str(path), *flags])
        assert said in capsys.readouterr().err
    command.main([str(path), "--label", "a"])
    assert "label: a\n" in capsys.readouterr().out


def test_the_schemas_that_ship():
    names = sorted(p.name for p in (ROOT / "examples" / "schemas").iterdir())
    assert names == ["avazu.yaml", "frappe.yaml", "kdd12.yaml", "movielens.yaml"]
    for name in names:
        assert Schema.read(ROOT / "examples" / "schemas" / name).sparse


def test_the_advisor_counts_a_schemas_columns(tmp_path):
    path = write(tmp_path / "log.csv", [HEADER, *rows(300)])
    found = from_logs(str(path), 1000, 8, schema=str(schema_file(tmp_path)))
    assert [t.name for t in found.tables] == ["site", "url"] and [t.num_embeddings for t in found.tables] == [5, 9]
    assert line(0).count("\t") == 39
