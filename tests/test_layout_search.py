"""layout="auto" with counts: the objective, the search by it, and what becomes of its choices."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection
from torchrec_pss.modules import layout_objective as objective
from torchrec_pss.modules import layout_search
from torchrec_pss.modules.allocation import allocate
from torchrec_pss.modules.auto_layout import choose, choose_folded
from torchrec_pss.modules.id_counts import IdCounts
from torchrec_pss.modules.layout_search import Table, fold, search


def tables(rows, dim=16):
    return [EmbeddingBagConfig(name=f"t{i}", num_embeddings=n, embedding_dim=dim) for i, n in enumerate(rows)]


def counts_of(configs, reads, skew):
    """``reads`` of each table, the k-th id's in proportion to 1 / (k + 1)^skew, in an order of its own."""
    found = {}
    for number, table in enumerate(configs):
        expected = 1 / np.arange(1, table.num_embeddings + 1) ** skew
        number_of = np.maximum(reads * expected / expected.sum(), 1).astype(np.int64)
        ids = np.random.default_rng(number).permutation(table.num_embeddings)
        found[table.name] = IdCounts(ids, number_of, int(number_of.sum()))
    return found


def chosen(configs, array_bytes, counts, exact=(), bits=32):
    config = choose(configs, PSSConfig(array_bytes=int(array_bytes), counts=counts, exact=exact, bits=bits), 4)
    return config, allocate(configs, config, 4)


def own_share(layout):
    """Of all rows, those with elements of their own."""
    rows = sum(t.rows for t in layout.tables)
    return sum(t.rows if t.is_exact else t.num_hot for t in layout.tables) / rows


DENSE, SPARSE = (
    ([6000, 3700, 2600, 300, 80, 21, 2], 640_000, 0.7),
    ([50_000, 20_000, 3000, 40], 60_000, 1.1),
)


@pytest.mark.parametrize("rows, reads, skew", [DENSE, SPARSE])
@pytest.mark.parametrize("exact", ["auto", ()])
@pytest.mark.parametrize("bits", [32, 4, 2])
@pytest.mark.parametrize("dim", [4, 16, 48])
def test_the_budget_is_kept_whatever_is_chosen(rows, reads, skew, exact, bits, dim):
    configs = tables(rows, dim)
    counts, full = counts_of(configs, reads, skew), sum(rows) * dim * 4
    for compression in (3, 10, 31, 100, 316):
        config, layout = chosen(configs, full / compression, counts, exact, bits)
        assert layout.embedding_bytes <= full / compression
        assert PSSConfig.from_json(config.to_json()) == config and choose(configs, config, 4) is config


def test_a_dense_log_has_elements_of_its_own_for_nearly_every_row():
    """At 10x, where a row has 1.6 elements, of which the keys take some."""
    rows, reads, skew = DENSE
    configs = tables(rows)
    _, layout = chosen(configs, sum(rows) * 64 / 10, counts_of(configs, reads, skew))
    assert own_share(layout) > 0.8 and layout.has_short_keys
    widths = {t.rows: t.width for t in layout.tables}
    assert widths[6000] == 1 and widths[2] > 1  # few rows may be wide


@pytest.mark.parametrize("bits, wide", [(32, False), (4, True)])
def test_a_dense_log_is_read_whole_where_half_of_its_elements_fit(bits, wide):
    """At 10x a row has 1.6 elements of 32 bits, 12 of 4."""
    rows, reads, skew = DENSE
    configs = tables(rows)
    _, layout = chosen(configs, sum(rows) * 64 / 10, counts_of(configs, reads, skew), bits=bits)
    assert (({t.width for t in layout.tables} == {16}) == wide and layout.projection_bytes == 0) or not wide
    assert 0.3 < own_share(layout) < 1


def test_a_sparse_log_has_hot_rows_and_shares_the_rest():
    rows, reads, skew = SPARSE
    configs = tables(rows)
    _, layout = chosen(configs, sum(rows) * 64 / 100, counts_of(configs, reads, skew))
    assert 0 < own_share(layout) < 0.1 and not layout.sign
    assert len({t.first for t in layout.tables}) == len(rows)


def test_far_too_few_bytes_for_a_dense_log_are_one_region_that_all_read_wide():
    rows, reads, skew = DENSE
    configs = tables(rows)
    _, layout = chosen(configs, sum(rows) * 64 / 200, counts_of(configs, reads, skew))
    assert {(t.first, t.width, t.num_hot) for t in layout.tables} == {(0, 16, 0)} and layout.sign


def test_where_ids_are_many_a_mean_does_not_make_a_log_dense():
    configs = tables([10**6, 10**5])
    counts = {t.name: IdCounts(np.arange(1000), np.full(1000, 50_000), 50_000_000) for t in configs}
    config, _ = chosen(configs, 1 << 20, counts)
    assert config == choose(configs, PSSConfig(array_bytes=1 << 20, counts=counts, exact=(), layout="rules"), 4)


def test_hot_rows_are_the_most_frequent_of_their_table():
    rows, reads, skew = SPARSE
    configs = tables(rows)
    counts = counts_of(configs, reads, skew)
    config, _ = chosen(configs, sum(rows) * 64 / 100, counts)
    assert config.hot
    for name, ids in config.hot.items():
        assert list(ids) == sorted(counts[name].ids[: len(ids)])


def test_more_bytes_never_resolve_less_and_steps_are_small():
    rows, reads, skew = SPARSE
    configs = tables(rows)
    counts = counts_of(configs, reads, skew)
    given = [
        Table(objective.reads_of(counts[t.name], t.num_embeddings, reads), t.num_embeddings, 16, False) for t in configs
    ]
    most = sum(t.reads.weight for t in given)
    values = [search(given, int(20_000 * 1.05**k), 32, 4)[1] / most for k in range(60)]
    steps = np.diff(values)
    assert steps.min() >= 0 and steps.max() < 0.02


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("bits", [32, 4])
def test_a_search_promises_what_its_choices_resolve(exact, bits):
    rows, reads, skew = SPARSE
    configs = tables(rows)
    counts = counts_of(configs, reads, skew)
    given = [
        Table(objective.reads_of(counts[t.name], t.num_embeddings, reads), t.num_embeddings, 16, exact) for t in configs
    ]
    choices, promised = search(given, 30_000, bits, 4)
    found = 0.0
    for table, choice in zip(given, choices, strict=True):
        hot = table.rows if choice.is_exact else choice.hot
        own = objective.own_ids(table.reads, hot)
        load = float((table.reads.reads * (table.reads.ids - own)).sum()) / max(choice.slice_numel, 1)
        found += table.reads.weight * objective.resolved(table.reads, 16, choice.width, hot, load)
    assert promised == pytest.approx(objective.kept_by_bits(bits) * found, rel=0.01)  # slices may have been filled
    assert objective.kept_by_bits(bits) * found >= promised * (1 - 1e-9)


def test_the_order_of_tables_decides_nothing():
    rows, reads, skew = SPARSE
    configs = tables(rows)
    counts = counts_of(configs, reads, skew)
    for bits in (32, 4):
        layouts = [chosen(order, 1250 * bits, counts, bits=bits)[1] for order in (configs, configs[::-1])]
        assert layouts[0].fingerprint() == layouts[1].fingerprint()


def test_ids_that_were_not_counted_get_what_is_left():
    """The counts know 100 ids, which have all that they need; the table has a million rows."""
    configs = tables([10**6])
    counts = {"t0": IdCounts(np.arange(100), np.full(100, 500), 50_000)}
    _, layout = chosen(configs, 1 << 20, counts)
    assert layout.embedding_bytes > 0.95 * (1 << 20)


def test_a_table_without_counts_counts_as_evenly_read():
    configs = tables([50_000, 50_000])
    counts = counts_of(configs, 100_000, 1.1)
    _, layout = chosen(configs, 200_000, {"t0": counts["t0"]})
    found = {t.name: t for t in layout.tables}
    assert found["t0"].num_hot and not found["t1"].num_hot


@pytest.mark.parametrize(
    "field, value", [("width", 8), ("bias", False), ("sign", True), ("segments", True), ("block_size", 2)]
)
def test_a_config_that_states_how_rows_are_shared_is_laid_out_by_rules(field, value):
    rows, reads, skew = SPARSE
    configs = tables(rows)
    config = PSSConfig(array_bytes=200_000, exact=(), counts=counts_of(configs, reads, skew), **{field: value})
    by_rules = replace(config, layout="rules")
    assert choose(configs, config, 4) == choose(configs, by_rules, 4)


def test_what_is_told():
    reads = np.array([1.0, 10.0, 1000.0])
    alone, met = objective.told(reads, 1.0, 0.0), objective.told(reads, 1.0, 100.0)
    np.testing.assert_allclose(alone, reads**2 / (reads + objective.NOISE))
    assert (met < alone).all() and met[-1] / reads[-1] > 0.9 > met[0] / reads[0]
    assert sum(n * s for n, s in zip((1, 15), objective.shares(16), strict=True)) == pytest.approx(1)
    assert objective.shares(1) == (1.0, 0.0)


def test_reads_are_grouped_without_loss():
    counts = IdCounts(np.arange(1000), np.arange(2000, 1000, -1), 2_000_000)
    of = objective.reads_of(counts, 5000, 0)
    assert of.total == pytest.approx(2_000_000) and of.ids.sum() == 5000 and of.counted == len(of.ids) - 1
    assert (np.diff(of.reads) <= 0).all()
    assert objective.reads_of(None, 7, 70).reads.tolist() == [10.0]
    one_id = objective.reads_of(IdCounts(np.array([4]), np.array([9]), 9), 1, 0)
    assert one_id.weight == 0.0
    half = objective.reads_of(IdCounts(np.array([4, 5]), np.array([9, 9]), 18), 2, 0)
    assert half.weight == pytest.approx(0.5)


def test_more_resolves_more():
    of = objective.reads_of(IdCounts(np.arange(500), np.arange(600, 100, -1), 175_250), 500, 0)
    wider = [objective.resolved(of, 16, w, 500) for w in (1, 2, 8, 16)]
    hotter = [objective.resolved(of, 16, 4, hot, 200.0) for hot in (0, 10, 400, 500)]
    assert wider == sorted(wider) and hotter == sorted(hotter) and wider[-1] < 1
    bits = [objective.kept_by_bits(b) for b in (2, 3, 4, 8, 32)]
    assert bits == sorted(bits) and bits[-1] == 1 and bits[2] > 0.98


@pytest.mark.parametrize("array_bytes", [3000, 40_000, 400_000, 40_000_000])
@pytest.mark.parametrize("exact", ["auto", ()])
def test_given_slices_are_kept_whatever_else_is_chosen(array_bytes, exact):
    rows, reads, skew = SPARSE
    configs = tables(rows)
    for counts in (None, counts_of(configs, reads, skew)):
        config = PSSConfig(array_bytes=array_bytes, exact=exact, counts=counts, slices={"t0": 320})
        layout = allocate(configs, choose(configs, config, 4), 4)
        (table,) = [t for t in layout.tables if t.name == "t0"]
        assert table.slots * table.block == 320 and not table.is_exact


@pytest.mark.parametrize("short", [False, True])
def test_a_module_trains_in_slices_of_given_sizes(short):
    configs = tables([1000, 50])
    config = PSSConfig(
        array_bytes=4000, exact=(), layout="plain", width=4, slices={"t1": 40}, hot={"t0": [3, 5]}, short_keys=short
    )
    module = PSSEmbeddingBagCollection(configs, config=config)
    found = {t.name: t for t in module.layout.tables}
    assert found["t1"].slots * found["t1"].block == 48
    assert found["t0"].slots * found["t0"].block > 500 and found["t0"].hot_drop == (22 if short else 0)
    fingerprint = module.layout.fingerprint()
    assert fingerprint["format_version"] == (3 if short else 2) and ("short_keys" in fingerprint) == short
    state = module.state_dict()
    other = PSSEmbeddingBagCollection(configs, config=replace(config, short_keys=not short))
    with pytest.raises(ValueError, match=f"short_keys is {short} in the checkpoint and {not short} here"):
        other.load_state_dict(state)
    rows = module.materialize("t0", torch.tensor([3, 5, 3]))
    assert torch.equal(rows[0], rows[2]) and not torch.equal(rows[0], rows[1])


BAD = {
    "slices names table 'nope'": dict(slices={"nope": 16}),
    "slices of table 't0' must be positive, got 0": dict(slices={"t0": 0}),
    "slices are given, and segments=False": dict(slices={"t0": 16}, segments=False),
    "table 't1' is exact: it has no use for a slice": dict(slices={"t1": 16}, exact=["t1"]),
    "short_keys must be True, False or None, got 9": dict(short_keys=9),
    "short_keys=False: beside elements of 4 bits": dict(short_keys=False, bits=4),
    "array_bytes = 65536 is too small": dict(slices={"t0": 10**6}),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_choices(message):
    with pytest.raises(ValueError, match=message):
        config = PSSConfig(**{"array_bytes": 1 << 16, "layout": "plain"} | BAD[message])
        PSSEmbeddingBagCollection(tables([10**6, 500]), config=config)


@pytest.mark.parametrize("rows, number", [(10, 10), (10, 9), (10, 6), (10, 5), (1, 1), (2, 2), (4001, 3970)])
def test_ids_beyond_the_rows_share_the_last_ones_two_at_most(rows, number):
    ids = np.arange(rows)
    folded = fold(ids, number)
    assert (folded[:number] == ids[:number]).all() and set(folded) == set(range(number))
    sharing = np.bincount(folded)
    assert sharing.max() <= (2 if 2 * number > rows else 3) and (number == 1 or sharing[0] == 1)
    assert list(np.flatnonzero(sharing > 1)) == list(range(max(2 * number - rows, 1), number))[: rows - number]


def test_what_folded_rows_tell_is_what_each_id_does():
    configs = tables([300])
    known = counts_of(configs, 50_000, 0.8)["t0"]
    of = objective.reads_of(known, 300, 50_000)
    reads = np.repeat(of.reads, of.ids.astype(int))
    rows = np.array([150, 200, 299, 300])
    found = layout_search._told_folded(of, 16, rows)
    for c, share in enumerate(objective.shares(16)):
        for i, number in enumerate(rows):
            partner = {}  # the least read with the one that is read most of those that share
            for k in range(number, 300):
                partner[k] = 2 * number - 1 - k
                partner[2 * number - 1 - k] = k
            load = np.array([reads[partner[k]] if k in partner else 0.0 for k in range(300)])
            assert found[c, i] == pytest.approx(objective.told(reads, share, load).sum())


def test_where_ids_nearly_fit_the_least_read_share_rows():
    """Hashed, all of the table would meet others."""
    rows, reads = [4001, 951, 231, 81, 8, 3], 230_000
    configs = tables(rows)
    counts = counts_of(configs, reads, 0.8)
    counts = {name: replace(c, ids=np.roll(np.arange(len(c.ids)), -1)) for name, c in counts.items()}
    given = PSSConfig(array_bytes=2900, counts=counts, bits=4)
    config, folded = choose_folded(configs, given)
    assert 3500 < folded[0] < 4001 and folded[1:] == rows[1:] and set(config.exact) == {t.name for t in configs}
    for table, number in zip(configs, folded, strict=True):
        table.num_embeddings = number
    assert allocate(configs, config, 4).embedding_bytes <= 2900
    wide = replace(given, array_bytes=60_000)  # all D wide: two that share a whole row would not be told apart
    assert choose_folded(tables(rows), wide)[1] == rows
    hashed = replace(given, exact=())
    assert choose_folded(tables(rows), hashed)[1] == rows
    stated = replace(given, width=1)
    assert choose_folded(tables(rows), stated) == (stated, rows)
