"""BestPass: the later pass's weights unless it lost, given back to the average, and going on from a state."""

import pytest
import torch

from torchrec_pss.optim import BestPass, WeightAverage
from torchrec_pss.optim.best_pass import has_lost


def run(aurocs, best=None, average=None, parameter=None, start=0):
    """Passes of two steps, of which pass n leaves weights of n + 1 (power so high that the average is the last weights)."""
    parameter = torch.nn.Parameter(torch.zeros(3)) if parameter is None else parameter
    average = WeightAverage({"p": parameter}, power=1e9) if average is None else average
    best = BestPass(average) if best is None else best
    for number in range(start, len(aurocs)):
        parameter.data.fill_(number + 1.0)
        average.step()
        average.step()
        best.end_pass(aurocs[: number + 1])
    return parameter, average, best


@pytest.mark.parametrize(
    "aurocs, taken",
    [([0.7], 1), ([0.7, 0.71], 2), ([0.7, 0.6995], 2), ([0.7, 0.6985], 1), ([0.7, 0.71, 0.7085], 2), ([0.7, 0.69, 0.72], 3),
     ([0.7, 0.6993, 0.6986], 2)],
)  # fmt: skip
def test_the_last_pass_that_did_not_lose_is_restored(aurocs, taken):
    parameter, average, best = run(aurocs)
    best.restore()
    assert best.number == taken and has_lost(aurocs) == (taken < len(aurocs))
    with average.applied():
        assert torch.equal(parameter.detach(), torch.full((3,), float(taken)))
    assert int(average.state_dict()["_steps"]) == 2 * taken


def test_going_on_from_a_state():
    aurocs = [0.7, 0.71, 0.6]
    parameter, average, first = run(aurocs[:2])
    state = {name: value.clone() for name, value in first.state_dict().items()}
    second = BestPass(average)
    second.load_state_dict(state)
    run(aurocs, second, average, parameter, start=2)
    second.restore()
    assert second.number == 2 and torch.equal(average.state_dict()["p"], torch.full((3,), 2.0))
    with pytest.raises(KeyError, match="p"):
        second.load_state_dict({"_steps": torch.tensor(2), "_pass": torch.tensor(2)})


def test_without_an_earlier_pass_the_one_that_ends_is_taken():
    """As after resuming from a checkpoint that kept none."""
    parameter = torch.nn.Parameter(torch.ones(3))
    best = BestPass(WeightAverage({"p": parameter}))
    best.end_pass([0.8, 0.7])
    assert best.number == 2
