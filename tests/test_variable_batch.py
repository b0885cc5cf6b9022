"""VBE: bags that stand once and are read by several samples give what they would if each sample had its own."""

import pytest
import torch
from torchrec.fx import symbolic_trace
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection, PSSEmbeddingCollection

BATCH = 6
FEATURES = ["x", "y", "z"]
STRIDES = {"x": 3, "y": 1, "z": 6}  # distinct bags


def tables(pooling=PoolingType.SUM):
    return [
        EmbeddingBagConfig(name="a", num_embeddings=30, embedding_dim=4, feature_names=["z", "x"], pooling=pooling),
        EmbeddingBagConfig(name="b", num_embeddings=10**9, embedding_dim=8, feature_names=["y"]),
        EmbeddingBagConfig(name="c", num_embeddings=40, embedding_dim=4, feature_names=["x"]),
    ]


def batches(weighted, seed=0):
    """A KJT with variable batch, and the same samples with a bag each."""
    generator = torch.Generator().manual_seed(seed)
    inverse = torch.stack([torch.randint(STRIDES[f], (BATCH,), generator=generator) for f in FEATURES])
    lengths = [torch.randint(0, 4, (STRIDES[f],), generator=generator) for f in FEATURES]
    bags = [
        [(torch.randint(30, (n,), generator=generator), torch.rand(n, generator=generator)) for n in of.tolist()]
        for of in lengths
    ]
    flat = [bag for of in bags for bag in of]
    spread = [bags[f][row] for f in range(len(FEATURES)) for row in inverse[f].tolist()]

    def parts(chosen):
        return torch.cat([ids for ids, _ in chosen]), torch.cat([w for _, w in chosen]) if weighted else None

    values, weights = parts(flat)
    # Their order need not be the KJT's.
    variable = KeyedJaggedTensor(
        FEATURES,
        values,
        weights,
        lengths=torch.cat(lengths),
        stride_per_key_per_rank=[[STRIDES[f]] for f in FEATURES],
        inverse_indices=(["z", "x", "y"], inverse[[2, 0, 1]]),
    )
    values, weights = parts(spread)
    return variable, KeyedJaggedTensor(FEATURES, values, weights, lengths=torch.tensor([len(i) for i, _ in spread]))


@pytest.mark.parametrize("pooling", [PoolingType.SUM, PoolingType.MEAN], ids=lambda p: p.value)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_variable_batches_equal_expanded_ones(pooling, weighted):
    module = PSSEmbeddingBagCollection(
        tables(pooling), is_weighted=weighted, config=PSSConfig(array_bytes=2000, exact=["a"], width={"b": 4})
    )
    variable, expanded = batches(weighted)
    assert variable.variable_stride_per_key() and not expanded.variable_stride_per_key()
    found, expected = module(variable), module(expanded)
    assert found.keys() == expected.keys() and found.values().shape == (BATCH, 20)
    torch.testing.assert_close(found.values(), expected.values())
    slopes = torch.randn(BATCH, 20, generator=torch.Generator().manual_seed(1))
    gradients = []
    for output in (found, expected):
        module.zero_grad()
        (output.values() * slopes).sum().backward()
        gradients.append([p.grad.clone() for p in module.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-6)
    assert gradients[0][0].count_nonzero() > 10


def test_a_variable_batch_made_in_inference_mode_is_trained_on():
    module = PSSEmbeddingBagCollection(tables(), config=PSSConfig(array_bytes=2000, exact=["a"], width={"b": 4}))
    with torch.inference_mode():
        variable, _ = batches(False)
        expected = module(variable).values()
    found = module(variable).values()
    assert torch.equal(found, expected)
    found.sum().backward()
    assert module.array.grad.count_nonzero() > 10


def test_variable_batches_need_inverse_indices():
    module = PSSEmbeddingBagCollection(tables(), config=PSSConfig(array_bytes=2000))
    variable, _ = batches(False)
    bare = KeyedJaggedTensor(
        FEATURES, variable.values(), lengths=variable.lengths(), stride_per_key_per_rank=[[3], [1], [6]]
    )
    with pytest.raises(ValueError, match="batch sizes \\[3, 1, 6\\].*need a KJT with inverse_indices"):
        module(bare)
    some = KeyedJaggedTensor(
        FEATURES,
        variable.values(),
        lengths=variable.lengths(),
        stride_per_key_per_rank=[[3], [1], [6]],
        inverse_indices=(["x", "y"], torch.zeros(2, BATCH, dtype=torch.int64)),
    )
    with pytest.raises(ValueError, match="there are none of the features \\['z'\\]"):
        module(some)


def test_sequences_of_variable_batches_equal_torchrecs():
    variable, _ = batches(False)
    configs = [
        EmbeddingConfig(name=name, num_embeddings=50, embedding_dim=4, feature_names=features)
        for name, features in (("s", ["z", "x"]), ("t", ["y", "x"]))
    ]
    bare = KeyedJaggedTensor(
        FEATURES, variable.values() % 50, lengths=variable.lengths(), stride_per_key_per_rank=[[3], [1], [6]]
    )
    module = PSSEmbeddingCollection(configs, need_indices=True, config=PSSConfig(array_bytes=4000))
    reference = EmbeddingCollection(configs, need_indices=True)
    with torch.no_grad():
        for table in ("s", "t"):
            reference.embeddings[table].weight.copy_(module.materialize(table, torch.arange(50)))
    found, expected = module(bare), reference(bare)
    assert list(found) == list(expected) == ["z", "x@s", "y", "x@t"]
    for name, jagged in expected.items():
        assert torch.equal(found[name].values(), jagged.values()) and jagged.values().numel() > 0
        assert torch.equal(found[name].lengths(), jagged.lengths())
        assert torch.equal(found[name].weights(), jagged.weights())


@pytest.mark.parametrize("through", [symbolic_trace, torch.jit.script], ids=["fx", "script"])
def test_traced_bags_refuse_variable_batches(through):
    module = PSSEmbeddingBagCollection(tables(), config=PSSConfig(array_bytes=2000))
    variable, expanded = batches(False)
    traced = through(module)
    assert torch.equal(traced(expanded).values(), module(expanded).values())
    with pytest.raises((ValueError, torch.jit.Error), match="takes no batch size that varies by feature"):
        traced(variable)
