"""Where hot rows are is the layout's to say: no tensor that somebody can damage decides it."""

import copy
import warnings

import pytest
import torch
from torch.optim.swa_utils import AveragedModel
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection

HOT = [3, 50, 10**12, -7]


def module(device="cpu"):
    torch.manual_seed(0)
    tables = [EmbeddingBagConfig(name="t", num_embeddings=10**9, embedding_dim=8, feature_names=["f"])]
    config = PSSConfig(layout="plain", array_bytes=2048, exact=(), hot={"t": HOT}, width=4)
    return PSSEmbeddingBagCollection(tables, device=device, config=config)


def read(of):
    return of(KeyedJaggedTensor(["f"], torch.tensor([*HOT, 4, 5]), lengths=torch.ones(6, dtype=torch.int32))).values()


def test_uninitialised_memory_is_neither_read_nor_saved():
    good = module()
    empty = module("meta").to_empty(device="cpu")
    assert torch.equal(empty.hot_keys, good.hot_keys) and torch.equal(empty.state_dict()["hot_keys"], good.hot_keys)
    empty.load_state_dict(good.state_dict())
    assert torch.equal(read(empty), read(good))
    assert module("meta").state_dict()["hot_keys"].is_meta


def test_averaging_buffers_changes_no_keys():
    model = module()
    averaged = AveragedModel(model, use_buffers=True)
    with torch.no_grad():
        model.array.add_(1)
    for _ in range(3):
        averaged.update_parameters(model)
    state = averaged.module.state_dict()
    assert torch.equal(state["hot_keys"], model.hot_keys)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.load_state_dict(state)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("damage", [lambda k: k * 2, lambda k: k[:2], lambda k: k.float() * 2, lambda k: k.flip(0)])
def test_damaged_keys_are_told_and_not_used(damage, assign):
    good, expected = module(), read(module())
    state = copy.deepcopy(good.state_dict())
    state["hot_keys"] = damage(state["hot_keys"])
    with pytest.warns(UserWarning, match="hot_keys in the state dict are not those of its layout"):
        good.load_state_dict(state, assign=assign)
    assert torch.equal(read(good), expected) and torch.equal(good.hot_keys, module().hot_keys)


def test_what_is_handed_out_is_a_copy():
    good, expected = module(), read(module())
    for keys in (good.hot_keys, good.state_dict()["hot_keys"]):
        keys.fill_(7)
    assert torch.equal(read(good), expected) and torch.equal(good.hot_keys, module().hot_keys)
    assert not list(good.buffers())
