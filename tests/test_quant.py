"""Collections that only read: what they return, how TorchRec's own inference path finds them, scripted and exported."""

import io

import pytest
import torch
from torch import nn
from torchrec.inference.modules import PredictModule, quantize_embeddings, shard_quant_model
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection, PSSEmbeddingCollection, quant
from torchrec_pss.ops.packed import pack
from torchrec_pss.ops.quantize import PROJECTION_BITS, quantize


def bags(bits=4, poolings=(PoolingType.SUM,) * 3, weighted=False, data_type=DataType.FP32):
    tables = [
        EmbeddingBagConfig(
            name=n, num_embeddings=rows, embedding_dim=16, feature_names=features, pooling=p, data_type=data_type
        )
        for (n, rows, features), p in zip(
            (("a", 50, ["a"]), ("b", 10**6, ["b", "c"]), ("d", 10**5, ["d"])), poolings, strict=True
        )
    ]
    config = PSSConfig(array_bytes=30_000, bits=bits, exact=["a"], hot={"b": range(9)}, width={"b": 4}, bias=True)
    torch.manual_seed(1)
    return PSSEmbeddingBagCollection(tables, weighted, config=config)


def batch(weighted=False, keys=("a", "b", "c", "d"), size=5):
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(0, 4, (len(keys) * size,), generator=generator)
    values = torch.randint(0, 50, (int(lengths.sum()),), generator=generator)
    weights = torch.rand(len(values), generator=generator) if weighted else None
    return KeyedJaggedTensor(list(keys), values, weights, lengths=lengths)


@pytest.mark.parametrize("bits", [32, 8, 4, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_they_read_what_was_trained(bits, weighted):
    trained = bags(bits, weighted=weighted)
    reads = quant.PSSEmbeddingBagCollection(trained)
    for keys in (("a", "b", "c", "d"), ("c", "d", "x", "b", "a")):
        found, expected = reads(batch(weighted, keys)), trained(batch(weighted, keys))
        assert torch.equal(found.values(), expected.values()) and found.keys() == expected.keys()
        assert found.length_per_key() == expected.length_per_key() and not found.values().requires_grad
    assert not list(reads.parameters()) and reads.layout == trained.layout and reads.is_weighted() == weighted
    stored = reads.array.elements.nbytes + (0 if reads.array.scales is None else reads.array.scales.nbytes)
    assert stored <= trained.layout.array_bytes + 8 + 64


def test_means_beside_sums_and_halves():
    mixed = (PoolingType.MEAN, PoolingType.SUM, PoolingType.MEAN)
    for weighted in (False, True):
        trained = bags(poolings=mixed, weighted=weighted)
        reads = quant.PSSEmbeddingBagCollection(trained)
        for size in (5, 0):
            found, expected = (m(batch(weighted, size=size)).values() for m in (reads, trained))
            torch.testing.assert_close(found, expected.detach(), rtol=1e-6, atol=1e-7)
    means = bags(poolings=(PoolingType.MEAN,) * 3)
    assert torch.equal(quant.PSSEmbeddingBagCollection(means)(batch()).values(), means(batch()).values())
    halves = bags(32, data_type=DataType.FP16)
    same = quant.PSSEmbeddingBagCollection(halves, bits=16)
    assert same.array.elements.dtype == torch.float16 and torch.equal(same(batch()).values(), halves(batch()).values())


@pytest.mark.parametrize("pooling", [PoolingType.SUM, PoolingType.MEAN], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_ids_without_a_row_are_an_error_or_the_mean(pooling, weighted):
    trained = bags(poolings=(pooling,) * 3, weighted=weighted)
    given = batch(weighted)
    known = quant.PSSEmbeddingBagCollection(trained, out_of_range="mean")
    torch.testing.assert_close(known(given).values(), trained(given).values().detach(), rtol=1e-5, atol=1e-6)
    odd = KeyedJaggedTensor(
        ["a", "b", "c", "d"],
        torch.tensor([3, 50, -1, 7, -5, 9]),
        torch.full((6,), 0.5) if weighted else None,
        lengths=torch.tensor([3, 0, 1, 0, 1, 0, 1, 0]),
    )
    with pytest.raises(IndexError, match="out of range"):
        quant.PSSEmbeddingBagCollection(trained)(odd)
    rows = trained.materialize("a", torch.arange(50))
    expected = (rows[3] + 2 * rows.mean(0)) * (0.5 if weighted else 1) / (3 if pooling == PoolingType.MEAN else 1)
    found = known(odd).values()
    torch.testing.assert_close(found[0, :16], expected)
    good = KeyedJaggedTensor(
        odd.keys(), torch.tensor([3, 3, 3, 7, -5, 9]), odd.weights_or_none(), lengths=odd.lengths()
    )
    torch.testing.assert_close(found[:, 16:], trained(good).values().detach()[:, 16:])  # hashed tables take any id
    edges = KeyedJaggedTensor(
        odd.keys(), torch.tensor([3, 3, 3, 2**63 - 1, -(2**63), 0]), odd.weights_or_none(), lengths=odd.lengths()
    )
    torch.testing.assert_close(known(edges).values(), trained(edges).values().detach())
    if weighted:
        half = KeyedJaggedTensor(odd.keys(), odd.values(), odd.weights().half(), lengths=odd.lengths())
        assert torch.equal(known(half).values(), found)
    assert known(batch(weighted, size=0)).values().shape == (0, 64)
    with pytest.raises(ValueError, match="out_of_range must be one of"):
        quant.PSSEmbeddingBagCollection(trained, out_of_range="zero")


def test_other_bits_than_those_it_was_trained_in():
    trained = bags(32)
    reads = quant.PSSEmbeddingBagCollection(trained, bits=4)
    with torch.no_grad():
        (
            trained.array.copy_(quantize(trained.array, 4)),
            trained.projections.copy_(quantize(trained.projections, PROJECTION_BITS)),
        )
    assert torch.equal(reads(batch()).values(), trained(batch()).values())
    assert torch.equal(reads.array.elements, pack(trained.array.detach(), 4)[0])
    small = quant.PSSEmbeddingBagCollection(trained, output_dtype=torch.bfloat16)
    assert small(batch()).values().dtype == torch.bfloat16


def test_what_cannot_be_read():
    with pytest.raises(ValueError, match="bits must be one of"):
        quant.PSSEmbeddingBagCollection(bags(), bits=5)
    tables = bags().embedding_bag_configs()
    with pytest.raises(ValueError, match="on the meta device"):
        quant.PSSEmbeddingBagCollection(
            PSSEmbeddingBagCollection(tables, device="meta", config=PSSConfig(array_bytes=9000))
        )
    for value, bits, said in ((float("nan"), None, "not finite"), (1e6, 16, "not finite in fp16")):
        broken = bags()
        with torch.no_grad():
            broken.array[7] = value
        with pytest.raises(ValueError, match=said):
            quant.PSSEmbeddingBagCollection(broken, bits=bits)


KINDS = {
    PSSEmbeddingBagCollection: quant.PSSEmbeddingBagCollection,
    PSSEmbeddingCollection: quant.PSSEmbeddingCollection,
}


@pytest.mark.parametrize(
    ("dtype", "bits"), [(torch.qint8, 8), (torch.quint4x2, 4), (torch.float16, 16), (torch.float32, 32)]
)
def test_torchrecs_quantize_embeddings_finds_them(dtype, bits):
    model = nn.ModuleDict({"ebc": bags(32), "dense": nn.Linear(2, 2)})
    given = {"additional_qconfig_spec_keys": list(KINDS), "additional_mapping": KINDS, "output_dtype": torch.float16}
    found = quantize_embeddings(model, dtype, inplace=False, **given)
    assert type(found["ebc"]) is quant.PSSEmbeddingBagCollection and type(found["dense"]) is nn.Linear
    expected = quant.PSSEmbeddingBagCollection(model["ebc"], bits=bits, output_dtype=torch.float16)(batch())
    assert torch.equal(found["ebc"](batch()).values(), expected.values()) and expected.values().dtype == torch.float16
    with pytest.raises(ValueError, match="a shared array is stored as one of"):
        quantize_embeddings(model, torch.qint32, inplace=False, **given)


@pytest.mark.parametrize("given", [{}, {"compute_device": "cpu", "sharding_device": "cpu"}], ids=["default", "cpu"])
def test_torchrecs_shard_quant_model_leaves_them_whole(given):
    """There is nothing to shard: the plan is empty, and each process has the array."""
    model = nn.ModuleDict({"ebc": quant.PSSEmbeddingBagCollection(bags()), "dense": nn.Linear(2, 2)})
    expected = model["ebc"](batch()).values()
    sharded, plan = shard_quant_model(model, world_size=2, **given)
    assert not plan.plan and type(sharded["ebc"]) is quant.PSSEmbeddingBagCollection
    assert torch.equal(sharded["ebc"](batch()).values(), expected) and sharded["dense"].weight.device.type == "cpu"


def test_sequences():
    tables = [EmbeddingConfig(name=n, num_embeddings=5000, embedding_dim=8, feature_names=[n]) for n in "abcd"]
    trained = PSSEmbeddingCollection(tables, config=PSSConfig(array_bytes=9000, bits=4), need_indices=True)
    reads = quant.PSSEmbeddingCollection(trained)
    for module in (reads, torch.jit.script(reads)):
        found, expected = module(batch()), trained(batch())
        assert found.keys() == expected.keys()
        for name, jagged in expected.items():
            assert torch.equal(found[name].values(), jagged.values()) and torch.equal(
                found[name].lengths(), jagged.lengths()
            )
            assert torch.equal(found[name].weights(), jagged.weights())
    assert reads.embedding_dim() == 8 and reads.embedding_names_by_table() == trained.embedding_names_by_table()


@pytest.mark.parametrize(
    "poolings", [(PoolingType.SUM,) * 3, (PoolingType.MEAN, PoolingType.SUM, PoolingType.MEAN)], ids=["sum", "mixed"]
)
def test_scripted_they_are_saved_and_loaded(poolings):
    reads = quant.PSSEmbeddingBagCollection(bags(poolings=poolings))
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(reads), file)
    file.seek(0)
    assert torch.equal(torch.jit.load(file)(batch()).values(), reads(batch()).values())


def test_torchrecs_predict_module_takes_them():
    class Predict(PredictModule):
        def predict_forward(self, given):
            return {
                "read": self.predict_module(
                    KeyedJaggedTensor(["a", "b", "c", "d"], given["values"], lengths=given["lengths"])
                ).values()
            }

    reads = quant.PSSEmbeddingBagCollection(bags())
    predict = Predict(torch.jit.script(reads), device="cpu")
    found = predict({"values": batch().values(), "lengths": batch().lengths()})["read"]
    assert torch.equal(found, reads(batch()).values()) and not found.requires_grad
    assert predict.state_dict().keys() == reads.state_dict().keys()


def test_all_that_it_keeps_is_where_the_collection_is():
    trained = bags(poolings=(PoolingType.SUM, PoolingType.MEAN, PoolingType.SUM))
    with torch.device("meta"):  # whatever the default is
        read = quant.PSSEmbeddingBagCollection(trained, out_of_range="mean")
    assert {buffer.device.type for buffer in read.buffers()} == {"cpu"}
