"""Optimizers whose step on the array is part of backward: the same training as with torch.optim's own step."""

import pytest
import torch
from lookup_cases import of_backward, on_threads, positional, random_case
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection
from torchrec_pss.modules.id_counts import IdCounts
from torchrec_pss.ops import lookup, reference
from torchrec_pss.ops.fused import ArrayUpdate, fused_lookup
from torchrec_pss.ops.update_kinds import UpdateKind, UpdateNumbers

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05, lr_decay=0.1, initial_accumulator_value=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, eps=1e-4, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.8, 0.95)),
}
NUMBERS = UpdateNumbers(0.1, 1e-3, 0.9, 0.99, 0.05, 0.4, 0.3)
ROWS = {"t1": 100, "t2": 5000, "t3": 40}


def module(layout="auto", pooling=PoolingType.SUM, bits=32):
    torch.manual_seed(0)
    tables = [
        EmbeddingBagConfig(name=t, num_embeddings=n, embedding_dim=16, feature_names=[f"f{t}"], pooling=pooling)
        for t, n in ROWS.items()
    ]
    counts = {
        t: IdCounts(torch.arange(n // 20).numpy(), torch.full((n // 20,), 9).numpy(), 200_000) for t, n in ROWS.items()
    }
    config = PSSConfig(array_bytes=20_000, layout=layout, counts=counts if layout == "auto" else None, bits=bits)
    return PSSEmbeddingBagCollection(tables, config=config, is_weighted=True)


def batch(seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 4, (3 * 64,), generator=generator, dtype=torch.int32)
    per_table = lengths.view(3, -1).sum(1).tolist()
    ids = [torch.randint(0, n, (k,), generator=generator) for n, k in zip(ROWS.values(), per_table, strict=True)]
    weights = torch.rand(int(lengths.sum()), generator=generator)
    return KeyedJaggedTensor([f"f{t}" for t in ROWS], torch.cat(ids), weights, lengths)


def train(ebc, make, fused, steps=6):
    optimizer = make([ebc.array])
    others = [] if ebc.projections is None else [torch.optim.SGD([ebc.projections], lr=0.1)]
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    if fused:
        ebc.step_in_backward(optimizer)
    for step in range(steps):
        for o in (optimizer, *others):
            o.zero_grad()
        ebc(batch(step)).values().square().sum().backward()
        assert (ebc.array.grad is None) == fused
        for o in (optimizer, *others):
            o.step()
        schedule.step()
    return optimizer


@pytest.mark.parametrize("layout", ["auto", "plain"])
@pytest.mark.parametrize("pooling", [PoolingType.SUM, PoolingType.MEAN])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_equals_the_optimizers_own_steps(name, pooling, layout):
    ours, theirs = module(layout, pooling), module(layout, pooling)
    before = ours.array.detach().clone()
    fused, dense = train(ours, OPTIMIZERS[name], True), train(theirs, OPTIMIZERS[name], False)
    for (key, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6, msg=key)
    assert (ours.array != before).float().mean() > 0.1
    mine, other = fused.state_dict(), dense.state_dict()
    assert mine["param_groups"] == other["param_groups"]
    torch.testing.assert_close(mine["state"], other["state"], rtol=1e-5, atol=1e-6)


def is_read(case):
    """Which elements the case's ids read."""
    found = torch.zeros(case["array"].numel(), dtype=torch.bool)
    starts = case["offsets"][:: max((len(case["offsets"]) - 1) // len(case["features"]), 1)].tolist()
    for feature, begin, end in zip(case["features"], starts[:-1], starts[1:], strict=False):
        ids = case["indices"][begin:end]
        addresses, _ = reference.row_addresses(feature, case["hot_keys"], ids, case["hash_kind"], case["sign"])
        found[addresses] = True
    return found


def by_formula(kind, array, gradient, state, second):
    """What array and states become, from the optimizers' papers."""
    rate, eps, beta1, beta2, decay, correction1, correction2 = NUMBERS
    if kind == UpdateKind.NONE:
        return array, state, second
    if kind == UpdateKind.SGD:
        return array - rate * gradient, state, second
    if kind == UpdateKind.ADAGRAD:
        state = state + gradient**2
        return array - rate * gradient / (state.sqrt() + eps), state, second
    if kind == UpdateKind.ADAM:
        gradient = gradient + decay * array
    else:
        array = array * (1 - rate * decay)
    state = beta1 * state + (1 - beta1) * gradient
    second = beta2 * second + (1 - beta2) * gradient**2
    return array - rate * (state / correction1) / (second.sqrt() / correction2 + eps), state, second


@pytest.mark.parametrize("kind", list(UpdateKind))
def test_update_equals_the_formula_on_random_configurations(kind):
    for seed in range(300):
        case = random_case(seed)
        dtype = torch.promote_types(case["array"].dtype, torch.float32)
        dense = case["array"].clone().requires_grad_()
        out = lookup(**case | {"array": dense})
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
        out.backward(grad)
        gradient, wide = dense.grad.to(dtype), case["array"].to(dtype)
        sink, state = torch.zeros_like(wide), torch.full_like(wide, 0.5)
        second = torch.full_like(wide, 0.3)
        expected, expected_state, expected_second = by_formula(kind, wide, gradient, state, second)

        array = case["array"].clone().requires_grad_()
        update = ArrayUpdate(kind, NUMBERS, sink, state, second)
        given = wide.clone().requires_grad_()  # the gradient, of NONE
        fused_out = fused_lookup(**case | {"array": array}, update=lambda u=update: u, gradient_of=given)
        on_threads(1 + seed % 3, lambda o=fused_out, g=grad: o.backward(g))
        by_reference = case["array"].clone()
        their_sink, their_state, their_second = (
            torch.zeros_like(wide),
            torch.full_like(wide, 0.5),
            torch.full_like(wide, 0.3),
        )
        arguments = list(of_backward(case).values())[1:]
        _, saved = reference.lookup(**case)
        reference.lookup_backward_update_(
            grad, saved, by_reference, their_sink, their_state, their_second, *arguments, int(kind), list(NUMBERS)
        )
        low = case["array"].dtype in (torch.bfloat16, torch.float16)
        tolerance = {"rtol": 3e-2, "atol": 3e-2} if low else {"rtol": 1e-4, "atol": 1e-4}
        torch.testing.assert_close(array.detach().to(dtype), expected.to(array.dtype).to(dtype), **tolerance)
        torch.testing.assert_close(by_reference.to(dtype), array.detach().to(dtype), **tolerance)
        if kind in (UpdateKind.SGD, UpdateKind.ADAGRAD):
            untouched = ~is_read(case)
            assert torch.equal(array.detach()[untouched], case["array"][untouched])
        assert array.grad is None
        if kind == UpdateKind.NONE:
            torch.testing.assert_close(given.grad, gradient, **tolerance)
            torch.testing.assert_close(sink, gradient, **tolerance)
        else:
            assert given.grad is None and not sink.any()
        torch.testing.assert_close(state, expected_state, **tolerance)
        torch.testing.assert_close(second, expected_second, **tolerance)


@pytest.mark.parametrize("kind", [UpdateKind.ADAGRAD, UpdateKind.ADAM])
@pytest.mark.parametrize("seed", range(3))
def test_opcheck(seed, kind):
    case = random_case(seed, torch.float32)
    out, saved = torch.ops.torchrec_pss.lookup(*positional(case))
    sink, state, second = (torch.full_like(case["array"], value) for value in (0.0, 1.0, 1.0))
    arguments = list(of_backward(case).values())[1:]
    torch.library.opcheck(
        torch.ops.torchrec_pss.lookup_backward_update_.default,
        (torch.ones_like(out), saved, case["array"], sink, state, second, *arguments, int(kind), list(NUMBERS)),
    )


def test_nan_gradients_pass_through():
    ebc = module()
    optimizer = OPTIMIZERS["sgd"]([ebc.array])
    ebc.step_in_backward(optimizer)
    (ebc(batch(0)).values() * float("nan")).sum().backward()
    assert ebc.array.isnan().any() and not ebc.array.isnan().all()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda p: torch.optim.Adam(p, amsgrad=True), "Adam with amsgrad"),
        (lambda p: torch.optim.RMSprop(p), "RMSprop is none of SGD, Adagrad, Adam, AdamW"),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), "SGD with momentum"),
        (lambda p: torch.optim.Adagrad(p, weight_decay=0.1), "Adagrad with weight_decay"),
        (lambda p: torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1), "none of the optimizer's parameters"),
    ],
)
def test_other_optimizers_are_refused(make, message):
    ebc = module()
    with pytest.raises(ValueError, match=message):
        ebc.step_in_backward(make([ebc.array]))


def test_two_lookups_are_refused():
    tables = module().embedding_bag_configs()
    tables[0].pooling = PoolingType.MEAN
    ebc = PSSEmbeddingBagCollection(tables, config=PSSConfig(array_bytes=20_000))
    with pytest.raises(ValueError, match="two lookups"):
        ebc.step_in_backward(OPTIMIZERS["sgd"]([ebc.array]))
