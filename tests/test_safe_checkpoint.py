"""Checkpoints of `torch.distributed.checkpoint` that are damaged or crafted: a reason, and no code of theirs runs."""

import os
import pickle

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection
from torchrec_pss.distributed import load_checkpoint


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
