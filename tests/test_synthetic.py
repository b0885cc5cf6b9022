"""The click-log generator: a function of (seed, position), with the probabilities it says it has."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from torchrec_pss.datasets.rows import KAGGLE_NUM_EMBEDDINGS, MLPERF_NUM_EMBEDDINGS, NUM_SPARSE
from torchrec_pss.datasets.synthetic import ClickLogConfig, ClickLogGenerator

GENERATOR = ClickLogGenerator(ClickLogConfig())
ROWS = 200_000


@pytest.fixture(scope="module")
def rows():
    return GENERATOR.rows(range(ROWS))


def test_rows_are_a_function_of_seed_and_position(rows):
    for start, stop in ((0, 10), (4090, 4100), (123_457, 131_001), (7, 7)):
        again = ClickLogGenerator(ClickLogConfig()).rows(range(start, stop))
        for array, part in zip(rows, again, strict=True):
            axis = 1 if array.dtype == np.int64 else 0
            assert np.array_equal(np.take(array, range(start, stop), axis), part)
    other = ClickLogGenerator(ClickLogConfig(seed=1)).rows(range(100))
    assert not np.array_equal(other[0], rows[0][:100])
    far = GENERATOR.rows(range(10**12, 10**12 + 5))
    assert len(far[2]) == 5


def test_labels_follow_the_true_probabilities(rows):
    """Calibration in ten bins of 20,000: a deviation of 5 standard errors in any has odds of 6e-6."""
    _, _, labels, logits = rows
    probabilities = 1 / (1 + np.exp(-logits[:, 0].astype(np.float64)))
    order = probabilities.argsort()
    for part in np.array_split(order, 10):
        error = np.sqrt((probabilities[part] * (1 - probabilities[part])).sum())
        assert abs(labels[part].sum() - probabilities[part].sum()) < 5 * error


def test_bayes_is_out_of_reach_of_dense_values_alone(rows):
    _, _, labels, logits = rows
    bayes, dense_only = (roc_auc_score(labels, logits[:, i]) for i in (0, 1))
    assert 0.78 < bayes < 0.85 and 0.58 < dense_only < 0.68
    assert 0.15 < labels.mean() < 0.35


def test_ids_follow_the_power_law_and_stay_in_range(rows):
    _, ids, _, _ = rows
    for t, size in enumerate(KAGGLE_NUM_EMBEDDINGS):
        assert ids[t].min() >= 0 and ids[t].max() < size
        counts = np.sort(np.unique(ids[t], return_counts=True)[1])[::-1]
        if size > 100_000:
            # k^-1.1 on [1, size + 1): shares of the two most frequent ids.
            total = (size + 1) ** -0.1 - 1
            for k in (1, 2):
                share = ((k + 1) ** -0.1 - k**-0.1) / total
                assert abs(counts[k - 1] / ROWS - share) < 6 * np.sqrt(share / ROWS)


def test_frequent_ids_are_not_the_small_ones(rows):
    _, ids, _, _ = rows
    top = [np.bincount(ids[t]).argmax() / size for t, size in enumerate(KAGGLE_NUM_EMBEDDINGS) if size > 1000]
    assert 0.2 < np.median(top) < 0.8


def test_other_shapes():
    config = ClickLogConfig(num_embeddings=(2,) * NUM_SPARSE, skew=1.0)
    assert ClickLogGenerator(config).rows(range(50))[1].max() <= 1
    large = ClickLogGenerator(ClickLogConfig(num_embeddings=MLPERF_NUM_EMBEDDINGS))
    assert sum(MLPERF_NUM_EMBEDDINGS) == 204_184_588 and large.rows(range(5000))[1].max() > 10**7


def test_bad_configs():
    with pytest.raises(ValueError, match="26 positive numbers"):
        ClickLogConfig(num_embeddings=(1, 2))
    with pytest.raises(ValueError, match="skew must be positive"):
        ClickLogConfig(skew=0)
