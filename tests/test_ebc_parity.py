"""What TorchRec's tests of its embedding modules ask (torchrec/modules/tests/test_embedding_modules.py), asked of ours."""

import copy

import pytest
import torch
from torch.optim.swa_utils import AveragedModel
from torchrec.fx import symbolic_trace
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection, PSSEmbeddingCollection

CONFIG = PSSConfig(array_bytes=700, width={"t2": 2})
SEQUENCE = PSSConfig(array_bytes=600)


def bag_tables():
    return [
        EmbeddingBagConfig(name="t1", embedding_dim=3, num_embeddings=10, feature_names=["f1", "f3"]),
        EmbeddingBagConfig(name="t2", embedding_dim=4, num_embeddings=10, feature_names=["f2"]),
    ]


def sequence_tables():
    return [
        EmbeddingConfig(name="t1", embedding_dim=5, num_embeddings=10, feature_names=["f1", "f2"]),
        EmbeddingConfig(name="t2", embedding_dim=5, num_embeddings=10, feature_names=["f2"]),
    ]


def bags(device="cpu"):
    weights = torch.tensor([0.1, 0.2, 0.4, 0.5, 0.4, 0.3, 0.2, 0.9, 0.1, 0.3, 0.4, 0.7])
    return KeyedJaggedTensor.from_offsets_sync(
        keys=["f1", "f2", "f3"],
        values=torch.tensor([1, 2, 4, 5, 4, 3, 2, 9, 1, 3, 4, 7], device=device),
        offsets=torch.tensor([0, 2, 4, 6, 8, 10, 12], device=device),
        weights=weights.to(device),
    )


def sequences():
    return KeyedJaggedTensor.from_offsets_sync(
        keys=["f1", "f2"], values=torch.tensor([0, 1, 2, 3]), offsets=torch.tensor([0, 2, 3, 3, 4])
    )


def test_forward_with_meta_device():
    module = PSSEmbeddingBagCollection(bag_tables(), is_weighted=True, device=torch.device("meta"), config=CONFIG)
    out = module(bags("meta"))
    assert out.values().shape == (2, 10) and out.values().device == torch.device("meta")
    assert out.keys() == ["f1", "f3", "f2"] and out.offset_per_key() == [0, 3, 6, 10]


@pytest.mark.parametrize("through", [symbolic_trace, torch.jit.script, lambda m: torch.jit.script(symbolic_trace(m))],
                         ids=["fx", "script", "fx then script"])  # fmt: skip
def test_traced_and_scripted_bags(through):
    module = PSSEmbeddingBagCollection(bag_tables(), is_weighted=True, config=CONFIG)
    found, expected = through(module)(bags()), module(bags())
    assert found.keys() == expected.keys() == ["f1", "f3", "f2"]
    assert torch.equal(found.values(), expected.values())


@pytest.mark.parametrize("need_indices", [False, True])
@pytest.mark.parametrize("through", [symbolic_trace, torch.jit.script], ids=["fx", "script"])
def test_traced_and_scripted_sequences(through, need_indices):
    module = PSSEmbeddingCollection(sequence_tables(), need_indices=need_indices, config=SEQUENCE)
    found, expected = through(module)(sequences()), module(features=sequences())
    assert list(found) == list(expected) == ["f1", "f2@t1", "f2@t2"]
    for name, jagged in expected.items():
        assert torch.equal(found[name].values(), jagged.values())
        assert torch.equal(found[name].lengths(), jagged.lengths())
        if need_indices:
            assert torch.equal(found[name].weights(), jagged.weights())


def test_traced_modules_learn_and_still_refuse():
    module = PSSEmbeddingBagCollection(bag_tables(), is_weighted=True, config=CONFIG)
    symbolic_trace(module)(bags()).values().sum().backward()
    gradient = module.array.grad.clone()
    module.zero_grad()
    module(bags()).values().sum().backward()
    assert torch.equal(gradient, module.array.grad) and gradient.count_nonzero() > 0
    exact = PSSEmbeddingBagCollection(bag_tables(), config=PSSConfig(array_bytes=800, exact=["t1", "t2"]))
    bad = KeyedJaggedTensor.from_lengths_sync(["f1", "f2", "f3"], torch.tensor([1, 2, 11]), torch.tensor([1, 1, 1]))
    with pytest.raises(IndexError, match="id 11 is out of range"):
        symbolic_trace(exact)(bad)


def test_devices():
    with torch.device("meta"):
        module = PSSEmbeddingBagCollection(bag_tables(), config=CONFIG)
    assert module.device == module.array.device == torch.device("meta")
    module = PSSEmbeddingBagCollection(bag_tables(), device=torch.device("meta"), config=CONFIG)
    assert module.device == module.array.device == torch.device("meta")
    assert PSSEmbeddingBagCollection(bag_tables(), config=CONFIG).device == torch.device("cpu")
    sequence = PSSEmbeddingCollection(sequence_tables(), device=torch.device("meta"), config=SEQUENCE)
    assert sequence.array.device == torch.device("meta")


def test_exported_bags():
    module = PSSEmbeddingBagCollection(bag_tables(), is_weighted=True, config=CONFIG)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bags = module

        def forward(self, ids, offsets, weights):
            return self.bags(KeyedJaggedTensor(["f1", "f2", "f3"], ids, weights, offsets=offsets)).values()

    features = bags()
    arguments = (features.values(), features.offsets(), features.weights())
    exported = torch.export.export(Model(), arguments, strict=False)
    assert torch.equal(exported.module()(*arguments), module(features).values())


def test_duplicate_names_fail():
    with pytest.raises(ValueError, match="t1"):
        PSSEmbeddingBagCollection([bag_tables()[0]] * 2, config=CONFIG)
    with pytest.raises(ValueError, match="t1"):
        PSSEmbeddingCollection([sequence_tables()[0]] * 2, config=SEQUENCE)


def hot_module(device="cpu"):
    config = PSSConfig(array_bytes=800, layout="plain", exact=(), width=2, hot={"t1": [1, 2, 4]})
    return PSSEmbeddingBagCollection(bag_tables(), device=device, config=config)


@pytest.mark.parametrize("through", [symbolic_trace, torch.jit.script], ids=["fx", "script"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_what_follows_from_the_layout_is_no_state_of_a_traced_module(through, dtype):
    module = hot_module()
    traced = through(module).to(dtype)
    assert set(traced.state_dict()) == {"array", "projections"} and not list(traced.buffers())
    assert torch.equal(traced(bags()).values(), copy.deepcopy(traced)(bags()).values())
    converted = module.to(dtype)  # projections stay fp32 beside a half array, in a traced module they do not
    torch.testing.assert_close(traced(bags()).values(), converted(bags()).values(), rtol=2e-2, atol=2e-2)


def test_averages_and_empty_copies_of_a_traced_module_read_the_same_rows():
    module, on_meta = symbolic_trace(hot_module()), symbolic_trace(hot_module("meta"))
    averaged = AveragedModel(module, use_buffers=True)
    for _ in range(2):
        averaged.update_parameters(module)
    empty = on_meta.to_empty(device="cpu")
    empty.load_state_dict(module.state_dict())
    for other in (averaged, empty):
        torch.testing.assert_close(other(bags()).values(), module(bags()).values())
