"""docs/how/theory.md against experiment: each check fails if a formula were wrong by a constant factor."""

import numpy as np
import pytest

from benchmarks.quality.theory import (
    Case,
    dot_product_noise,
    error_bound,
    fitted_error,
    predicted_noise,
    uniform_error,
)

SEEDS = range(4)


def measured(case):
    """Mean over the seeds and its standard error."""
    errors = [fitted_error(case, seed) for seed in SEEDS]
    return float(np.mean(errors)), float(np.std(errors, ddof=1) / len(errors) ** 0.5)


UNIFORM = [(4000, 8, 1000, 1), (4000, 8, 10_000, 1), (4000, 8, 100_000, 1), (4000, 2, 3200, 1), (1000, 32, 8000, 1)]


@pytest.mark.parametrize("rows, dim, numel, block", UNIFORM)
def test_uniform_reads_err_as_the_exact_formula_says(rows, dim, numel, block):
    case = Case(rows, dim, numel, block)
    mean, _ = measured(case)
    assert mean == pytest.approx(uniform_error(case), rel=0.02)
    assert mean < error_bound(case) < 2 * mean


BOUNDED = [
    *(Case(20_000, 4, m, skew=s) for s in (0.8, 1.1) for m in (200, 2000)),
    Case(20_000, 4, 200, skew=1.5),
    *(Case(20_000, 4, 2000, block=z, skew=1.1) for z in (2, 4)),
    Case(20_000, 16, 2000, skew=1.1),
    Case(20_000, 4, 2000, skew=1.1, hot=100),
    Case(20_000, 4, 20_000, skew=1.1, hot=1000),
]


@pytest.mark.parametrize("case", BOUNDED, ids=str)
def test_the_bound_holds_and_is_no_looser_than_twofold(case):
    """Jensen's step costs most where few rows are nearly all reads: at larger skew and size it is looser than this."""
    mean, error = measured(case)
    assert mean <= error_bound(case) + 3 * error
    assert mean >= 0.5 * error_bound(case)


def test_a_bound_with_a_wrong_constant_would_be_seen():
    """The measured error lies between the bound and what it would be with 1.3 times the elements."""
    for case in (Case(4000, 8, 3200), Case(20_000, 4, 2000, skew=1.1, hot=100)):
        optimistic = Case(case.rows, case.dim, round(1.3 * case.numel), 1, case.skew, case.hot)
        mean, error = measured(case)
        assert error_bound(optimistic) + 3 * error < mean


@pytest.mark.parametrize("dim, fraction", [(4, 0.1), (16, 0.1), (64, 0.1), (16, 0.03)])
def test_dot_products_keep_f_squared_of_their_signal(dim, fraction):
    case = Case(4000, dim, round(4000 * dim * fraction))
    slopes, noises = zip(*(dot_product_noise(case, seed) for seed in SEEDS), strict=True)
    assert np.mean(noises) == pytest.approx(predicted_noise(fraction), rel=0.1)
    # 2000 pairs a seed: the slope's standard error is noise / sqrt(2000).
    assert abs(np.mean(slopes) - fraction**2) < 4 * predicted_noise(fraction) / (2000 * len(SEEDS)) ** 0.5
