"""The output folder, before a run begins, and what the disk says while it is written to."""

import logging
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import run_folder
from scalar_log import ScalarLog


@pytest.mark.parametrize("name", [".lock", "log.txt", "results.json", "curves.png"])
def test_a_folder_where_a_file_will_be(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=f"{tmp_path / name} is a folder"):
        run_folder.prepare(tmp_path)


@pytest.mark.parametrize("name", ["checkpoint", "checkpoint.new", "checkpoint.old", "tensorboard"])
def test_a_file_where_a_folder_will_be(tmp_path, name, monkeypatch):
    (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match=f"{tmp_path / name} is no folder"):
        run_folder.prepare(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    run_folder.prepare(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path / name)  # root may do all
    with pytest.raises(ValueError, match=f"{tmp_path / name} cannot be read and written"):
        run_folder.prepare(tmp_path)


def test_a_folder_that_cannot_be_made_or_written(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(ValueError, match=f"output folder {place} is not writable: "):
            run_folder.prepare(place)


def test_a_link_among_the_events(tmp_path):
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "events.out.tfevents.1").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"events.out.tfevents.1 is a symbolic link to .*elsewhere"):
        run_folder.prepare(tmp_path)
    assert run_folder.prepare(tmp_path / "new").is_dir() and not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize("name", ["lock", "_LogFile"])
def test_what_is_opened_later_is_no_link_either(tmp_path, name):
    """Planted after `prepare` has looked."""
    place = tmp_path / (".lock" if name == "lock" else "log.txt")
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=f"{place} is a symbolic link"):
        getattr(run_folder, name)(tmp_path if name == "lock" else place)
    place.unlink()
    os.mkfifo(place)
    with pytest.raises(ValueError, match=f"{place} is no regular file"):
        getattr(run_folder, name)(tmp_path if name == "lock" else place)
    assert not (tmp_path / "elsewhere").exists()


def test_a_log_that_cannot_be_written_ends_the_run(tmp_path):
    handler = run_folder._LogFile(tmp_path / "log.txt")
    logger = logging.Logger("of this test")
    logger.addHandler(handler)
    logger.warning("first \udcff")
    handler.stream = open("/dev/full", "w")  # noqa: SIM115
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path / 'log.txt'}'"):
        logger.warning("second")
    assert (tmp_path / "log.txt").read_text() == "first \\udcff\n"


def test_scalars_that_cannot_be_written_end_the_run(tmp_path, monkeypatch):
    """With a stand-in for TensorBoard, which need not be installed."""

    class SummaryWriter:
        def __init__(self, folder):
            self.written = 0

        def add_scalar(self, name, value, step):
            self.written += 1

        def flush(self):
            if self.written > 1:
                raise OSError(28, "No space left on device")

        def close(self):
            raise AssertionError("closed, with what it holds lost")

    module = ModuleType("torch.utils.tensorboard")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    with pytest.raises(ValueError, match="--tensorboard needs the package"):
        ScalarLog(tmp_path)
    module.SummaryWriter = SummaryWriter
    scalars = ScalarLog(tmp_path)
    scalars.add("loss", 0.5, 1)
    scalars.flush()
    scalars.add("loss", 0.4, 2)
    for method in (scalars.flush, scalars.close):
        with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}'"):
            method()
