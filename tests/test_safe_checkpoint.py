"""Checkpoints of `torch.distributed.checkpoint` that are damaged or crafted: a reason, and no code of theirs runs."""

import os
import pickle
import random
import resource

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
import two_ranks
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection
from torchrec_pss.distributed import NotFiniteError, add_checksums, load_checkpoint, save_checkpoint
from torchrec_pss.distributed.checksums import MANIFEST, read_manifest


def module(seed):
    torch.manual_seed(seed)
    tables = [EmbeddingBagConfig(name="t", num_embeddings=10**9, embedding_dim=8, feature_names=["f"])]
    return PSSEmbeddingBagCollection(tables, config=PSSConfig(array_bytes=4096))


def state(seed, **more):
    return {
        "model": module(seed).state_dict(),
        "step": 7 + seed,
        "half": torch.ones(3, dtype=torch.bfloat16) * seed,
        **more,
    }


class Calls:
    """Its pickle makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def folder(tmp_path):
    dcp.save(state(1), checkpoint_id=tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_what_was_saved_is_loaded(folder):
    found, expected = state(2), state(1)
    load_checkpoint(found, folder)
    assert found["step"] == 8 and torch.equal(found["half"], expected["half"])
    assert all(torch.equal(found["model"][k], v) for k, v in expected["model"].items())
    other = module(3)
    other.load_state_dict(found["model"])
    assert torch.equal(other.array, expected["model"]["array"])


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp"])
@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_damaged_files(folder, name, damage):
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if damage != "missing":
        (folder / name).write_bytes(content[: len(content) // 3] if damage == "cut" else b"")
    with pytest.raises(ValueError, match="checkpoint .* cannot be loaded: "):
        load_checkpoint(state(2), folder)


def test_another_state(folder):
    with pytest.raises(ValueError, match="Missing key.*momentum"):
        load_checkpoint(state(2, momentum=torch.zeros(2)), folder)
    with pytest.raises(ValueError, match="Size mismatch.*half"):
        load_checkpoint(state(2) | {"half": torch.zeros(4)}, folder)


def test_crafted_metadata_calls_nothing(folder, tmp_path):
    (folder / ".metadata").write_bytes(pickle.dumps(Calls(tmp_path / "called")))
    with pytest.raises(ValueError, match="it would call posix.mkdir"):
        load_checkpoint(state(2), folder)
    assert not (tmp_path / "called").exists()


def test_a_crafted_value_calls_nothing(tmp_path):
    dcp.save({"step": Calls(tmp_path / "called")}, checkpoint_id=tmp_path / "checkpoint")
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_checkpoint({"step": 1}, tmp_path / "checkpoint")
    assert not (tmp_path / "called").exists()
    dcp.load({"step": 1}, checkpoint_id=tmp_path / "checkpoint")  # what it is about
    assert (tmp_path / "called").exists()


FILES = [".metadata", "__0_0.distcp", MANIFEST, "progress.json"]


@pytest.fixture
def checked(tmp_path):
    save_checkpoint(state(1), tmp_path / "checked", files={"progress.json": b'{"step": 3}\n'})
    return tmp_path / "checked"


def refusal(folder):
    """What `load_checkpoint` says; nothing is changed."""
    into = state(2)
    with pytest.raises(ValueError) as found:
        load_checkpoint(into, folder)
    assert into["step"] == 9 and all(torch.equal(into["model"][k], v) for k, v in state(2)["model"].items())
    assert str(found.value).startswith(f"checkpoint {folder} cannot be loaded: ")
    return str(found.value)


def test_what_was_saved_with_checksums_is_loaded(checked):
    assert sorted(path.name for path in checked.iterdir()) == sorted(FILES)
    assert [path.name for path in checked.parent.iterdir()] == ["checked"]
    for load in (load_checkpoint, dcp_load):
        found, expected = state(2), state(1)
        load(found, checked)
        assert found["step"] == 8 and torch.equal(found["half"], expected["half"])
        assert all(torch.equal(found["model"][k], v) for k, v in expected["model"].items())


def dcp_load(into, folder):
    dcp.load(into, checkpoint_id=folder)


def test_sixty_flipped_bits_and_sixty_truncations(checked):
    rng, named = random.Random(0), set()
    whole = {name: (checked / name).read_bytes() for name in FILES}
    for number in range(120):
        name = FILES[number % len(FILES)]
        place = rng.randrange(len(whole[name]))
        if number < 60:
            damaged = bytearray(whole[name])
            damaged[place] ^= 1 << rng.randrange(8)
        else:
            damaged = whole[name][:place]
        (checked / name).write_bytes(damaged)
        message = refusal(checked)
        (checked / name).write_bytes(whole[name])
        assert f"file {name}" in message
        if name != MANIFEST:
            assert ("is damaged: its CRC-32 is" if number < 60 else "is truncated: ") in message
        if name == "__0_0.distcp" and number < 60:
            named.add(message.split(", '")[1].split("'")[0])
    assert named >= {"model.array", "model.projections", "model._extra_state"}
    load_checkpoint(state(2), checked)


def test_every_byte_of_the_manifest(checked):
    whole = (checked / MANIFEST).read_bytes()
    for bit in range(0, 8 * len(whole), 7):  # one of each byte at least
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        (checked / MANIFEST).write_bytes(damaged)
        with pytest.raises(ValueError, match=f"file {MANIFEST} is damaged"):
            read_manifest(checked)


def test_files_that_are_missing_or_too_many(checked):
    for name in FILES:
        if name != MANIFEST:
            content = (checked / name).read_bytes()
            (checked / name).unlink()
            assert f"file {name} is missing" in refusal(checked)
            (checked / name).write_bytes(content)
    (checked / "__1_0.distcp").write_bytes(b"of another checkpoint")
    assert "file __1_0.distcp is none of its own" in refusal(checked)
    (checked / "__1_0.distcp").unlink()
    (checked / "__1_0.distcp").mkdir()
    assert "__1_0.distcp is no regular file" in refusal(checked)
    (checked / "__1_0.distcp").rmdir()
    (checked / "progress.json").write_bytes(b"longer" * 9)
    assert "file progress.json is longer than it was: 54 bytes instead of 12" in refusal(checked)
    (checked / "progress.json").write_bytes(b'{"step": 3}\n')
    (checked / "bad\nname").write_bytes(b"")
    assert r"file 'bad\nname' is none of its own" in refusal(checked)


def test_folders_that_are_none(checked):
    nowhere, file = checked.parent / "nowhere", checked / ".metadata"
    for folder, what in ((nowhere, "does not exist"), (file, "is no folder")):
        assert refusal(folder) == f"checkpoint {folder} cannot be loaded: folder {folder} {what}"
        with pytest.raises(ValueError, match=f"^folder {folder} {what}$"):
            add_checksums(folder)


def test_names_and_reasons_of_several_lines_become_one(folder, caplog):
    """Without checksums."""
    caplog.set_level("WARNING", logger="torchrec_pss")
    (folder / "bad\nname").write_bytes(b"x")
    load_checkpoint(state(2), folder)
    assert r"'bad\nname'" in caplog.text and "bad\nname" not in caplog.text
    (folder / "bad\nname").unlink()
    (folder / "bad\nname").mkdir()
    assert r"'bad\nname' is no regular file" in refusal(folder)
    (folder / "bad\nname").rmdir()
    with pytest.raises(ValueError, match=r"Missing key[^\n]*momentum[^\n]*\Z"):
        load_checkpoint(state(2, momentum=torch.zeros(2)), folder)


def test_without_checksums_it_says_what_was_not_checked(folder, caplog):
    """As `torch.distributed.checkpoint.save` writes it: damage of a value is found, or is none."""
    caplog.set_level("WARNING", logger="torchrec_pss")
    load_checkpoint(state(2), folder)
    (warning,) = warnings_of(caplog)
    assert (
        "has no checksums.json" in warning and "Of its 5 values 5 have" in warning and warning.endswith(": .metadata")
    )
    path, rng, found = folder / "__0_0.distcp", random.Random(0), 0
    whole = path.read_bytes()
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        into, expected = state(2), state(1)
        try:
            load_checkpoint(into, folder)
        except ValueError as error:
            found += "file __0_0.distcp, '" in str(error)
            expected = state(2)  # nothing is changed
        assert torch.equal(into["half"], expected["half"])
        assert all(torch.equal(into["model"][k], v) for k, v in expected["model"].items())
    assert found > 20
    path.write_bytes(whole[:5000])
    assert "file __0_0.distcp, 'model." in refusal(folder) and "is truncated: " in refusal(folder)
    path.write_bytes(whole)
    add_checksums(folder)
    caplog.clear()
    load_checkpoint(state(2), folder)
    assert not warnings_of(caplog)


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.name.startswith("torchrec_pss")]


def test_without_checksums_of_the_archives_either(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        dcp.save(state(1), checkpoint_id=tmp_path / "checkpoint")
    finally:
        torch.serialization.set_crc32_options(True)
    load_checkpoint(state(2), tmp_path / "checkpoint")


def test_a_state_that_is_not_finite_is_not_saved(checked):
    before = {path.name: path.read_bytes() for path in checked.iterdir()}
    bad = state(3)
    bad["model"]["array"][-1] = float("inf")
    with pytest.raises(NotFiniteError, match=r"^model.array\[959\] is inf on rank 0$"):
        save_checkpoint(bad, checked)
    with pytest.raises(NotFiniteError, match=r"^half\[2\] is nan on rank 0$"):
        save_checkpoint(state(3) | {"half": torch.tensor([0, 1, float("nan")], dtype=torch.bfloat16)}, checked)
    assert {path.name: path.read_bytes() for path in checked.iterdir()} == before
    save_checkpoint(bad, checked, allow_not_finite=True)
    found = state(2)
    load_checkpoint(found, checked)
    assert found["model"]["array"][-1] == float("inf")


def test_numbers_that_are_no_tensors_may_be_anything(tmp_path):
    saved = {"best_loss": float("inf"), "last": [float("nan")], "seen": 3}
    save_checkpoint(saved, tmp_path / "checkpoint")
    found = {"best_loss": 0.0, "last": [0.0], "seen": 0}
    load_checkpoint(found, tmp_path / "checkpoint")
    assert repr(found) == repr(saved)


def test_a_full_disk_leaves_what_was_there(checked):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    try:
        with pytest.raises(OSError, match=f"checkpoint {checked} cannot be saved: .*File too large"):
            save_checkpoint(state(2), checked)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    found = state(2)
    load_checkpoint(found, checked)
    assert found["step"] == 8 and [path.name for path in checked.parent.iterdir()] == ["checked"]


def test_a_save_that_was_killed_leaves_the_one_before(checked):
    checked.rename(checked.with_name("checked.old"))  # between the two renames
    checked.with_name("checked.new").mkdir()
    found = state(2)
    load_checkpoint(found, checked)
    assert found["step"] == 8
    save_checkpoint(state(3), checked)
    load_checkpoint(found, checked)
    assert found["step"] == 10


@pytest.mark.parametrize("place", ["checked", "checked.new", "checked.old"])
def test_links_are_not_written_through(tmp_path, place):
    target = tmp_path / "target"
    target.mkdir()
    (target / "precious").write_text("")
    (tmp_path / place).symlink_to(target)
    with pytest.raises(ValueError, match=f"{tmp_path / place} is a symbolic link to {target}"):
        save_checkpoint(state(1), tmp_path / "checked")
    assert [path.name for path in target.iterdir()] == ["precious"]


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", "..", "", MANIFEST, ".metadata", "__0_0.distcp"])
def test_names_of_files_beside_it(checked, name):
    with pytest.raises(ValueError, match="is no name for a file beside those of a checkpoint"):
        save_checkpoint(state(2), checked, files={name: b""})
    load_checkpoint(state(2), checked)


def on_two_ranks(rank, world_size, folder):
    own = {f"of rank {rank}": torch.arange(1000.0) + rank, "of both": torch.arange(10)}
    if rank == 1:
        own["of rank 1"][7] = float("nan")
    found = [attempt(save_checkpoint, own, folder)]
    own[f"of rank {rank}"][7] = 7.0
    save_checkpoint(own, folder)
    path = f"{folder}/__1_0.distcp"
    if rank == 1:
        with open(path, "r+b") as file:
            file.seek(3000)
            byte = file.read(1)
            file.seek(3000)
            file.write(bytes([byte[0] ^ 1]))
    torch.distributed.barrier()
    found.append(attempt(load_checkpoint, own, folder))
    torch.distributed.barrier()
    if rank == 1:
        os.truncate(path, 3000)
    torch.distributed.barrier()
    found.append(attempt(load_checkpoint, own, folder))
    return found


def attempt(function, *args):
    try:
        function(*args)
    except (OSError, ValueError) as error:
        return str(error)


def test_all_ranks_refuse_what_one_has_found(tmp_path):
    for answer in two_ranks.run(on_two_ranks, tmp_path, str(tmp_path / "checkpoint")):
        not_finite, flipped, cut = answer
        assert not_finite == "of rank 1[7] is nan on rank 1"
        assert "file __1_0.distcp, 'of rank 1' is damaged: " in flipped
        assert "file __1_0.distcp is truncated: 3,000 bytes instead of " in cut


@pytest.mark.parametrize(
    ("value", "kind"),
    [(np.arange(3), "numpy.ndarray"), ([1, np.float64(2.0)], "builtins.list"), (object(), "builtins.object")],
)
def test_what_would_not_be_read_again_is_not_saved(tmp_path, value, kind):
    good = {"a": torch.ones(2), "inside": {"list": [1, {"b": 2.0}], "none": None, "shape": torch.Size([2])}}
    save_checkpoint(good, tmp_path / "checkpoint")
    with pytest.raises(ValueError, match=f"inside.extra is a {kind}, which load_checkpoint would not read again"):
        save_checkpoint(good | {"inside": {"extra": value}}, tmp_path / "checkpoint")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint"]
    found = {"a": torch.zeros(2), "inside": {"list": [0, {"b": 0.0}], "none": None, "shape": torch.Size([1])}}
    load_checkpoint(found, tmp_path / "checkpoint")
    assert found["inside"]["list"] == [1, {"b": 2.0}]
