"""WeightAverage: the weights of the paper's formula, swapping, and going on from a state."""

import pytest
import torch

from torchrec_pss.optim import WeightAverage


def walk(steps, seed=0):
    return torch.randn(steps, 3, generator=torch.Generator().manual_seed(seed)).cumsum(0)


def averaged(values, power, every=1):
    parameter = torch.nn.Parameter(torch.zeros(3))
    average = WeightAverage({"p": parameter}, power, every)
    for value in values:
        parameter.data.copy_(value)
        average.step()
    return parameter, average


@pytest.mark.parametrize("power", [0, 1, 8])
def test_weights_are_those_of_polynomial_decay(power):
    """n-th of N weights: (power + 1)/(N + power) times the product of the later ones' complements."""
    values = walk(40)
    parameter, average = averaged(values, power)
    weights = torch.tensor([(power + 1) / (n + power) for n in range(1, 41)], dtype=torch.float64)
    later = torch.cat([(1 - weights).flip(0).cumprod(0).flip(0)[1:], torch.ones(1)])
    expected = ((weights * later)[:, None] * values.double()).sum(0)
    torch.testing.assert_close(float((weights * later).sum()), 1.0)
    with average.applied():
        torch.testing.assert_close(parameter.detach().double(), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(parameter.detach(), values[-1])
    if power == 0:
        torch.testing.assert_close(expected, values.double().mean(0))


def test_every_takes_one_step_of_so_many():
    values = walk(41)
    _, average = averaged(values, 2, every=4)
    _, thinned = averaged(values[3::4], 2)
    assert torch.equal(average.state_dict()["p"], thinned.state_dict()["p"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_averages_of_half_precision_are_in_fp32(dtype):
    """In their own, late steps would round to none."""
    parameter = torch.nn.Parameter(torch.zeros(3, dtype=dtype))
    average = WeightAverage({"p": parameter}, 0)
    values = (walk(3000) / 50 + 1).to(dtype)
    for value in values:
        parameter.data.copy_(value)
        average.step()
    torch.testing.assert_close(average.state_dict()["p"], values.float().mean(0), rtol=1e-4, atol=1e-4)
    with average.applied():
        torch.testing.assert_close(parameter, values.float().mean(0).to(dtype))
    assert torch.equal(parameter, values[-1])
    kept = average.state_dict()["p"].clone()
    with average.applied():
        pass
    assert torch.equal(average.state_dict()["p"], kept)


def test_before_the_first_update_the_weights_themselves():
    values = walk(3)
    parameter, average = averaged(values, 8, every=4)
    with average.applied():
        assert torch.equal(parameter.detach(), values[-1])


def test_the_weights_come_back_after_an_error():
    parameter, average = averaged(walk(5), 8)
    before = parameter.detach().clone()
    with pytest.raises(RuntimeError), average.applied():
        raise RuntimeError
    assert torch.equal(parameter.detach(), before)


def test_going_on_from_a_state_equals_an_undisturbed_run():
    values = walk(30)
    _, whole = averaged(values, 8, every=2)
    parameter, first = averaged(values[:13], 8, every=2)
    second = WeightAverage({"p": parameter}, 8, every=2)
    second.load_state_dict({k: v.clone() for k, v in first.state_dict().items()})
    for value in values[13:]:
        parameter.data.copy_(value)
        second.step()
    assert torch.equal(second.state_dict()["p"], whole.state_dict()["p"])
    with pytest.raises(KeyError, match="no average of 'p'"):
        second.load_state_dict({"_steps": torch.tensor(1)})


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"power": -1}, "power must be at least 0, got -1"),
        ({"power": float("nan")}, "power must be a number, got nan"),
        ({"power": float("inf")}, "power must be at most 1e[+]12, got inf"),
        ({"every": 0}, "every must be positive, got 0"),
        ({"every": 1.5}, "every must be a whole number, got 1.5"),
        ({"every": True}, "every must be a whole number, got True"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        WeightAverage({}, **arguments)
