"""Rows read back, trained tables compressed, and arrays migrated: least squares, measured, and refused where it cannot be."""

import numpy as np
import pytest
import torch
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection, PSSEmbeddingCollection, compress, migrate
from torchrec_pss.convert import from_robe
from torchrec_pss.convert.compress import row_weights
from torchrec_pss.convert.fit import TableRows, fit
from torchrec_pss.modules.id_counts import IdCounts

ROWS, DIM = {"a": 300, "b": 40, "c": 120}, 8
CONFIGS = {
    "plain": PSSConfig(array_bytes=1200, layout="plain", exact=()),
    "projected": PSSConfig(array_bytes=3200, layout="plain", width={"a": 4, "c": 3}, exact=["b"], bias=True),
    "no bias": PSSConfig(array_bytes=2400, layout="plain", width=4, exact=(), segments=True),
    "prefix and hot": PSSConfig(
        array_bytes=7000,
        layout="plain",
        width={"a": 5},
        prefix={"a": 2},
        hot={"a": [5, 9, 200]},
        exact=(),
        block_size=1,
    ),
    "robe": PSSConfig(array_bytes=1200, layout="plain", hash="robe", block_size=4),
}


def tables(**rows):
    return [
        EmbeddingBagConfig(name=n, num_embeddings=r, embedding_dim=DIM, feature_names=[f"f_{n}"])
        for n, r in (rows or ROWS).items()
    ]


def trained(seed=0):
    """An EBC whose rows lie near a plane, about a mean."""
    torch.manual_seed(seed)
    ebc = EmbeddingBagCollection(tables())
    for name, rows in ROWS.items():
        low = torch.randn(rows, 3) @ torch.randn(3, DIM) + torch.randn(DIM)
        ebc.embedding_bags[name].weight.data = low + 0.01 * torch.randn(rows, DIM)
    return ebc


def weights_of(rows):
    return torch.rand(rows, generator=torch.Generator().manual_seed(rows)) + 0.1


def squared_error(module, ebc):
    total = 0.0
    for name, rows in ROWS.items():
        error = module.materialize(name, torch.arange(rows)) - ebc.embedding_bags[name].weight.detach()
        total += float((error.double().square() * weights_of(rows).double()[:, None]).sum())
    return total


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_materialized_rows_are_those_that_forward_reads(config):
    module = PSSEmbeddingBagCollection(tables(), config=config)
    ids = {name: torch.randint(rows, (7,)) for name, rows in ROWS.items()}
    kjt = KeyedJaggedTensor.from_lengths_sync(
        [f"f_{n}" for n in ROWS], torch.cat(list(ids.values())), torch.ones(21, dtype=torch.int32)
    )
    read = module(kjt).to_dict()
    for name in ROWS:
        torch.testing.assert_close(module.materialize(name, ids[name]), read[f"f_{name}"])
    sequence = PSSEmbeddingCollection(
        [EmbeddingConfig(name="s", num_embeddings=50, embedding_dim=4, feature_names=["f"])],
        config=PSSConfig(array_bytes=400),
    )
    assert sequence.materialize("s", torch.arange(5)).shape == (5, 4)
    with pytest.raises(IndexError, match="table 'b': id 40 is out of range \\[0, 40\\)"):
        PSSEmbeddingBagCollection(tables(), config=CONFIGS["projected"]).materialize("b", torch.tensor([1, 40]))
    with pytest.raises(ValueError, match="no table 'z'; there are \\['a', 'b', 'c'\\]"):
        module.materialize("z", ids["a"])


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_fit_is_the_least_squares_solution(config):
    """No other array does better with the same projections: the error is larger wherever one goes from it."""
    ebc = trained()
    module = PSSEmbeddingBagCollection(tables(), config=config)
    rows = {
        n: TableRows(torch.arange(r), ebc.embedding_bags[n].weight.detach().__getitem__, weights_of(r))
        for n, r in ROWS.items()
    }
    before = squared_error(module, ebc)
    report = fit(module, rows)
    best = squared_error(module, ebc)
    assert best < before
    rng = torch.Generator().manual_seed(1)
    solution = module.array.detach().clone()
    for _ in range(20):
        direction = torch.randn(solution.shape, generator=rng)
        for step in (1e-2, -1e-2):
            module.array.data = solution + step * direction
            assert squared_error(module, ebc) > best
    module.array.data = solution
    expected = sum(t.rmse**2 * float(weights_of(ROWS[n]).sum()) * DIM for n, t in report.tables.items())
    assert best == pytest.approx(expected, rel=1e-4)


def test_what_can_be_held_is_held_exactly():
    ebc = trained()
    module, report = compress(ebc, config=PSSConfig(array_bytes=460 * DIM * 4 + 64, layout="plain", exact=list(ROWS)))
    for name, rows in ROWS.items():
        torch.testing.assert_close(
            module.materialize(name, torch.arange(rows)), ebc.embedding_bags[name].weight.detach()
        )
        assert report.tables[name].explained == pytest.approx(1.0) and report.tables[name].rows == rows
    # Rows that vary in three directions about a mean lose little at width 3 with a bias.
    config = PSSConfig(
        array_bytes=460 * 4 * 4 + 2000, layout="plain", width=dict.fromkeys(ROWS, 3), exact=list(ROWS), bias=True
    )
    _, report = compress(ebc, config=config)
    assert all(0.999 < t.explained < 1 for t in report.tables.values()), str(report)


def test_frequent_rows_are_met_better():
    ebc = trained()
    ids = np.arange(20)
    counts = {"a": IdCounts(ids, np.arange(1020, 1000, -1), 30_000)}
    budget = 1500
    plain, _ = compress(ebc, budget)
    weighted, report = compress(ebc, budget, counts=counts)
    frequent = torch.arange(20)
    wanted = ebc.embedding_bags["a"].weight.detach()[:20]
    errors = [float((m.materialize("a", frequent) - wanted).square().mean()) for m in (plain, weighted)]
    assert errors[1] < 0.5 * errors[0]
    assert weighted.layout.embedding_bytes <= budget and "explained" in str(report)


def test_row_weights():
    counts = IdCounts(np.array([3, 0, 99]), np.array([50, 20, 10]), 100)
    weights = row_weights(10, counts)
    assert weights[3] == 50 and weights[0] == 20 and weights[1] == pytest.approx(30 / 8)
    assert row_weights(10, None) is None


def test_compress_from_a_state_dict():
    ebc = trained()
    state = {f"model.sparse.{k}": v for k, v in ebc.state_dict().items()}
    from_module, _ = compress(ebc, 2000)
    from_state, _ = compress(state, 2000, tables=tables())
    assert torch.equal(from_module.array, from_state.array)
    with pytest.raises(ValueError, match="give tables"):
        compress(state, 2000)
    with pytest.raises(ValueError, match="0 entries 'embedding_bags.d.weight' for table 'd'"):
        compress(state, 2000, tables=tables(d=5))
    with pytest.raises(ValueError, match="table 'b': weights of shape \\[40, 8\\], configured as \\[41, 8\\]"):
        compress(state, 2000, tables=tables(b=41))
    with pytest.raises(ValueError, match="give array_bytes or config"):
        compress(ebc)
    with pytest.raises(ValueError, match="table 'a' is on \"meta\""):
        compress(EmbeddingBagCollection(tables(), device=torch.device("meta")), 2000)
    with pytest.raises(ValueError, match="array_bytes = 40 is too small"):
        compress(ebc, 40)
    state["model.sparse.embedding_bags.c.weight"][7, 2] = float("nan")
    with pytest.raises(ValueError, match="table 'c': the row of id 7 is not finite"):
        compress(state, 2000, tables=tables())


@pytest.mark.parametrize("names", ["a", "ab"])
def test_a_compressed_module_reads_as_one_that_loads_its_state(names):
    """The fit scatters without signs, and must leave nothing of that to later reads."""
    ebc = EmbeddingBagCollection(tables(**{n: ROWS[n] for n in names}))
    config = PSSConfig(array_bytes=2400, layout="plain", exact=())
    fitted, _ = compress(ebc, config=config)
    fresh = PSSEmbeddingBagCollection(tables(**{n: ROWS[n] for n in names}), config=config)
    fresh.load_state_dict(fitted.state_dict())
    ids = torch.arange(20 * len(names))
    kjt = KeyedJaggedTensor([f"f_{n}" for n in names], ids % 20, lengths=torch.ones_like(ids))
    assert torch.equal(fitted(kjt).values(), fresh(kjt).values())
    for name in names:
        assert torch.equal(fitted.materialize(name, ids), fresh.materialize(name, ids))
    fitted(kjt).values().sum().backward()


def test_migrate_to_other_layouts():
    ebc = trained()
    old, _ = compress(ebc, config=PSSConfig(array_bytes=4000, exact=["b"]))
    before = old.array.detach().clone()
    # All rows with elements of their own: they are what the old array read.
    exact = PSSConfig(array_bytes=460 * DIM * 4 + 64, layout="plain", exact=list(ROWS))
    new, report = migrate(old, exact)
    for name, rows in ROWS.items():
        torch.testing.assert_close(
            new.materialize(name, torch.arange(rows)), old.materialize(name, torch.arange(rows)), rtol=1e-4, atol=1e-5
        )
        assert report.tables[name].explained == pytest.approx(1, abs=1e-5)
    assert torch.equal(old.array, before)
    # One table more, one promoted to exact, for the ids given.
    more = [*tables(), EmbeddingBagConfig(name="d", num_embeddings=30, embedding_dim=DIM, feature_names=["f_d"])]
    config = PSSConfig(array_bytes=12_000, layout="plain", exact=["c"])
    new, report = migrate(old, config, tables=more, ids={"a": torch.tensor([5, 7, 10**12])})
    assert report.tables["a"].rows == 3 and set(report.tables) == set(ROWS)
    ids = torch.arange(120)
    torch.testing.assert_close(new.materialize("c", ids), old.materialize("c", ids), rtol=1e-4, atol=1e-5)
    assert new.materialize("d", torch.arange(30)).abs().max() > 0


def test_migrate_refuses():
    old = PSSEmbeddingBagCollection(tables(a=10**12, b=40), config=PSSConfig(array_bytes=2000))
    with pytest.raises(ValueError, match="table 'a' has 1,000,000,000,000 rows: give the ids"):
        migrate(old, PSSConfig(array_bytes=1000))
    with pytest.raises(ValueError, match="ids are given of the tables \\['z'\\]"):
        migrate(old, PSSConfig(array_bytes=1000), ids={"z": torch.arange(3)})
    sequence = PSSEmbeddingCollection(
        [EmbeddingConfig(name="s", num_embeddings=50, embedding_dim=4, feature_names=["f"])],
        config=PSSConfig(array_bytes=400),
    )
    new, _ = migrate(sequence, PSSConfig(array_bytes=900))
    assert isinstance(new, PSSEmbeddingCollection) and new.need_indices() == sequence.need_indices()


def test_half_precision_arrays_are_fitted_too():
    half = [
        EmbeddingBagConfig(
            name=n, num_embeddings=r, embedding_dim=DIM, feature_names=[f"f_{n}"], data_type=DataType.BF16
        )
        for n, r in ROWS.items()
    ]
    state = trained().state_dict()
    module, report = compress(
        state, config=PSSConfig(array_bytes=460 * DIM * 2 + 64, layout="plain", exact=list(ROWS)), tables=half
    )
    assert module.array.dtype == torch.bfloat16
    assert all(0.9999 < t.explained < 1 for t in report.tables.values())


def test_rows_must_fit_the_module():
    module = PSSEmbeddingBagCollection(tables(), config=CONFIGS["plain"])
    with pytest.raises(ValueError, match="rows are given of the tables \\['z'\\]; the module has \\['a', 'b', 'c'\\]"):
        fit(module, {"z": TableRows(torch.arange(3), lambda ids: torch.zeros(len(ids), DIM))})
    with pytest.raises(ValueError, match="table 'a': rows of shape \\[3, 5\\], expected \\[3, 8\\]"):
        fit(module, {"a": TableRows(torch.arange(3), lambda ids: torch.zeros(len(ids), 5))})


def robe_state(numel=1001, **more):
    numbers = torch.tensor([2038074743, 634329019, 1825252241, 871205356, 5])
    array = torch.arange(float(numel))
    return {"hashed_weight": array, "emb_l.0.hashed_weight": array, "emb_l.0.random_numbers": numbers, **more}


def robe_tables(pooling=PoolingType.SUM):
    return [
        EmbeddingBagConfig(name=n, num_embeddings=r, embedding_dim=8, feature_names=[n], pooling=pooling)
        for n, r in (("a", 50), ("b", 70))
    ]


def test_an_array_of_the_authors_code():
    module = from_robe(robe_state(), robe_tables(), block_size=4)
    row = 50 + 3  # rows are numbered through all tables
    places = [((871205356 * row + 1825252241 * (j // 4) + 634329019) % 2038074743) % 998 + j % 4 for j in range(8)]
    assert module.materialize("b", torch.tensor([3])).tolist() == [[float(p) for p in places]]
    fuller, report = migrate(module, PSSConfig(array_bytes=1 << 16))
    assert report.tables["a"].explained > 0.999
    ids = torch.arange(50)
    torch.testing.assert_close(fuller.materialize("a", ids), module.materialize("a", ids))


@pytest.mark.parametrize(
    "state, error, message",
    [
        ({"weight": torch.zeros(3)}, KeyError, "no 'hashed_weight' in the state dict"),
        (robe_state(**{"emb_l.1.hashed_weight": torch.zeros(7)}), ValueError, "not one array for all tables"),
        (robe_state(**{"emb_l.1.random_numbers": torch.arange(5)}), ValueError, "another seed of their hash"),
    ],
)
def test_what_is_not_their_array_is_refused(state, error, message):
    with pytest.raises(error, match=message):
        from_robe(state, robe_tables(), block_size=4)
    with pytest.raises(ValueError, match="table 'a' is pooled by MEAN"):
        from_robe(robe_state(), robe_tables(PoolingType.MEAN), block_size=4)
