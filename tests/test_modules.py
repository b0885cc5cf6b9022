"""The collections: against TorchRec's on exact tables, against the reference on shared ones, and bad input."""

import copy

import pytest
import torch
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection, PSSEmbeddingCollection
from torchrec_pss.ops import HASH_MIX64, PoolingMode, feature_matrix, reference


def bag_tables(pooling=PoolingType.SUM, **common):
    """Shared feature g, two features a table, mixed dims."""
    return [
        EmbeddingBagConfig(
            name="t1", num_embeddings=20, embedding_dim=8, feature_names=["f1", "g"], pooling=pooling, **common
        ),
        EmbeddingBagConfig(name="t2", num_embeddings=30, embedding_dim=4, feature_names=["f2"], **common),
        EmbeddingBagConfig(name="t3", num_embeddings=10, embedding_dim=16, feature_names=["f3", "g"], **common),
    ]


def features(batch_size=5, high=10, seed=0, weighted=False, keys=("g", "unused", "f3", "f2", "f1")):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 4, (len(keys) * batch_size,), generator=generator)
    total = int(lengths.sum())
    return KeyedJaggedTensor.from_lengths_sync(
        list(keys),
        torch.randint(0, high, (total,), generator=generator),
        lengths,
        torch.rand(total, generator=generator) if weighted else None,
    )


def copy_tables_into_array(module, tables):
    """Puts full tables into the exact regions of a module."""
    with torch.no_grad():
        for t in module.layout.tables:
            assert t.is_exact
            module.array[t.base : t.base + t.rows * t.prefix] = tables[t.name].weight.flatten()


@pytest.mark.parametrize("pooling", [PoolingType.SUM, PoolingType.MEAN])
@pytest.mark.parametrize("weighted", [False, True])
def test_exact_tables_equal_torchrecs_bags(pooling, weighted):
    if weighted and pooling == PoolingType.MEAN:
        pytest.skip("torch.nn.EmbeddingBag has no weighted mean")
    theirs = EmbeddingBagCollection(tables=bag_tables(pooling), is_weighted=weighted)
    ours = PSSEmbeddingBagCollection.from_embedding_bag_collection(theirs, PSSConfig(array_bytes=1 << 16))
    assert ours.is_weighted() == weighted and ours.embedding_bag_configs() == theirs.embedding_bag_configs()
    copy_tables_into_array(ours, theirs.embedding_bags)
    kjt = features(weighted=weighted)
    expected, actual = theirs(kjt), ours(kjt)
    assert actual.keys() == expected.keys() == ["f1", "g@t1", "f2", "f3", "g@t3"]
    assert actual.length_per_key() == expected.length_per_key()
    torch.testing.assert_close(actual.values(), expected.values())
    (expected.values() ** 2).sum().backward()
    (actual.values() ** 2).sum().backward()
    for t in ours.layout.tables:
        region = ours.array.grad[t.base : t.base + t.rows * t.prefix].view(t.rows, t.prefix)
        torch.testing.assert_close(region, theirs.embedding_bags[t.name].weight.grad)


def test_exact_tables_equal_torchrecs_sequences():
    tables = [
        EmbeddingConfig(name="t1", num_embeddings=20, embedding_dim=8, feature_names=["f1", "g"]),
        EmbeddingConfig(name="t2", num_embeddings=30, embedding_dim=8, feature_names=["f2", "g"]),
    ]
    theirs = EmbeddingCollection(tables=tables, need_indices=True)
    ours = PSSEmbeddingCollection(tables, need_indices=True, config=PSSConfig(array_bytes=1 << 16))
    copy_tables_into_array(ours, theirs.embeddings)
    kjt = features()
    expected, actual = theirs(kjt), ours(kjt)
    assert list(actual) == list(expected)
    for name, jagged in expected.items():
        torch.testing.assert_close(actual[name].values(), jagged.values())
        assert torch.equal(actual[name].lengths(), jagged.lengths())
        assert torch.equal(actual[name].weights(), jagged.weights())


def test_shared_projected_and_prefixed_rows_equal_the_reference():
    tables = bag_tables()
    config = PSSConfig(
        layout="plain", array_bytes=20_000, exact=["t2"], width={"t3": 6, "t1": 4}, prefix={"t3": 2}, block_size=2
    )
    module = PSSEmbeddingBagCollection(tables, config=config)
    kjt = features()
    out = module(kjt).to_dict()
    for name, key in (("t1", "f1"), ("t2", "f2"), ("t3", "g@t3")):
        t = next(t for t in module.layout.tables if t.name == name)
        bags = kjt[key.split("@")[0]]
        row = feature_matrix([t.feature_row()], torch.device("cpu"))
        read, _ = reference.lookup(
            module.array,
            row,
            module.layout.hot_keys,
            torch.zeros(0),
            bags.values(),
            bags.offsets(),
            None,
            t.width,
            0,
            PoolingMode.SUM,
            HASH_MIX64,
            module.layout.sign,
        )
        expected = read @ module.projection(name) if t.is_projected else read
        torch.testing.assert_close(out[key], expected)
    assert module.layout.embedding_bytes <= 20_000
    assert module.layout.embedding_bytes == sum(p.numel() * 4 for p in module.parameters())


def test_mixed_pooling_keeps_the_order_of_keys():
    tables = bag_tables()
    tables[1].pooling = PoolingType.MEAN
    config = PSSConfig(array_bytes=1000)
    mixed = PSSEmbeddingBagCollection(tables, config=config)
    summed = PSSEmbeddingBagCollection(bag_tables(), config=config)
    summed.load_state_dict(mixed.state_dict())
    kjt = features()
    lengths = kjt["f2"].lengths().clamp(min=1)[:, None]
    got, sums = mixed(kjt), summed(kjt).to_dict()
    assert got.keys() == list(sums)
    for key, value in got.to_dict().items():
        torch.testing.assert_close(value, sums[key] / lengths if key == "f2" else sums[key])


@pytest.mark.parametrize("data_type, dtype", [(DataType.FP16, torch.float16), (DataType.BF16, torch.bfloat16)])
def test_low_precision_arrays(data_type, dtype):
    module = PSSEmbeddingBagCollection(
        bag_tables(data_type=data_type), config=PSSConfig(layout="plain", array_bytes=1000, exact=())
    )
    assert module.array.dtype == dtype and module.array.numel() == 1000 // 2 // 16 * 16
    out = module(features()).values()
    assert out.dtype == torch.float32
    out.sum().backward()
    assert module.array.grad.dtype == dtype


def test_any_id_and_any_number_of_rows():
    """26 tables of 10^11 rows cost what their array costs; 10^12, -1 and the extremes are ids."""
    tables = [
        EmbeddingBagConfig(name=f"t{i}", num_embeddings=10**11, embedding_dim=64, feature_names=[f"f{i}"])
        for i in range(26)
    ]
    module = PSSEmbeddingBagCollection(tables, config=PSSConfig(array_bytes=1 << 20))
    assert sum(p.numel() * p.element_size() for p in module.parameters()) <= 1 << 20
    ids = torch.tensor([10**12, -1, (1 << 63) - 1, -(1 << 63)])
    kjt = KeyedJaggedTensor.from_lengths_sync(
        [f"f{i}" for i in range(26)], ids.repeat(26), torch.ones(104, dtype=torch.int64)
    )
    out = module(kjt).values()
    assert out.shape == (4, 26 * 64) and len(out.unique(dim=0)) == 4
    out.sum().backward()
    assert module.array.grad.abs().sum() > 0


def test_int32_ids_equal_int64_ids():
    module = PSSEmbeddingBagCollection(bag_tables(), config=PSSConfig(array_bytes=1000))
    kjt = features()
    narrow = KeyedJaggedTensor(kjt.keys(), kjt.values().int(), lengths=kjt.lengths())
    assert torch.equal(module(kjt).values(), module(narrow).values())


def test_meta_device_allocates_nothing_and_loads():
    config = PSSConfig(array_bytes=1000, width=2)
    meta = PSSEmbeddingBagCollection(bag_tables(), device="meta", config=config)
    assert all(p.is_meta for p in meta.parameters())
    real = PSSEmbeddingBagCollection(bag_tables(), config=config)
    meta.load_state_dict(real.state_dict(), assign=True)
    assert torch.equal(meta(features()).values(), real(features()).values())
    assert copy.deepcopy(real).layout == real.layout


def test_module_compiles_to_one_graph():
    module = PSSEmbeddingBagCollection(bag_tables(), config=PSSConfig(array_bytes=1000, width=2))
    compiled = torch.compile(lambda kjt: module(kjt).values(), fullgraph=True)
    torch.testing.assert_close(compiled(features()), module(features()).values())


def test_addresses_do_not_depend_on_order_or_on_other_shared_tables():
    config = PSSConfig(layout="plain", array_bytes=4096, exact=["t2"])
    first = PSSEmbeddingBagCollection(bag_tables(), config=config)
    more = [
        *reversed(bag_tables()),
        EmbeddingBagConfig(name="new", num_embeddings=9, embedding_dim=8, feature_names=["n"]),
    ]
    second = PSSEmbeddingBagCollection(more, config=config)
    with torch.no_grad():
        second.array.copy_(first.array)
    kjt = features(keys=("g", "f3", "f2", "f1", "n"))
    one, two = first(kjt).to_dict(), second(kjt).to_dict()
    for key, value in one.items():
        assert torch.equal(value, two[key])


def test_initialisation():
    module = PSSEmbeddingBagCollection(
        bag_tables(), config=PSSConfig(layout="plain", array_bytes=1 << 14, exact=(), init_range=0.5, width={"t3": 4})
    )
    # The projection keeps lengths and dot products of its table's reads.
    projection = module.projection("t3")
    with pytest.raises(ValueError, match="table 't1' is read at its embedding_dim"):
        module.projection("t1")
    torch.testing.assert_close(projection @ projection.T, torch.eye(4))
    assert 0.45 < module.array.abs().max() <= 0.5
    default = PSSEmbeddingBagCollection(bag_tables(), config=PSSConfig(layout="plain", array_bytes=1 << 14, exact=()))
    assert 0.045 < default.array.abs().max() <= 0.05


def test_projections_start_before_a_dot_product():
    """A coordinate counts as often as it is repeated; those that are shared beside a prefix are unread."""
    dot = PSSConfig(
        layout="plain", array_bytes=1 << 14, exact=(), head="dot", width={"t1": 3, "t3": 4}, prefix={"t1": 2}
    )
    module = PSSEmbeddingBagCollection(bag_tables(), config=dot)
    torch.testing.assert_close(module.projection("t3"), torch.eye(4).repeat(1, 4))
    torch.testing.assert_close(module.projection("t1")[:2], torch.eye(3).repeat(1, 3)[:2, :8])
    assert not module.projection("t1")[2:].any()


def test_layout_prints_every_table():
    module = PSSEmbeddingBagCollection(
        bag_tables(), config=PSSConfig(layout="plain", array_bytes=1500, exact_fraction=0.5)
    )
    lines = str(module.layout).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["t1", "t2", "t3"]
    assert {line.split()[1] for line in lines[2:]} == {"shared", "exact"}


BAD_CONFIGS = {
    "array_bytes = 8 is too small.*smallest.*is 64 bytes": dict(array_bytes=8),
    "array_bytes must be positive": dict(array_bytes=0),
    "table 't1': block_size 3 does not divide its 8 shared coordinates; 1 does": dict(array_bytes=1000, block_size=3),
    "exact names table 'nope'": dict(array_bytes=1000, exact=["nope"]),
    "width names table 'nope'": dict(array_bytes=1000, width={"nope": 2}),
    "table 't2': width must be in": dict(array_bytes=1000, width={"t2": 5}),
    "table 't1': prefix must be in": dict(array_bytes=10_000, prefix={"t1": 9}),
    "hash must be one of": dict(array_bytes=1000, hash="md5"),
    "exact must be": dict(array_bytes=1000, exact="none"),
    'hash="robe" needs the block_size': dict(array_bytes=1000, hash="robe"),
    'hash="robe" has no exact tables': dict(array_bytes=1000, hash="robe", width=2),
}


@pytest.mark.parametrize("message", BAD_CONFIGS)
def test_bad_configs(message):
    with pytest.raises(ValueError, match=message):
        PSSEmbeddingBagCollection(bag_tables(), config=PSSConfig(**{"layout": "plain"} | BAD_CONFIGS[message]))


@pytest.mark.parametrize(
    "choices", [{}, {"width": 2}, {"prefix": {"t1": 2}}, {"exact": ["t2"]}, {"exact_fraction": 1.0}]
)
def test_the_smallest_budget_named_works_and_one_less_does_not(choices):
    def build(array_bytes):
        return PSSEmbeddingBagCollection(
            bag_tables(), config=PSSConfig(array_bytes=array_bytes, layout="plain", **choices)
        )

    with pytest.raises(ValueError, match="too small") as error:
        build(1)
    smallest = int(str(error.value).split()[-2])
    build(smallest)
    with pytest.raises(ValueError, match="too small"):
        build(smallest - 1)


def test_bad_tables():
    config = PSSConfig(array_bytes=1000)
    twice = [*bag_tables(), bag_tables()[0]]
    with pytest.raises(ValueError, match="Duplicate table name t1"):
        PSSEmbeddingBagCollection(twice, config=config)
    mixed = bag_tables()
    mixed[1].data_type = DataType.FP16
    with pytest.raises(ValueError, match="table 't2': data_type"):
        PSSEmbeddingBagCollection(mixed, config=config)
    with pytest.raises(ValueError, match="table 't1': data_type must be"):
        PSSEmbeddingBagCollection(bag_tables(data_type=DataType.INT8), config=config)
    with pytest.raises(ValueError, match="at least one table"):
        PSSEmbeddingBagCollection([], config=config)
    dims = [EmbeddingConfig(name=f"t{d}", num_embeddings=9, embedding_dim=d) for d in (4, 8)]
    with pytest.raises(ValueError, match="table 't8': embedding_dim 8 differs"):
        PSSEmbeddingCollection(dims, config=config)


def test_bad_features():
    module = PSSEmbeddingBagCollection(bag_tables(), config=PSSConfig(array_bytes=1 << 16))
    with pytest.raises(KeyError, match="feature 'f3' of table 't3'"):
        module(features(keys=("g", "f2", "f1")))
    with pytest.raises(IndexError, match=r"table 't3', feature 'f3': id 17 is out of range \[0, 10\)"):
        module(
            KeyedJaggedTensor.from_lengths_sync(
                ["f1", "g", "f2", "f3"], torch.tensor([17, 9, 17, 17]), torch.ones(4).int()
            )
        )
    kjt = features()
    with pytest.raises(ValueError, match="must be int32 or int64, got torch.float32"):
        module(KeyedJaggedTensor(kjt.keys(), kjt.values().float(), lengths=kjt.lengths()))
    with pytest.raises(ValueError, match="on meta, but the array is on cpu"):
        module(KeyedJaggedTensor(kjt.keys(), kjt.values().to("meta"), offsets=kjt.offsets(), stride=5))
    offsets = kjt.offsets().clone()
    offsets[2] = offsets[-1]
    with pytest.raises(IndexError, match=r"feature 'g': offsets must not decrease: offsets\[2\]"):
        module(KeyedJaggedTensor(kjt.keys(), kjt.values(), offsets=offsets, stride=5))
    with pytest.raises(IndexError, match=f"end at the {len(kjt.values()) - 1} ids"):
        module(KeyedJaggedTensor(kjt.keys(), kjt.values()[1:], offsets=kjt.offsets(), stride=5))
    with pytest.raises(ValueError, match="have 2 weights for"):
        module(KeyedJaggedTensor(kjt.keys(), kjt.values(), torch.ones(2), lengths=kjt.lengths()))
    weighted = PSSEmbeddingBagCollection(bag_tables(), is_weighted=True, config=PSSConfig(array_bytes=1 << 16))
    with pytest.raises(ValueError, match="module is weighted, but the KJT"):
        weighted(kjt)


def test_robe_reads_the_authors_array():
    tables = [
        EmbeddingBagConfig(name="a", num_embeddings=50, embedding_dim=8, feature_names=["f1"]),
        EmbeddingBagConfig(name="b", num_embeddings=70, embedding_dim=8, feature_names=["f2"]),
    ]
    module = PSSEmbeddingBagCollection(tables, config=PSSConfig(array_bytes=4 * 1001, hash="robe", block_size=4))
    assert module.array.numel() == 1001
    kjt = KeyedJaggedTensor.from_lengths_sync(["f1", "f2"], torch.tensor([3, 3]), torch.tensor([1, 1]))
    out = module(kjt).to_dict()
    for key, first_row in (("f1", 0), ("f2", 50)):
        v = first_row + 3
        places = [((871205356 * v + 1825252241 * (j // 4) + 634329019) % 2038074743) % 998 + j % 4 for j in range(8)]
        assert torch.equal(out[key][0], module.array[places])
    with pytest.raises(IndexError, match="table 'b', feature 'f2': id 70"):
        module(KeyedJaggedTensor.from_lengths_sync(["f1", "f2"], torch.tensor([3, 70]), torch.tensor([1, 1])))


def test_wide_exact_rows_before_a_dot_product_are_full_rows_that_end_in_zeros():
    tables = [EmbeddingConfig(name=n, num_embeddings=50, embedding_dim=16, feature_names=[n]) for n in "ab"]

    def made(width, **choices):
        given = {"layout": "plain", "exact": ["a", "b"], "head": "dot", "array_bytes": 9000} | choices
        return PSSEmbeddingCollection(tables, config=PSSConfig(width=dict.fromkeys("ab", width), **given))

    wide = made(9)
    assert not wide.projections.requires_grad and wide.array.requires_grad
    rows = wide.materialize("b", torch.arange(50))
    first = wide.layout.tables[1].base
    assert torch.equal(rows, torch.cat([wide.array[first : first + 450].view(50, 9), torch.zeros(50, 7)], dim=1))
    for other in (made(7), made(9, head="mlp"), made(9, bias=True), made(9, exact=["a"])):
        assert other.projections.requires_grad and other.materialize("a", torch.arange(50))[:, 9:].any()
