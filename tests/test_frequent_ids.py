"""Counting frequent ids: exact while they fit, bounded memory and a bounded error beyond."""

import numpy as np
import pytest

from torchrec_pss.datasets import frequent
from torchrec_pss.datasets.counted_ids import CountedIds
from torchrec_pss.datasets.frequent import FrequentIds
from torchrec_pss.datasets.rows import RowBlock


def stream(rows=60_000, seed=0):
    """Two features: power law over many ids, and few ids with negative ones among them."""
    rng = np.random.default_rng(seed)
    law = (rng.pareto(0.8, rows) * 10).clip(max=2**60).astype(np.int64)
    few = rng.integers(-2, 3, rows)
    return np.stack([law, few])


def added(ids, capacity, chunk=1000):
    counter = FrequentIds(2, capacity)
    for start in range(0, ids.shape[1], chunk):
        counter.add(ids[:, start : start + chunk])
    return counter.counts()


def test_exact_within_the_capacity():
    ids = stream()
    for found, feature in zip(added(ids, 1 << 20), ids, strict=True):
        values, counts = np.unique(feature, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        assert np.array_equal(found.ids, values[order]) and np.array_equal(found.counts, counts[order])
        assert found.total == len(feature)


@pytest.mark.parametrize("capacity", [50, 1000])
def test_bounded_memory_and_error(capacity, monkeypatch):
    """Every id above total / (capacity + 1) is kept, and no count is too high, nor too low by more than that."""
    monkeypatch.setattr(frequent, "_PENDING", 5000)
    ids = stream()
    found = added(ids, capacity)[0]
    assert len(found.ids) <= capacity and found.total == ids.shape[1]
    values, counts = np.unique(ids[0], return_counts=True)
    truth = dict(zip(values.tolist(), counts.tolist(), strict=True))
    error = ids.shape[1] / (capacity + 1)
    estimates = dict(zip(found.ids.tolist(), found.counts.tolist(), strict=True))
    assert len(values) > 2 * capacity  # the summary had to forget
    for value, count in truth.items():
        assert count - error <= estimates.get(value, 0) <= count


def test_nothing_added():
    assert [len(c.ids) for c in FrequentIds(3).counts()] == [0, 0, 0]


def test_counts_are_read_back(tmp_path):
    """To the bit, and by their key only; damage is named."""
    rng = np.random.default_rng(0)
    blocks = [
        RowBlock(np.zeros((50, 0), np.float32), rng.integers(-5, 90, (2, 50)), np.zeros(50, np.float32))
        for _ in range(3)
    ]
    made, path = CountedIds.of(blocks, 2), tmp_path / "counts.npz"
    made.save(path, "these rows")
    found = CountedIds.load(path, "these rows", 2)
    assert found.distinct == made.distinct
    for a, b in zip(found.counts, made.counts, strict=True):
        assert np.array_equal(a.ids, b.ids) and np.array_equal(a.counts, b.counts) and a.total == b.total == 150
    with pytest.raises(ValueError, match="counted ids .* is of other rows"):
        CountedIds.load(path, "others", 2)
    with pytest.raises(ValueError, match="counted ids .* has no array ids_2"):
        CountedIds.load(path, "these rows", 3)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match="counted ids .* is no readable .npz"):
        CountedIds.load(path, "these rows", 2)
