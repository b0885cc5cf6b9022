"""Files that are whole at every moment."""

import pytest

from torchrec_pss.whole_file import write_text, written_aside


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
