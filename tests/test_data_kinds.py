"""Files that are no data: each is named, with what it is."""

import gzip
import os
import pickle
import socket
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from click_lines import line, write_rows

from torchrec_pss.datasets.criteo_files import open_files
from torchrec_pss.datasets.interactions import Interactions
from torchrec_pss.datasets.table_list import read_table_list

TEXT = "\n".join(line(r) for r in range(3)) + "\n"


def sqlite(path):
    database = sqlite3.connect(path)
    database.execute("create table t (a)")
    database.commit()
    database.close()


def array(path):
    with open(path, "wb") as stream:
        np.save(stream, np.zeros(3))


KINDS = {
    "is Parquet, not text": lambda path: path.write_bytes(b"PAR1\x15\x04\x15\x10" + bytes(90) + b"PAR1"),
    "is ORC, not text": lambda path: path.write_bytes(b"ORC\x11\x00\x00\x0a" + bytes(90)),
    "is Arrow, not text": lambda path: path.write_bytes(b"ARROW1\0\0" + bytes(90)),
    "is Avro, not text": lambda path: path.write_bytes(b"Obj\x01\x04\x16avro.schema"),
    "is HDF5, not text": lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(90)),
    "is an SQLite database, not text": sqlite,
    "is a numpy array, not text": array,
    r"is packed by zip .so are \.npz": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(90)),
    "is a pickle, not text": lambda path: path.write_bytes(pickle.dumps([1, 2])),
    "is packed by gzip twice": lambda path: path.write_bytes(gzip.compress(gzip.compress(TEXT.encode()))),
    "is UTF-16: convert it": lambda path: path.write_bytes(TEXT.encode("utf-16")),
    "is UTF-32: convert it": lambda path: path.write_bytes(TEXT.encode("utf-32")),
    "is full of zero bytes: UTF-16": lambda path: path.write_bytes(TEXT.encode("utf-16-le")),
    "is a folder": lambda path: path.mkdir(),
    "is a pipe": os.mkfifo,
    "is a socket": lambda path: socket.socket(socket.AF_UNIX).bind(str(path)),
    "is a link to .*, which does not exist": lambda path: path.symlink_to(path.parent / "nothing"),
    "is empty": lambda path: path.write_bytes(b""),
    "is empty in its first lines": lambda path: path.write_bytes(b"\n" * 30 + TEXT.encode()),
    "is no Criteo file: its first lines have 41 fields, not 40": lambda path: path.write_text(
        TEXT.replace("\n", "\t\n")
    ),
}


@pytest.mark.parametrize("message", KINDS)
def test_a_file_of_another_kind_among_days(tmp_path, message, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    write_rows(Path("day_0"), range(5))
    KINDS[message](Path("day_1"))
    with pytest.raises((ValueError, FileNotFoundError), match=f"data file day_1 {message}"):
        open_files(".")
    if message not in ("is a folder",):
        with pytest.raises((ValueError, FileNotFoundError), match=f"data file day_1 {message}"):
            open_files("day_1")


@pytest.mark.parametrize("path", ["/dev/null", "a\0b", "x" * 5000])
def test_paths_that_are_no_files(path):
    with pytest.raises((ValueError, FileNotFoundError), match="is a device, not a file|is unreadable"):
        open_files(path)


def test_files_that_must_not_be_read(tmp_path, monkeypatch):
    """Root may read all files: the system's answer is put in its mouth."""
    write_rows(tmp_path / "day_0", range(5))
    for name in ("iterdir", "stat"):
        with monkeypatch.context() as context:
            context.setattr(Path, name, _refused)
            with pytest.raises(ValueError, match="is unreadable: .*Permission denied"):
                open_files(tmp_path)
    for module in ("line_stream", "file_signature"):
        with monkeypatch.context() as context:
            context.setattr(f"torchrec_pss.datasets.{module}.open", _refused, raising=False)
            with pytest.raises(ValueError, match="data file .*day_0 is unreadable: .*Permission denied"):
                open_files(tmp_path)


def _refused(*_, **__):
    raise PermissionError(13, "Permission denied")


def test_pairs_of_another_kind(tmp_path):
    path = tmp_path / "pairs.npz"
    for content, message in (
        (b"PAR1" + bytes(90), "it is Parquet"),
        (b"", ""),
        (b"text", ""),
        (b"PK\x03\x04" + bytes(50), ""),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"data file .*pairs\.npz is no readable \.npz: {message}"):
            Interactions.load(path)
    array(path)
    with pytest.raises(ValueError, match="it is a numpy array"):
        Interactions.load(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match=r"pairs\.npz is a folder, not a file"):
        Interactions.load(path)
    times = np.zeros(3, "timedelta64[s]")
    other = tmp_path / "times.npz"
    np.savez(other, train_user=times, train_item=times, test_user=times, test_item=times)
    with pytest.raises(ValueError, match="train_user must be a non-empty integer vector, got timedelta64"):
        Interactions.load(other)


CSV = {
    "name,rows\nu,1e30\n": r"entry 1: needs name and rows: rows is '1e30', not between 1 and 9,223,372,036,854,775,807",
    "name,rows\nu,5\nv,1e999999999\n": "entry 2: needs name and rows: rows is '1e999999999', not between",
    "name,rows\nu,0\n": "rows is '0', not between 1",
    "name,rows\nu,-7\n": "rows is '-7', not between 1",
    "name,rows\nu,1.5\n": "rows is '1.5', not a whole number",
    "name,rows\nu,nan\n": "rows is 'nan', not a whole number",
    "name,rows\nu," + "1" * 400 + "\n": r"rows is '1{59}\.\.\., not between",
    "name,rows\nu," + "1" * 5000 + "\n": r"rows is '1{59}\.\.\., not between",
    "name,rows,dim\nu,5,1000000000000\n": "entry 1: dim is '1000000000000', not between 1 and 1,048,576",
    "name,rows,dim\nu,5,0\n": "dim is '0', not between",
    "name,rows,dim\nu,9223372036854775807,8\n": r"entry 1: rows 9,223,372,036,854,775,807 of dim 8 make it .* more than 2\^63",
    "name,rows,dim\nu,1e18,1\nv,1e18,1\nw,1e18,1\n": r"entry 3: rows 1,000,000,000,000,000,000 of dim 1 make it 1\.2e\+19 bytes",
    "name,rows,pooling\nu,5,inf\n": "entry 1: pooling is 'inf', not positive",
    "name,rows,pooling\nu,5,nan\n": "pooling is 'nan', not positive",
    "name,rows,pooling\nu,5,0\n": "pooling is '0', not positive",
    "name,rows,skew\nu,5,-1\n": "entry 1: skew is '-1', not positive",
    "name,rows,skew\nu,5,1e400\n": "skew is '1e400', not positive",
    "name,rows,skew\nu,5,1e-400\n": "skew is '1e-400', not positive",
    "name,rows,skew\nu,5,x\n": "skew is 'x', not a number",
    "name,rows\na.b,5\n": r"entry 1: name is 'a\.b': a module of TorchRec cannot have a '\.' in its name",
    "name,rows\nitems,5\n": "entry 1: name is 'items': torch's ModuleDict has an attribute of that name",
    "name,rows\na\x07b,5\n": "name is .*: it has characters that cannot be printed",
    "name,rows\n" + "n" * 2000 + ",5\n": "of 2,000 characters, more than 1,024",
    "name,rows\n ,5\n": "entry 1: needs name and rows: name is missing",
    "name,rows\nu,5\nu,6\n": "entry 2: the name 'u' comes twice",
    "name,rows\nu,5,9\n": "entry 1: 3 fields, but the header has 2: '9'",
    "name,rows,rows\nu,5,6\n": "the header has the field 'rows' twice",
    "name,rows\nu," + "5" * 140_000 + "\n": "line 2, entry 1: field larger than field limit",
    "": "no entries",
    "name,rows\nu,1_000\n": "entry 1: needs name and rows: rows is '1_000', not a whole number",
    "name,rows\nu,٣٣\n": "entry 1: needs name and rows: rows is '٣٣', not a whole number",
    "name,rows,skew\nu,5,1_0.5\n": "entry 1: skew is '1_0.5', not a number",
    "user,1000000\nitem,5000\n": "the first line must be the header, with name and rows; it is 'user,1000000'",
    "\n" + "u" * 200 + ",5\n": "must be the header, with name and rows; it is 'u{80}'",
}


@pytest.mark.parametrize("content", CSV, ids=[m[:40] for m in CSV.values()])
def test_table_lists_that_are_refused(tmp_path, content):
    path = tmp_path / "tables.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=CSV[content]) as error:
        read_table_list(str(path))
    assert str(error.value).startswith(f"table list {path}") and "\n" not in str(error.value)


JSON = {
    "[" * 200_000: "nested too deep",
    '[{"name": "u", "rows": NaN}]': "entry 1: needs name and rows: rows is NaN, not a whole number",
    '[{"name": "u", "rows": 5, "pooling": Infinity}]': "entry 1: pooling is Infinity, not positive",
    '[{"name": "u", "rows": 5, "skew": 1e400}]': "skew is 1e400, not positive",
    '[{"name": "u", "rows": %s}]' % ("1" * 5000): r"rows is 1{60}\.\.\., not between",
    '[{"name": "u", "rows": 1e30}]': "rows is 1e30, not between",
    '[{"name": "u", "rows": true}]': "rows is True, not a whole number",
    '[{"name": "u", "rows": 5, "dim": 0}]': "dim is 0, not between",
    '[{"name": null, "rows": 5}]': "name is missing",
    '[{"name": ["u"], "rows": 5}]': r"name is \['u'\], not text",
    '[{"name": "", "rows": 5}]': "name is missing",
    '[{"name": "u", "rows": 5}, 7]': "entry 2: is no object but a number, '7'",
    '{"name": "u"}': "is no JSON list but a dict",
    '[{"name": "u", "name": "v", "rows": 5}]': "has the field 'name' twice",
    '[{"Name": "u", "name ": "v", "rows": 5}]': "has the field 'name' twice",
    '[{"name": "u", "rows": "1_000"}]': "rows is '1_000', not a whole number",
    "[]": "no entries",
    "[{": "is no JSON list of tables",
}  # fmt: skip


@pytest.mark.parametrize("content", JSON, ids=list(JSON.values()))
@pytest.mark.parametrize("name", ["tables.json", "tables.txt"])
def test_json_table_lists_that_are_refused(tmp_path, content, name):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=JSON[content]) as error:
        read_table_list(str(tmp_path / name))
    assert str(error.value).startswith(f"table list {tmp_path / name}") and len(str(error.value)) < 400


TABLES = [("user", 10**6, 32, 2.5), ("item", 5000, 128, 1.0)]
ACCEPTED = {
    "a mark": b"\xef\xbb\xbfname,rows,dim,pooling\nuser,1000000,32,2.5\nitem,5000,,\n",
    "semicolons": b"\xef\xbb\xbfname;rows;dim;pooling\r\nuser;1e6;32;2.5\r\nitem;5000.0;;\r\n",
    "tabs": b"name\trows\tdim\tpooling\nuser\t1000000\t32\t2.5\n\nitem\t5000\t\t\n",
    "spaces and capitals": b"Name, Rows, Dim, Pooling, note\nuser, 1000000, 32, 2.5, x\nitem, 5000\n",
    "JSON with capitals": b'[{"Name":"user","ROWS":1e6,"Dim":32,"pooling ":2.5},{"name":"item","rows":5000}]',
    "JSON": b'\xef\xbb\xbf[{"name":"user","rows":1e6,"dim":32,"pooling":2.5},{"name":"item","rows":"5000","dim":null}]',
}


@pytest.mark.parametrize("kind", ACCEPTED)
def test_table_lists_as_spreadsheets_write_them(tmp_path, kind):
    path = tmp_path / "tables.csv"
    path.write_bytes(ACCEPTED[kind])
    assert [(t.name, t.rows, t.dim, t.pooling) for t in read_table_list(str(path))] == TABLES


def test_table_lists_that_are_no_text(tmp_path):
    path = tmp_path / "tables.csv"
    for content, message in (
        ("name,rows\nu,5\n".encode("utf-16"), "is UTF-16: convert it"),
        (b"PAR1" + bytes(90), "is Parquet"),
        (b"PK\x03\x04" + bytes(90), "is packed by zip"),
        (b"name,rows\n\xff,5\n", "is not UTF-8"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"table list {path} {message}"):
            read_table_list(str(path))
    with pytest.raises(ValueError, match="is a folder, not a file"):
        read_table_list(str(tmp_path))
    with pytest.raises(ValueError, match="/dev/zero is a device"):
        read_table_list("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is a pipe, not a file"):
        read_table_list(str(tmp_path / "pipe"))
