"""Our collections against TorchRec's: random cases (tests/compare_collections.py), finite differences, and cases that once went wrong."""

import pytest
import torch
from compare_collections import MODES, compare
from torchrec.fx import symbolic_trace
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection, PSSEmbeddingCollection

CASES, PARTS = 2000, 4
SELECTIONS = {
    "subset": ["unused", "f", "g"],
    "other order": ["g", "f"],
    "as it is": ["f", "g"],
    "key twice": ["f", "g", "f"],
}


@pytest.mark.filterwarnings("ignore:the array is fp16")
@pytest.mark.parametrize("part", range(PARTS))
def test_2000_random_cases(part):
    seen = {}
    for seed in range(part, CASES, PARTS):
        for label in compare(seed):
            seen[label] = seen.get(label, 0) + 1
    kinds = {
        "exact",
        "shared",
        "projected",
        "prefixed",
        "hot",
        "auto",
        "sequences",
        "bags",
        "weighted",
        "processed",
        "half",
        "varying",
    }
    kinds |= {"gradients of weights", "repeated feature", "two poolings", "features that nobody reads", *MODES}
    assert all(seen.get(kind, 0) >= 15 for kind in kinds), seen


def tables(pooling=PoolingType.SUM):
    """One feature is read by two tables."""
    return [
        EmbeddingBagConfig(name="t", num_embeddings=50, embedding_dim=4, feature_names=["f"], pooling=pooling),
        EmbeddingBagConfig(name="u", num_embeddings=10**9, embedding_dim=8, feature_names=["f", "g"]),
    ]


def weighted_module(pooling=PoolingType.SUM):
    torch.manual_seed(0)
    config = PSSConfig(layout="plain", array_bytes=4000, exact=["t"], width={"u": 3}, init_range=1.0)
    return PSSEmbeddingBagCollection(tables(pooling), is_weighted=True, config=config)


def batch(keys, requires_grad=True):
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(0, 4, (len(keys) * 3,), generator=generator)
    total = int(lengths.sum())
    weights = torch.rand(total, generator=generator, requires_grad=requires_grad)
    return KeyedJaggedTensor(keys, torch.randint(0, 50, (total,), generator=generator), weights, lengths=lengths)


def loss_of(module, features):
    out = module(features).values()
    return (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(2))).sum()


@pytest.mark.parametrize("pooling", [PoolingType.SUM, PoolingType.MEAN], ids=lambda p: p.value)
@pytest.mark.parametrize("keys", SELECTIONS.values(), ids=SELECTIONS)
def test_gradients_of_weights_equal_finite_differences(keys, pooling):
    """The output is linear in the weights, so that a step of 1 is as exact as any."""
    module, features = weighted_module(pooling), batch(keys)
    loss = loss_of(module, features)
    loss.backward()
    weights = features.weights()
    for i in range(len(weights)):
        moved = weights.detach().clone()
        moved[i] += 1
        other = KeyedJaggedTensor(keys, features.values(), moved, lengths=features.lengths())
        difference = loss_of(module, other) - loss
        torch.testing.assert_close(weights.grad[i], difference.detach(), rtol=1e-4, atol=1e-4)
    assert weights.grad.abs().sum() > 0


@pytest.mark.parametrize("through", [symbolic_trace, torch.jit.script, torch.compile], ids=["fx", "script", "compile"])
def test_the_same_gradients_through_compilers(through):
    module, features, again = weighted_module(), batch(SELECTIONS["subset"]), batch(SELECTIONS["subset"])
    loss_of(module, features).backward()
    loss_of(through(module), again).backward()
    torch.testing.assert_close(again.weights().grad, features.weights().grad)


def test_of_a_key_that_comes_twice_the_last_is_read():
    theirs = EmbeddingBagCollection(tables()[:1])
    ours = PSSEmbeddingBagCollection(tables()[:1], config=PSSConfig(array_bytes=4000))
    twice = tables()[:1] * 2
    twice[1] = EmbeddingBagConfig(name="v", num_embeddings=50, embedding_dim=4, feature_names=["f"])
    both = PSSEmbeddingBagCollection(twice, config=PSSConfig(array_bytes=4000))
    with torch.no_grad():
        theirs.embedding_bags["t"].weight.copy_(ours.materialize("t", torch.arange(50)))
    features = batch(["f", "f"], requires_grad=False)
    assert torch.equal(ours(features).values(), theirs(features).values())
    last = KeyedJaggedTensor(["f"], features["f"].values(), lengths=features["f"].lengths())
    assert torch.equal(both(features).values(), both(last).values())


@pytest.mark.parametrize("kind", ["bags", "two poolings", "sequences"])
@pytest.mark.parametrize("first", ["inference_mode", "no_grad", "export"])
def test_training_after_a_first_forward_that_takes_no_gradient(kind, first):
    """Validation before training; the batch, too, may be made in inference mode."""
    if kind == "sequences":
        configs = [EmbeddingConfig(name="t", num_embeddings=50, embedding_dim=4, feature_names=["g", "f"])]
        module = PSSEmbeddingCollection(configs, config=PSSConfig(array_bytes=300, width=2))
    else:
        module = weighted_module(PoolingType.MEAN if kind == "two poolings" else PoolingType.SUM)
    keys = ["unused", "f", "g"]
    features = batch(keys, requires_grad=False)

    def forward(ids, weights, lengths):
        found = module(KeyedJaggedTensor(keys, ids, weights, lengths=lengths))
        return torch.cat([j.values() for j in found.values()]) if kind == "sequences" else found.values()

    parts = (features.values(), features.weights(), features.lengths())
    if first == "export":
        wrapped = torch.nn.Module()
        wrapped.inner, wrapped.forward = module, forward
        expected = torch.export.export(wrapped, parts, strict=False).module()(*parts)
    else:
        with getattr(torch, first)():
            expected = forward(*parts)
            module.materialize("t", torch.arange(3))
            features = KeyedJaggedTensor(keys, *(part.clone() for part in parts[:2]), lengths=parts[2].clone())
            features.offsets()
    found = module(features)
    found = torch.cat([j.values() for j in found.values()]) if kind == "sequences" else found.values()
    assert torch.equal(found, expected)
    found.sum().backward()
    assert module.array.grad.abs().sum() > 0
    module.materialize("t", torch.arange(3))


def test_a_second_derivative_says_that_there_is_none():
    module, features = weighted_module(), batch(["f", "g"])
    for inputs in ([module.array], [module.projections], [features.weights()]):
        (gradient,) = torch.autograd.grad(loss_of(module, features) ** 2, inputs, create_graph=True)
        with pytest.raises(NotImplementedError, match="has no second derivative"):
            gradient.square().sum().backward()
    module.step_in_backward(torch.optim.SGD([module.array], lr=0.1))
    (gradient,) = torch.autograd.grad(loss_of(module, features) ** 2, [features.weights()], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.square().sum().backward()


def test_forward_mode_says_that_there_is_none():
    module, features = weighted_module(), batch(["f", "g"], requires_grad=False)

    def read(weights):
        return module(KeyedJaggedTensor(["f", "g"], features.values(), weights, lengths=features.lengths())).values()

    for stepping in (False, True):
        if stepping:
            module.step_in_backward(torch.optim.SGD([module.array], lr=0.1))
        with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
            torch.func.jvp(read, (features.weights(),), (torch.ones_like(features.weights()),))
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(features.weights(), torch.ones_like(features.weights()))
            with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
                read(dual)


def test_an_exported_module_gives_weights_their_gradient():
    """Also where it was exported with weights that need none."""
    module, keys = weighted_module(), SELECTIONS["subset"]

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bags = module

        def forward(self, ids, lengths, weights):
            return self.bags(KeyedJaggedTensor(keys, ids, weights, lengths=lengths)).values()

    plain, features, again = batch(keys, requires_grad=False), batch(keys), batch(keys)
    exported = torch.export.export(Model(), (plain.values(), plain.lengths(), plain.weights()), strict=False).module()
    slopes = torch.randn(3, 20, generator=torch.Generator().manual_seed(2))
    (exported(again.values(), again.lengths(), again.weights()) * slopes).sum().backward()
    (module(features).values() * slopes).sum().backward()
    torch.testing.assert_close(again.weights().grad, features.weights().grad)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_compiled_module_whose_first_call_is_in_inference_mode(device):
    """Built on "meta", it has made nothing for the CPU before that call."""
    torch.manual_seed(0)
    module = PSSEmbeddingBagCollection(tables(), device=device, config=PSSConfig(array_bytes=4000))
    module.to_empty(device="cpu").reset_parameters()
    compiled = torch.compile(module, backend="aot_eager")
    with torch.inference_mode():
        compiled(batch(["f", "g"], requires_grad=False))
    for again in (module, compiled):
        module.zero_grad()
        again(batch(["f", "g"], requires_grad=False)).values().sum().backward()
        assert module.array.grad.abs().sum() > 0
