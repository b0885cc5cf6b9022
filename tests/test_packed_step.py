"""Elements of few bits whose optimizer steps the fp32 array in backward: what was read stays codes, the gradient goes past them."""

import pytest
import torch
from lookup_cases import of_backward, on_threads, positional
from test_lookup import simple_case
from test_packed_lookup import trained_case
from test_step_in_backward import NUMBERS, OPTIMIZERS, by_formula, is_read, module, train

from torchrec_pss.ops import packed as ops
from torchrec_pss.ops.fused import ArrayUpdate, fused_lookup
from torchrec_pss.ops.packed import lookup_trained
from torchrec_pss.ops.quantize import quantize
from torchrec_pss.ops.update_kinds import UpdateKind

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def states_of(array):
    return torch.zeros_like(array), torch.full_like(array, 0.5), torch.full_like(array, 0.3)


def leaves(case):
    """The same with an array, projections and weights of its own that learn."""
    names = [n for n in ("array", "projections", "per_sample_weights") if case[n] is not None]
    return case | {n: case[n].clone().requires_grad_() for n in names}


@pytest.mark.parametrize("kind", list(UpdateKind))
def test_a_step_equals_the_formula_on_random_configurations(kind):
    for seed in range(200):
        case, bits = trained_case(seed)
        dense, fused = leaves(case), leaves(case)
        out = lookup_trained(**dense, bits=bits)
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed))
        out.backward(grad)
        sink, state, second = states_of(case["array"])
        expected = by_formula(kind, case["array"], dense["array"].grad, state, second)

        update = ArrayUpdate(kind, NUMBERS, sink, state.clone(), second.clone())
        given = case["array"].clone().requires_grad_()
        found = fused_lookup(**fused, bits=bits, update=lambda u=update: u, gradient_of=given)
        assert torch.equal(found, out)
        on_threads(1 + seed % 3, lambda o=found, g=grad: o.backward(g))
        for actual, truth in zip((fused["array"], update.state, update.second), expected, strict=True):
            torch.testing.assert_close(actual.detach(), truth, **TOLERANCE)
        for name in ("projections", "per_sample_weights"):
            if case[name] is not None:
                torch.testing.assert_close(fused[name].grad, dense[name].grad, **TOLERANCE)
        if kind == UpdateKind.NONE:
            torch.testing.assert_close(given.grad, dense["array"].grad, **TOLERANCE)
        else:
            assert given.grad is None and not sink.any()
        if kind in (UpdateKind.SGD, UpdateKind.ADAGRAD):
            untouched = ~is_read(case)
            assert torch.equal(fused["array"].detach()[untouched], case["array"][untouched])


def compare(seed, kind):
    """Raises AssertionError where kernel and reference differ."""
    kernels = torch.ops.torchrec_pss
    case, bits = trained_case(seed)
    codes, scales = ops.pack_reference(case["array"], bits)
    elements = codes, scales, None, len(case["array"]), bits
    out, saved = ops.lookup_packed_reference(*elements, *positional(case)[1:])
    _, kept = kernels.lookup_packed(*elements, *positional(case)[1:])
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed))
    behind = list(of_backward(case).values())[1:]
    results = []
    for step, left in (
        (kernels.lookup_packed_backward_update_, kept),
        (ops.lookup_packed_backward_update_reference, saved),
    ):
        array, states = case["array"].clone(), states_of(case["array"])
        gradients = step(grad, left, codes, scales, bits, array, *states, *behind, int(kind), list(NUMBERS))
        results.append((array, *states, *gradients))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, **TOLERANCE)


@pytest.mark.parametrize("kind", list(UpdateKind))
def test_the_kernel_equals_the_reference(kind):
    for seed in range(100):
        compare(seed, kind)


@pytest.mark.parametrize("kind", [UpdateKind.NONE, UpdateKind.SGD, UpdateKind.ADAM])
def test_opcheck(kind):
    case, bits = trained_case(1)
    codes, scales = ops.pack(case["array"], bits)
    out, saved = torch.ops.torchrec_pss.lookup_packed(
        codes, scales, None, len(case["array"]), bits, *positional(case)[1:]
    )
    arguments = list(of_backward(case).values())[1:]
    torch.library.opcheck(
        torch.ops.torchrec_pss.lookup_packed_backward_update_.default,
        (
            torch.ones_like(out), saved, codes, scales, bits, case["array"], *states_of(case["array"]), *arguments, int(kind), list(NUMBERS),
        ),
    )  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_collection_learns_what_the_optimizers_own_step_teaches(name):
    """One step: in a second, rounding may move an element by a level."""
    ours, theirs = module(bits=4), module(bits=4)
    before = ours.array.detach().clone()
    fused, dense = (train(m, OPTIMIZERS[name], f, steps=1) for m, f in ((ours, True), (theirs, False)))
    for (key, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6, msg=key)
    assert (ours.array != before).float().mean() > 0.05
    torch.testing.assert_close(fused.state_dict()["state"], dense.state_dict()["state"], rtol=1e-5, atol=1e-6)
    train(ours, OPTIMIZERS[name], True)
    assert not torch.equal(ours.array.detach(), quantize(ours.array.detach(), 4)), "the array must stay fp32"


def test_a_backward_reads_what_its_own_forward_read():
    """Of two backwards after two forwards, the first of which steps."""
    case = simple_case(torch.arange(40) % 13, torch.arange(0, 41, 2))
    array = case.pop("array").requires_grad_()
    update = ArrayUpdate(UpdateKind.SGD, NUMBERS, torch.zeros(len(array)))
    weights = [torch.rand(40, requires_grad=True) for _ in range(2)]
    outs = [
        fused_lookup(array, **case | {"per_sample_weights": w}, bits=4, update=lambda: update)
        for w in weights
    ]  # fmt: skip
    twins = [w.detach().clone().requires_grad_() for w in weights]
    for twin in twins:
        lookup_trained(array.detach().clone(), **case | {"per_sample_weights": twin}, bits=4).sum().backward()
    before = array.detach().clone()
    for out in outs:
        out.sum().backward()
    assert not torch.equal(array.detach(), before)
    for weight, twin in zip(weights, twins, strict=True):
        torch.testing.assert_close(weight.grad, twin.grad)


def test_bits_and_arrays_of_other_kinds_are_refused():
    case, _ = trained_case(0)
    update = ArrayUpdate(UpdateKind.SGD, NUMBERS, torch.zeros(len(case["array"])))
    with pytest.raises(ValueError, match="bits must be one of"):
        fused_lookup(**case, bits=5, update=lambda: update)
    with pytest.raises(ValueError, match="array must be an fp32 vector"):
        fused_lookup(**case | {"array": case["array"].double()}, bits=4, update=lambda: update)
