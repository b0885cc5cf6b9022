"""Narrow tables and row hashing: as wide, or as many rows, as the budget holds, and not one more."""

import pytest
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from torchrec_pss import PSSConfig
from torchrec_pss.modules.allocation import allocate
from torchrec_pss.modules.rival_layouts import capped_rows, exact_tables, narrow_width, row_hashing_width


def tables(rows=(5000, 70, 1000), dims=(16, 16, 8)):
    return [
        EmbeddingBagConfig(name=f"t{i}", num_embeddings=n, embedding_dim=d, feature_names=[f"f{i}"])
        for i, (n, d) in enumerate(zip(rows, dims, strict=True))
    ]


@pytest.mark.parametrize("array_bytes", [26_000, 60_000, 200_000, 400_000])
def test_narrow_tables_are_the_widest_that_fit(array_bytes):
    width = narrow_width(tables(), array_bytes)
    layout = allocate(tables(), exact_tables(tables(), array_bytes, width), 4)
    assert [t.width for t in layout.tables] == [width, width, min(width, 8)]
    assert layout.shared_numel == 0 and layout.embedding_bytes <= array_bytes
    if width < 16:
        with pytest.raises(ValueError, match="too small"):
            allocate(tables(), exact_tables(tables(), array_bytes, width + 1), 4)


def test_narrow_tables_that_do_not_fit():
    """Width 1 needs 5008 + 80 + 1008 elements and 16 + 16 + 8 of projections."""
    with pytest.raises(ValueError, match=r"width 1 needs 24544 bytes, a compression of 14\.5"):
        narrow_width(tables(), 24_543)
    assert narrow_width(tables(), 24_544) == 1


@pytest.mark.parametrize("array_bytes", [1500, 9000, 60_000, 1 << 20])
def test_row_hashing_keeps_small_tables_and_caps_the_others(array_bytes):
    rows = capped_rows(tables(), array_bytes, 4)
    cap = max(rows)
    assert rows == [min(n, cap) for n in (5000, 70, 1000)]
    layout = allocate(tables(rows), exact_tables(tables(rows), array_bytes, 4, init_range=0.3), 4)
    assert layout.embedding_bytes <= array_bytes
    if cap < 5000:
        more = tables([min(n, cap + 4) for n in (5000, 70, 1000)])  # 4 rows of 4 elements: one unit of alignment
        with pytest.raises(ValueError, match="too small"):
            allocate(more, exact_tables(more, array_bytes, 4), 4)


@pytest.mark.parametrize(
    "array_bytes, width",
    [(10_000, 4), (3839, 3), (1920, 2), (1919, 1), (320, 1), (319, 16)],
)
def test_row_hashing_is_narrower_where_projections_would_take_the_budget(array_bytes, width):
    """A coordinate's projections are 16 + 16 + 8 elements: 160 bytes, a sixth of 960, half of 320."""
    assert row_hashing_width(tables(), array_bytes, widest=4) == width


def test_row_hashing_that_does_not_fit():
    with pytest.raises(ValueError, match=r"one row a table needs 832 bytes, a compression of 428\.5"):
        capped_rows(tables(), 831, 4)
    assert capped_rows(tables(), 832, 4) == [4, 4, 4]


def test_initialisation_is_passed_on():
    assert exact_tables(tables(), 10**6, 4, init_range=0.3).init_range == 0.3
    assert exact_tables(tables(), 10**6, 4).init_range == PSSConfig(array_bytes=1, layout="plain").init_range
