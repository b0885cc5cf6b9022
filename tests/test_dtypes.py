"""half(), bfloat16(), double() and to(): afterwards a module works, as TorchRec's do, and says what it is."""

import copy

import pytest
import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection, PSSEmbeddingCollection

CONVERSIONS = {
    "half": (lambda m: m.half(), torch.float16),
    "bfloat16": (lambda m: m.bfloat16(), torch.bfloat16),
    "double": (lambda m: m.double(), torch.float64),
    "to": (lambda m: m.to("cpu", torch.float16), torch.float16),
    "type": (lambda m: m.type(torch.float64), torch.float64),
    "half and back": (lambda m: m.half().float(), torch.float32),
    "bfloat16, then half": (lambda m: m.bfloat16().half(), torch.float16),
}
KINDS = ["bags", "weighted bags", "two poolings", "sequences"]


def tables(kind):
    rows = {"t": 20, "u": 30}
    if kind == "sequences":
        return [EmbeddingConfig(name=n, num_embeddings=r, embedding_dim=8, feature_names=[n]) for n, r in rows.items()]
    pooling = {"u": PoolingType.MEAN} if kind == "two poolings" else {}
    return [
        EmbeddingBagConfig(
            name=n, num_embeddings=r, embedding_dim=8, feature_names=[n], pooling=pooling.get(n, PoolingType.SUM)
        )
        for n, r in rows.items()
    ]


def module(kind, **choices):
    torch.manual_seed(0)
    config = PSSConfig(**{"layout": "plain", "array_bytes": 1200, "exact": ["t"], "width": {"u": 4}} | choices)
    if kind == "sequences":
        return PSSEmbeddingCollection(tables(kind), config=config)
    return PSSEmbeddingBagCollection(tables(kind), kind == "weighted bags", config=config)


def batch(weights=None):
    lengths = torch.tensor([1, 3, 0, 2, 2, 1])
    ids = torch.tensor([3, 1, 19, 3, 2, 5, 7, 7, 29])
    return KeyedJaggedTensor(["t", "u"], ids, None if weights is None else torch.linspace(0.1, 1, 9).to(weights), lengths=lengths)  # fmt: skip


def read(of, kind):
    found = of(batch(torch.float32 if kind == "weighted bags" else None))
    return torch.cat([j.values() for j in found.values()]) if kind == "sequences" else found.values()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CONVERSIONS)
def test_a_converted_module_works(name, kind):
    convert, dtype = CONVERSIONS[name]
    ours = module(kind)
    projections = ours.projections.detach().clone()
    expected = read(ours, kind)
    expected.sum().backward()
    before = ours.layout.embedding_bytes
    assert convert(ours) is ours
    wide = torch.promote_types(dtype, torch.float32)
    assert ours.array.dtype == ours.array.grad.dtype == dtype and str(dtype) in repr(ours)
    assert ours.projections.dtype == ours.projections.grad.dtype == wide
    assert torch.equal(ours.projections, projections.to(wide))  # never rounded on the way
    itemsize = dtype.itemsize
    assert ours.layout.itemsize == itemsize
    assert ours.layout.embedding_bytes == before + ours.array.numel() * (itemsize - 4)
    assert f"embedding_bytes={ours.layout.embedding_bytes}" in repr(ours)
    ours.zero_grad()
    found = read(ours, kind)
    rounded = dtype.itemsize == 2 or "half" in name
    tolerance = {"rtol": 2e-2, "atol": 2e-3} if rounded else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(found, expected.detach(), **tolerance)
    found.sum().backward()
    assert ours.array.grad.dtype == dtype and ours.array.grad.abs().sum() > 0
    assert ours.materialize("u", torch.arange(3)).dtype == wide
    ours.load_state_dict(copy.deepcopy(ours.state_dict()))
    assert torch.equal(read(copy.deepcopy(ours), kind), found)


@pytest.mark.parametrize("kind", ["bags", "sequences"])
@pytest.mark.parametrize("name", ["half", "double", "bfloat16"])
def test_exact_tables_equal_torchrecs_after_the_same_conversion(name, kind):
    theirs = (EmbeddingCollection if kind == "sequences" else EmbeddingBagCollection)(tables(kind))
    ours = module(kind, array_bytes=1 << 14, exact=["t", "u"], width=None)
    parts = theirs.embeddings if kind == "sequences" else theirs.embedding_bags
    with torch.no_grad():
        for t in ours.layout.tables:
            ours.array[t.base : t.base + t.rows * t.prefix] = parts[t.name].weight.flatten()
    for both in (ours, theirs):
        getattr(both, name)()
    found, expected = read(ours, kind), read(theirs, kind)
    assert found.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("weights", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["half", "double", "bfloat16"])
def test_weights_of_any_dtype(name, weights):
    ours = CONVERSIONS[name][0](module("weighted bags"))
    features = batch(weights)
    features.weights().requires_grad_()
    ours(features).values().sum().backward()
    assert features.weights().grad.dtype == weights and features.weights().grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["half", "double", "bfloat16"])
@pytest.mark.parametrize("optimizer_class", [torch.optim.SGD, torch.optim.Adagrad, torch.optim.Adam])
def test_a_step_in_backward_goes_on_after_a_conversion(optimizer_class, name):
    ours = module("bags")
    optimizer = optimizer_class([ours.array], lr=0.1)
    ours.step_in_backward(optimizer)
    read(ours, "bags").sum().backward()
    CONVERSIONS[name][0](ours)
    for convert in (lambda m: m, lambda m: m.float()):
        convert(ours)
        before = ours.array.detach().clone()
        read(ours, "bags").sum().backward()
        assert torch.isfinite(ours.array).all() and (ours.array != before).any() and ours.array.grad is None
    if optimizer_class is torch.optim.Adam:
        assert float(next(iter(optimizer.state.values()))["step"]) == 3


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.complex64])
def test_what_no_lookup_reads_is_refused(dtype):
    ours = module("bags")
    before = copy.deepcopy(ours.state_dict())
    with pytest.raises(TypeError, match=f"must be fp32, fp16, bf16 or fp64, not {dtype}"):
        ours.to(dtype)
    assert all(torch.equal(v, before[k]) and v.dtype == before[k].dtype for k, v in ours.state_dict().items())
    read(ours, "bags")


def test_from_meta():
    ours = module("bags")
    with torch.device("meta"):
        meta = module("bags").half()
    assert meta.device.type == "meta" and meta.array.dtype == torch.float16
    meta.to_empty(device="cpu")
    assert meta.device.type == "cpu" and meta.projections.dtype == torch.float32
    meta.load_state_dict(ours.half().state_dict())
    assert torch.equal(read(meta, "bags"), read(ours, "bags"))


def test_a_half_precision_state_dict_that_is_assigned():
    ours = module("bags")
    state = {k: v.half() if v.is_floating_point() else v for k, v in ours.state_dict().items()}
    ours.load_state_dict(state, assign=True)
    assert ours.array.dtype == torch.float16 and ours.projections.dtype == torch.float32
    assert ours.layout.itemsize == 2 and read(ours, "bags").isfinite().all()
