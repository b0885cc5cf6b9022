"""layout="auto" where it goes by rules, what it refuses, and layout="rules"; tests/test_layout_search.py has the search."""

import numpy as np
import pytest
import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection
from torchrec_pss.datasets.rows import KAGGLE_NUM_EMBEDDINGS, MLPERF_NUM_EMBEDDINGS
from torchrec_pss.modules.allocation import allocate
from torchrec_pss.modules.auto_layout import choose
from torchrec_pss.modules.id_counts import IdCounts
from torchrec_pss.modules.rival_layouts import narrow_width


def tables(rows, dim=16):
    return [
        EmbeddingBagConfig(name=f"t{i}", num_embeddings=n, embedding_dim=dim, feature_names=[f"f{i}"])
        for i, n in enumerate(rows)
    ]


def power_law_counts(configs, total=1_000_000):
    """The first 50,000 ids of each table, the k-th of them in proportion to 1 / (k + 1)."""
    counts = {}
    for t in configs:
        n = min(t.num_embeddings, 50_000)
        expected = np.sort(np.maximum(total / 12 / np.arange(1, n + 1), 1).astype(np.int64))[::-1]
        counts[t.name] = IdCounts(np.arange(n), expected, int(expected.sum()))
    return counts


def counts_of_two_ids(configs, total):
    """And how many were read in all."""
    return {t.name: IdCounts(np.arange(2), np.array([6000, 20]), total) for t in configs}


def layout_of(configs, array_bytes, layout="rules", **choices):
    return allocate(configs, choose(configs, PSSConfig(array_bytes=array_bytes, layout=layout, **choices), 4), 4)


def by_name(layout):
    return {t.name: t for t in layout.tables}


@pytest.mark.parametrize("rows, dim", [(KAGGLE_NUM_EMBEDDINGS, 16), (MLPERF_NUM_EMBEDDINGS, 128), ((50, 3000), 64)])
@pytest.mark.parametrize("head", ["mlp", "dot"])
@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("contiguous", [False, True])
@pytest.mark.parametrize("layout", ["auto", "rules"])
def test_the_budget_is_kept_and_used(rows, dim, head, counted, contiguous, layout):
    configs = tables(rows, dim)
    full = sum(rows) * dim * 4
    for compression in (4, 10, 100, 1000, 10_000):
        array_bytes = full // compression
        if array_bytes < 20_000:
            continue
        choices = {"counts": power_law_counts(configs)} if counted else {}
        exact = "auto" if contiguous else ()
        found = layout_of(configs, array_bytes, layout, head=head, exact=exact, **choices)
        assert found.embedding_bytes <= array_bytes
        # Whole coordinates, rows and aligned regions leave something; narrow tables of D = 64 up to a coordinate a row.
        assert found.embedding_bytes > 0.7 * array_bytes
        if not contiguous:
            assert not any(t.prefix for t in found.tables)


def test_tables_that_fit_are_full_tables():
    layout = layout_of(tables([50, 3000]), 3050 * 64 + 64 * 26)
    assert all(t.is_exact and not t.is_projected for t in layout.tables)


def test_narrow_exact_tables_while_six_coordinates_a_row_fit():
    configs = tables([100_000, 5000, 100])
    array_bytes = 105_100 * 16 * 4 // 2
    layout = layout_of(configs, array_bytes)
    assert {t.width for t in layout.tables} == {narrow_width(configs, array_bytes)} == {7}
    assert all(t.is_exact and t.bias for t in layout.tables)


@pytest.mark.parametrize("head, counted, prefixed", [("mlp", False, True), ("mlp", True, False), ("dot", True, True)])
def test_between_one_and_six_coordinates_a_row(head, counted, prefixed):
    """Elements of its own for every row before a dot product, or where nothing says which rows are frequent."""
    configs = tables([100_000, 5000, 100])
    choices = {"counts": power_law_counts(configs)} if counted else {}
    found = by_name(layout_of(configs, 105_100 * 64 // 6, head=head, **choices))
    if prefixed:
        assert all((t.prefix, t.width) == (2, 4) for t in found.values())
    else:
        assert found["t0"].num_hot > 1000 and found["t0"].prefix == 0 and found["t2"].is_exact


@pytest.mark.parametrize("own, prefixed", [(1, True), (2, True), (3, False), (6, False)])
def test_before_a_dot_product_few_coordinates_of_a_row_have_shared_ones_beside_them(own, prefixed):
    configs = tables([100_000, 5000], dim=64)
    layout = layout_of(configs, int(105_000 * 4 * (own + 0.5)), head="dot", counts=power_law_counts(configs))
    assert {(t.prefix, t.width, t.is_exact) for t in layout.tables} == {(own, own + 2 * prefixed, not prefixed)}


def test_small_tables_are_exact_and_the_others_have_hot_rows_and_slices():
    configs = tables([10**9, 10**6, 300, 20])
    layout = layout_of(configs, 1 << 20, counts=power_law_counts(configs))
    found = by_name(layout)
    assert [found[f"t{i}"].is_exact for i in range(4)] == [False, False, True, True]
    assert {t.width for t in layout.tables} == {6} and all(t.bias for t in layout.tables)
    hot_bytes = sum(t.num_hot for t in layout.tables) * 28
    assert 0.35 * (1 << 20) < hot_bytes <= 0.4 * (1 << 20)
    # Both giants have equal counts, so equally many hot rows but for ties, and equal slices: one cap of rows.
    counts = power_law_counts(configs)["t0"].counts
    assert abs(counts[found["t0"].num_hot - 1] - counts[found["t1"].num_hot - 1]) <= 1
    assert found["t0"].slots == found["t1"].slots
    slices = sorted((t.first, t.first + t.slots * t.block) for t in (found["t0"], found["t1"]))
    assert slices[0][1] <= slices[1][0] and slices[1][1] <= layout.shared_numel


@pytest.mark.parametrize("elements_a_row, width", [(0.05, 6), (0.3, 10), (0.5, 16), (3, 16)])
def test_the_read_widens_with_the_budget(elements_a_row, width):
    configs = tables([200_000, 5000], dim=32)
    layout = layout_of(configs, int(205_000 * 4 * elements_a_row), counts=power_law_counts(configs))
    assert {t.width for t in layout.tables} == {width}


@pytest.mark.parametrize("array_bytes, few, many", [(41_000, 4, 6), (400_000, 8, 16), (900_000, 16, 16)])
def test_few_examples_are_read_narrower(array_bytes, few, many):
    configs = tables([200_000, 5000], dim=32)
    for total, width in ((99_999, few), (100_000, many)):
        layout = layout_of(configs, array_bytes, counts=counts_of_two_ids(configs, total))
        assert {t.width for t in layout.tables} == {width}


@pytest.mark.parametrize(
    "exact, dim, total, width",
    [
        *[((), 16, 20_000, 6), ((), 16, 48_000, 9), ((), 16, 60_000, 12), ((), 16, 199_999, 12), ((), 16, 200_000, 16)],
        *[((), 8, 199_999, 6), ((), 8, 200_000, 8), ((), 64, 48_000, 9), ((), 64, 79_999, 15), ((), 64, 80_000, 16)],
        *[("auto", 16, 20_000, 6), ("auto", 16, 59_999, 11), ("auto", 16, 60_000, 16)],
        *[("auto", 8, 59_999, 6), ("auto", 8, 60_000, 8)],
    ],
)
def test_a_read_is_as_wide_as_so_many_examples_teach_but_where_rows_have_many_elements(exact, dim, total, width):
    configs = tables([200_000, 5000], dim)
    counts = counts_of_two_ids(configs, total)
    # Half an element a row is read 8 wide at most, from 100,000 examples on 16.
    for elements_a_row, least, most in ((0.5, 4, 8 if total < 100_000 else 16), (2, 4, 16), (5, 10, 16), (8, 16, 16)):
        layout = layout_of(configs, int(205_000 * 4 * elements_a_row), exact=exact, counts=counts)
        expected = min(max(width, least), most, dim)
        assert {t.width for t in layout.tables} == {expected} and {t.bias for t in layout.tables} == {expected < dim}


# 26 projections of D = 16 take 1,664 bytes a coordinate. With a bias, four coordinates are a sixth of 49,920 bytes; two without one
# are a seventh of 23,296, one of 11,648.
@pytest.mark.parametrize(
    "array_bytes, width", [(49_920, 4), (49_900, 2), (23_300, 2), (23_200, 1), (11_700, 1), (11_600, 16)]
)
@pytest.mark.parametrize("exact", ["auto", ()])
def test_few_examples_and_few_bytes_are_read_one_or_two_wide(array_bytes, width, exact):
    configs = tables([10_000] * 25 + [20])
    layout = layout_of(configs, array_bytes, exact=exact, counts=power_law_counts(configs, total=100_000))
    assert {t.width for t in layout.tables} == {width}
    assert {t.bias for t in layout.tables} == {width == 4}
    # A slice for each table, unless all read all of it.
    sharing = [t for t in layout.tables if not t.is_exact]
    assert len({t.first for t in sharing}) == (1 if width == 16 else len(sharing)) and layout.sign == (width == 16)
    assert len(sharing) == (25 if exact == "auto" and width == 4 else 26)
    hot = sum(t.num_hot for t in layout.tables) * (width + 1)
    room, aligned_regions = (array_bytes - layout.projection_bytes) // 4, 26 * 16
    room = min((0.9 if width in (1, 2) else 0.4) * room, room - aligned_regions)  # every table shares at least a row
    assert room - aligned_regions - width - 1 < hot <= room


def test_few_bytes_that_hold_all_rows_are_exact_tables_where_ids_are_rows():
    configs = tables([150] * 26)
    counts = power_law_counts(configs, total=100_000)
    layout = layout_of(configs, 23_000, counts=counts)
    assert {(t.kind, t.width, t.bias) for t in layout.tables} == {("exact", 1, False)}
    assert {t.kind for t in layout_of(configs, 23_000, exact=(), counts=counts).tables} == {"hot"}


def test_few_bytes_are_read_so_only_from_few_examples_and_where_the_config_leaves_it_open():
    configs = tables([10_000] * 26)
    few = counts_of_two_ids(configs, 99_999)
    for choices in (
        {"counts": counts_of_two_ids(configs, 100_000)},
        {},
        {"counts": few, "block_size": 4},
        {"counts": few, "bias": True},
        {"counts": few, "sign": True},
        {"counts": few, "segments": False},
        {"counts": few, "exact": "auto", "exact_fraction": 0.2},
    ):
        assert {t.width for t in layout_of(configs, 30_000, **{"exact": (), **choices}).tables} == {16}, choices


@pytest.mark.parametrize("dim", [8, 64])
def test_before_a_dot_product_rows_that_share_read_two_coordinates(dim):
    configs = tables([200_000, 5000], dim)
    layout = layout_of(configs, 205_000 * 2, head="dot", counts=power_law_counts(configs))
    assert {t.width for t in layout.tables} == {2} and layout.tables[0].num_hot > 0
    assert not any(t.bias for t in layout.tables)
    assert all(t.bias for t in layout_of(configs, 205_000 * 2, head="dot", bias=True).tables)


def test_hot_rows_are_the_most_frequent_of_all_tables():
    configs = tables([10**6, 10**6])
    frequent = IdCounts(np.array([7, 8, 9]), np.array([900, 800, 3]), 10_000)
    rare = IdCounts(np.array([1, 2]), np.array([850, 2]), 10_000)
    config = choose(configs, PSSConfig(array_bytes=4096, layout="rules", counts={"t0": frequent, "t1": rare}), 4)
    # Three occurrences are too few to be told from chance.
    assert {name: list(ids) for name, ids in config.hot.items()} == {"t0": [7, 8], "t1": [1]}


def test_full_width_in_one_region_where_projections_would_eat_the_budget():
    configs = tables([10**6] * 26)
    counts = power_law_counts(configs)
    narrow = layout_of(configs, 100_000, exact=(), counts=counts)
    assert {t.width for t in narrow.tables} == {6} and not narrow.sign and len({t.first for t in narrow.tables}) == 26
    full = layout_of(configs, 60_000, exact=(), counts=counts)
    assert {t.width for t in full.tables} == {16} and full.sign and {t.first for t in full.tables} == {0}
    assert sum(t.num_hot for t in full.tables) > 100 and full.projection_bytes == 0


def test_what_the_config_states_is_kept():
    configs = tables([10**6, 500])
    config = choose(configs, PSSConfig(array_bytes=1 << 16, width=8, block_size=2, sign=True, bias=False), 4)
    layout = allocate(configs, config, 4)
    assert layout.sign and {t.width for t in layout.tables} == {8} and not any(t.bias for t in layout.tables)
    assert by_name(layout)["t0"].block == 2
    assert choose(configs, config, 4) is config


def test_a_module_with_hot_rows_learns_them_apart():
    """Each hot id moves elements of its own only; their keys travel with the state dict."""
    configs = tables([10**6])
    ids = np.array([11, 222, 3333])
    config = PSSConfig(array_bytes=2048, exact=(), hot={"t0": ids})
    module = PSSEmbeddingBagCollection(configs, config=config)
    t = module.layout.tables[0]
    assert t.num_hot == 3 and module.layout.embedding_bytes <= 2048

    def gradient(i):
        module.zero_grad()
        kjt = KeyedJaggedTensor.from_lengths_sync(["f0"], torch.tensor([i]), torch.tensor([1]))
        module(kjt).values().sum().backward()
        return set(module.array.grad.nonzero().flatten().tolist())

    touched = [gradient(int(i)) for i in ids]
    own = set(range(t.hot_base, t.hot_base + 3 * t.width))
    assert set().union(*touched) == own and sum(map(len, touched)) == len(own)
    assert gradient(5) <= set(range(t.first, t.first + t.slots))
    state = module.state_dict()
    assert torch.equal(state["hot_keys"], module.layout.hot_keys)
    PSSEmbeddingBagCollection(tables([10**6]), config=config).load_state_dict(state)
    other = PSSEmbeddingBagCollection(configs, config=PSSConfig(array_bytes=2048, exact=(), hot={"t0": ids + 1}))
    with pytest.raises(ValueError, match="table 't0': hot_keys is"):
        other.load_state_dict(state)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_bias_counts_once_an_id(weighted):
    configs = tables([10**6])
    module = PSSEmbeddingBagCollection(configs, is_weighted=weighted, config=PSSConfig(array_bytes=4096, exact=()))
    with torch.no_grad():
        module.array.zero_()
    weights = torch.tensor([0.5, 2.0, 3.0]) if weighted else None
    kjt = KeyedJaggedTensor.from_lengths_sync(["f0"], torch.tensor([5, 6, 7]), torch.tensor([1, 0, 2]), weights)
    bias = module.projection("t0")[-1]
    expected = torch.tensor([0.5, 0.0, 5.0] if weighted else [1.0, 0.0, 2.0])[:, None] * bias
    torch.testing.assert_close(module(kjt).values(), expected)


BAD = {
    "counts names table 'nope'": dict(counts={"nope": IdCounts(np.array([1]), np.array([1]), 1)}),
    "hot names table 'nope'": dict(hot={"nope": [1]}),
    r"table 't1': hot id 500 is out of range \[0, 500\)": dict(hot={"t1": [3, 500]}),
    r"table 't1': counted id -1 is out of range \[0, 500\)": dict(
        counts={"t1": IdCounts(np.array([3, -1]), np.array([9, 5]), 20)}
    ),
    "table 't1' is exact: it has no use for hot rows": dict(exact=["t1"], hot={"t1": [3]}),
    "layout must be one of": dict(layout="best"),
    "head must be one of": dict(head="cnn"),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_choices(message):
    configs = tables([10**6, 500])
    with pytest.raises(ValueError, match=message):
        PSSEmbeddingBagCollection(configs, config=PSSConfig(**{"array_bytes": 1 << 16} | BAD[message]))


@pytest.mark.parametrize(
    "ids, counts, total, message",
    [
        ([1, 1], [3, 2], 9, "counted twice"),
        ([1, 2], [2, 3], 9, "descend"),
        ([1, 2], [2, 0], 9, "positive"),
        ([1, 2], [5, 5], 9, "more than their total 9"),
        ([1, 2], [5], 9, "one length"),
    ],
)
def test_bad_counts(ids, counts, total, message):
    with pytest.raises(ValueError, match=message):
        IdCounts(np.array(ids), np.array(counts), total)
