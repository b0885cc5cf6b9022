"""How often a run goes over its rows, and what it keeps between two passes."""

import pytest

from torchrec_pss.density import reads_a_row
from torchrec_pss.optim.passes import Passes, automatic_passes, last_gain, more_would_pay

KAGGLE = [30_000_000, 4_000_000, 24, 3]


def test_reads_of_a_row_leave_out_tables_of_one():
    assert reads_a_row(1000, [10, 90, 1, 1]) == 20.0
    assert reads_a_row(1000, [1, 1]) == 0.0


def test_embeddings_of_sparse_logs_begin_anew_and_those_of_dense_logs_are_kept():
    assert automatic_passes(64_000, [60_000, 100_000]) == Passes(3, keeps=False)
    assert automatic_passes(64_000, [60_000, 100_000], cross_layers=True) == Passes(2, keeps=False)
    assert automatic_passes(12_000_000, KAGGLE) == Passes(1, keeps=False)
    assert automatic_passes(640_000, [6000, 3700, 300]) == Passes(20, keeps=True)
    assert automatic_passes(5_000_000, [6000, 3700, 300]) == Passes(6, keeps=True)
    assert automatic_passes(10**9, [6000]) == Passes(1, keeps=True)


@pytest.mark.parametrize("keeps", [False, True])
def test_what_is_kept_may_be_said(keeps):
    assert automatic_passes(64_000, [60_000, 100_000], keeps=keeps).keeps == keeps
    assert automatic_passes(640_000, [6000, 3700], keeps=keeps).keeps == keeps


def test_kept_embeddings_go_on_while_a_pass_gains():
    kept = Passes(20, keeps=True)
    assert kept.go_on([]) and kept.go_on([0.7]) and kept.go_on([0.7, 0.7006])
    assert not kept.go_on([0.7, 0.7004]) and not kept.go_on([0.7, 0.71, 0.7003])
    assert not kept.go_on([0.7 + k / 1000 for k in range(20)])


def test_embeddings_that_begin_anew_go_on_until_a_pass_has_lost():
    anew = Passes(3, keeps=False)
    assert anew.go_on([0.7]) and anew.go_on([0.7, 0.6995])
    assert not anew.go_on([0.7, 0.698]) and not anew.go_on([0.7, 0.71, 0.72])


def test_a_given_number_of_passes_is_made():
    given = Passes(4, keeps=True, stops_early=False)
    assert given.go_on([0.7, 0.6, 0.5]) and not given.go_on([0.7, 0.6, 0.5, 0.4])


def test_what_more_passes_would_pay():
    assert last_gain([0.7]) == 0.0 and last_gain([0.7, 0.72, 0.71]) == pytest.approx(-0.01)
    assert more_would_pay([0.7, 0.701]) and not more_would_pay([0.7]) and not more_would_pay([0.7, 0.7001])
