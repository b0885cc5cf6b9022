"""Files that are whole at every moment, regular, and JSON where they say so."""

import json
import os
import re

import pytest

from torchrec_pss.regular_file import open_regular
from torchrec_pss.whole_file import read_json, write_json, write_text, written_aside


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "results.json"
    write_text(path, "old")
    with pytest.raises(OSError, match="disk full"), written_aside(path) as aside:
        aside.write_text("ha")
        assert path.read_text() == "old"
        raise OSError("disk full")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with written_aside(path) as aside:
        aside.write_text("new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_the_folder_is_made(tmp_path):
    write_text(tmp_path / "a" / "b" / "results.json", "new")
    assert (tmp_path / "a" / "b" / "results.json").read_text() == "new"


def test_an_error_of_the_disk_names_the_file(tmp_path):
    with (
        pytest.raises(OSError, match=r"No space left on device: '.*results.json'"),
        written_aside(tmp_path / "results.json"),
    ):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_links_are_replaced_and_not_followed(tmp_path, monkeypatch):
    """Neither where the file will be, nor where it is written first."""
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "results.json").symlink_to(tmp_path / "precious")
    write_text(tmp_path / "results.json", "new")
    assert not (tmp_path / "results.json").is_symlink() and (tmp_path / "precious").read_text() == "precious"
    monkeypatch.setattr("secrets.token_hex", lambda n: "guessed")
    aside = tmp_path / f"results.json.{os.getpid()}.guessed.tmp"
    aside.symlink_to(tmp_path / "precious")
    with pytest.raises(FileExistsError):
        write_text(tmp_path / "results.json", "newer")
    assert (tmp_path / "precious").read_text() == "precious" and (tmp_path / "results.json").read_text() == "new"


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_CREAT):
        for name in ("pipe", "folder"):
            with pytest.raises(ValueError, match=f"{tmp_path / name} is no regular file"):
                open_regular(tmp_path / name, flags)
        with pytest.raises(ValueError, match=f"{tmp_path / 'link'} is a symbolic link to {tmp_path / 'nowhere'}"):
            open_regular(tmp_path / "link", flags)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none", os.O_RDONLY)
    with open_regular(tmp_path / "new", os.O_WRONLY | os.O_CREAT | os.O_APPEND) as file:
        file.write(b"1")
    with open_regular(tmp_path / "new", os.O_WRONLY | os.O_APPEND) as file:
        file.write(b"2")
    assert (tmp_path / "new").read_text() == "12"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_no_number_that_json_lacks(tmp_path, value):
    path = tmp_path / "results.json"
    write_json(path, {"auroc": 0.5})
    message = f"{path} is not written: history[1].loss is {value}"
    with pytest.raises(ValueError, match=re.escape(message)):
        write_json(path, {"history": [{"loss": 1.0}, {"step": 1, "loss": value}]})
    assert read_json(path) == {"auroc": 0.5}
    path.write_text(json.dumps([value]))
    with pytest.raises(ValueError, match=f"{path} is no JSON that can be read: it holds"):
        read_json(path)


@pytest.mark.parametrize("content", [b"", b"[" * 200_000, b"\xff", b"{" + b"1" * 5000, b"\xef\xbb\xbf{}"])
def test_what_is_no_json(tmp_path, content):
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path / 'f'} is no JSON that can be read: ") as error:
        read_json(tmp_path / "f")
    assert len(str(error.value)) < 300
