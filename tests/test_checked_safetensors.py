"""safetensors files with checksums: every bit counts."""

import random

import pytest
import torch
from safetensors.torch import load_file, save_file

from torchrec_pss.checked_safetensors import load_safetensors, save_safetensors
from torchrec_pss.distributed import NotFiniteError

STATE = {
    "array": torch.arange(40.0),
    "half": torch.ones(2, 3, dtype=torch.bfloat16),
    "empty": torch.zeros(0),
    "step": torch.tensor(3),
    "flags": torch.tensor([True]),
    "_extra_state": torch.arange(50, dtype=torch.uint8),
}


@pytest.fixture
def file(tmp_path):
    save_safetensors(STATE, tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def test_what_was_saved_is_loaded(file):
    for load in (load_safetensors, load_file):
        found = load(file)
        assert found.keys() == STATE.keys()
        for name, value in STATE.items():
            assert found[name].dtype == value.dtype and torch.equal(found[name], value)
    assert list(file.parent.iterdir()) == [file]


def test_flipped_bits_and_truncations(file):
    whole, rng = file.read_bytes(), random.Random(0)
    damaged = [whole[:length] for length in rng.sample(range(len(whole)), 60)]
    for bit in range(0, 8 * len(whole), 23):  # all 6,264 of them are found, too
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    for content in damaged:
        file.write_bytes(content)
        with pytest.raises(ValueError, match=f"{file} (is truncated or damaged|is damaged|has no checksums)"):
            load_safetensors(file)
    last = bytearray(whole)
    last[-1] ^= 1
    file.write_bytes(last)
    with pytest.raises(ValueError, match=f"{file} is damaged: '_?[a-z_]+' has another checksum"):
        load_safetensors(file)


def test_a_file_without_checksums_is_told_so(file):
    save_file(STATE, file)
    with pytest.raises(ValueError, match="has no checksums: save_safetensors has not written it"):
        load_safetensors(file)
    with pytest.raises(FileNotFoundError):
        load_safetensors(file.with_name("none"))


def test_what_is_not_saved_leaves_what_was_there(file):
    before = file.read_bytes()
    with pytest.raises(NotFiniteError, match=r"m.safetensors is not written: array\[39\] is nan"):
        save_safetensors(STATE | {"array": torch.cat([torch.zeros(39), torch.tensor([float("nan")])])}, file)
    with pytest.raises(TypeError, match="'step' is of type int"):
        save_safetensors(STATE | {"step": 3}, file)
    assert file.read_bytes() == before and list(file.parent.iterdir()) == [file]
