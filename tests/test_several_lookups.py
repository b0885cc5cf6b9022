"""Several lookups before a backward, and several backwards: an optimizer in backward takes one step a backward, on one process as on two."""

import copy

import pytest
import torch
import two_ranks
from torch.distributed.optim import _apply_optimizer_in_backward
from torch.utils.checkpoint import checkpoint
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection, get_default_pss_sharders

OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {}),
    "adagrad": (torch.optim.Adagrad, {}),
    "adam": (torch.optim.Adam, {"weight_decay": 0.3}),
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.3}),
    "decoupled": (torch.optim.Adam, {"weight_decay": 0.3, "decoupled_weight_decay": True}),
    "coupled": (torch.optim.AdamW, {"weight_decay": 0.3}),
}


def model(data_type=DataType.FP32, seed=0, **layout):
    torch.manual_seed(seed)
    table = EmbeddingBagConfig(
        name="t", num_embeddings=10**9, embedding_dim=8, feature_names=["f"], data_type=data_type
    )
    config = PSSConfig(layout="plain", array_bytes=1024, exact=(), init_range=0.5, **layout)
    return torch.nn.ModuleDict({"ebc": PSSEmbeddingBagCollection([table], is_weighted=True, config=config)})


def loss_of(ebc, step):
    generator = torch.Generator().manual_seed(step)
    ids, weights = torch.randint(0, 99, (16,), generator=generator), torch.rand(16, generator=generator)
    bags = KeyedJaggedTensor(["f"], ids, weights.requires_grad_(), lengths=torch.full((8,), 2))
    return (ebc(bags).values() - 0.3).square().sum()


def one_loss(ebc, step):
    loss_of(ebc, step).backward()


def two_losses(ebc, step):
    (loss_of(ebc, step) + 2 * loss_of(ebc, step + 50)).backward()


def one_of_two(ebc, step):
    kept, _unused = loss_of(ebc, step), loss_of(ebc, step + 50)
    kept.backward()


def two_backwards(ebc, step):
    first, second = loss_of(ebc, step), loss_of(ebc, step + 50)
    first.backward()
    second.backward()


def backward_twice(ebc, step):
    loss = loss_of(ebc, step)
    loss.backward(retain_graph=True)
    loss.backward()


def recomputed(ebc, step):
    run = [checkpoint(loss_of, ebc, number, use_reentrant=False) for number in (step, step + 50)]
    sum(run).backward()


WAYS = (one_loss, two_losses, one_of_two, two_backwards, backward_twice, recomputed)


@pytest.mark.parametrize("way", [one_loss, two_losses, one_of_two, recomputed], ids=lambda w: w.__name__)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_as_the_optimizers_own_step(name, way):
    optimizer_class, kwargs = OPTIMIZERS[name]
    modules = [model(width=4)["ebc"] for _ in range(2)]
    optimizers = []
    for module in modules:
        module.projections.requires_grad_(False)
        optimizers.append(optimizer_class([module.array], lr=0.05, **kwargs))
        if name == "coupled":
            optimizers[-1].param_groups[0]["decoupled_weight_decay"] = False
    modules[0].step_in_backward(optimizers[0])
    for step in range(4):
        way(modules[0], step)
        way(modules[1], step)
        optimizers[1].step()
        optimizers[1].zero_grad()
    torch.testing.assert_close(modules[0].array, modules[1].array)
    if name != "sgd":
        step, other = (o.state[m.array]["step"] for o, m in zip(optimizers, modules, strict=True))
        assert step == other == 4


def test_a_backward_that_fails_leaves_nothing_behind():
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise RuntimeError("on purpose")

    modules = [model()["ebc"] for _ in range(2)]
    for module in modules:
        module.step_in_backward(torch.optim.Adam([module.array], lr=0.05))
    first, second = loss_of(modules[0], 0), Fails.apply(modules[0].array.sum()) * 0 + loss_of(modules[0], 1)
    with pytest.raises(RuntimeError, match="on purpose"):
        (first + second).backward()
    del first, second
    before = modules[0].array.detach().clone()
    with torch.no_grad():
        modules[1].array.copy_(before)
    for module in modules:
        two_losses(module, 2)
    assert not torch.equal(modules[0].array, before)
    twin = copy.deepcopy(modules[0])
    for module in (modules[0], twin):
        two_losses(module, 3)
    assert torch.equal(twin.array, modules[0].array)


def trained(rank, world_size):
    """By case: the parameters after some steps on data that all ranks have."""
    found = {}
    for data_type in (DataType.FP32, DataType.BF16):
        for name in ("sgd", "adagrad", "adam", "decoupled"):
            for way in WAYS:
                whole = model(data_type, **({"width": 4} if way in (two_losses, two_backwards) else {}))
                optimizer_class, kwargs = OPTIMIZERS[name]
                _apply_optimizer_in_backward(optimizer_class, whole.parameters(), {"lr": 0.05} | kwargs)
                dmp = DistributedModelParallel(whole, sharders=get_default_pss_sharders(), device=torch.device("cpu"))
                for step in range(3):
                    way(dmp.module["ebc"], step)
                values = torch.cat([p.detach().float().flatten() for p in dmp.parameters()])
                found[str(data_type), name, way.__name__] = values.numpy()
    return found


def test_one_process_as_two(tmp_path):
    (alone,) = two_ranks.run(trained, tmp_path, world_size=1)
    first, second = two_ranks.run(trained, tmp_path)
    for case, values in alone.items():
        assert (first[case] == second[case]).all(), case
        tolerance = 1e-4 if case[0] == str(DataType.FP32) else 2e-2
        torch.testing.assert_close(
            torch.tensor(first[case]), torch.tensor(values), rtol=tolerance, atol=tolerance, msg=str(case)
        )


def after_a_failure(rank, world_size):
    """Whether a backward that failed after the array's gradient was there leaves a trace in later steps."""
    found = {}
    for data_type in (DataType.FP32, DataType.BF16):
        for optimizer_class in (torch.optim.SGD, torch.optim.RMSprop):
            arrays = []
            for fails in (False, True):
                whole = model(data_type, width=4)
                _apply_optimizer_in_backward(optimizer_class, whole.parameters(), {"lr": 0.05})
                dmp = DistributedModelParallel(whole, sharders=get_default_pss_sharders(), device=torch.device("cpu"))
                ebc = dmp.module["ebc"]
                if fails and not (world_size == 1 and optimizer_class is torch.optim.SGD):  # that steps before it fails
                    early = torch.ones(1, requires_grad=True)
                    late = early.clone()  # older than the lookup, so that backward meets it after the array
                    late.register_hook(_fail)
                    with pytest.raises(RuntimeError, match="on purpose"):
                        (loss_of(ebc, 7) * late.sum()).backward()
                    dmp.zero_grad(set_to_none=True)
                for step in range(2):
                    one_loss(ebc, step)
                arrays.append(torch.cat([p.detach().flatten() for p in dmp.parameters()]))
            found[str(data_type), optimizer_class.__name__] = torch.equal(*arrays)
    return found


def _fail(gradient):
    raise RuntimeError("on purpose")


@pytest.mark.parametrize("ranks", [1, 2])
def test_what_a_failed_backward_left_is_dropped(tmp_path, ranks):
    for found in two_ranks.run(after_a_failure, tmp_path, world_size=ranks):
        assert all(found.values()), found


def reentrant(rank, world_size):
    """What comes of an array that is read inside a reentrant checkpoint and outside it, by reduction."""
    found = {}
    for reduction in ("ddp", "all_reduce", "sparse", "in backward"):
        whole = model()
        if reduction == "in backward":
            _apply_optimizer_in_backward(torch.optim.RMSprop, whole.parameters(), {"lr": 0.05})
        sharders = get_default_pss_sharders("ddp" if reduction == "in backward" else reduction)
        ebc = DistributedModelParallel(
            whole, sharders=sharders, device=torch.device("cpu"), init_data_parallel=False
        ).module["ebc"]
        inside = torch.ones(1, requires_grad=True)
        loss = checkpoint(lambda x, of=ebc: loss_of(of, 1) * x.sum(), inside, use_reentrant=True) + loss_of(ebc, 2)
        try:
            loss.backward()
            found[reduction] = "no error"
        except RuntimeError as error:
            found[reduction] = str(error)
        one_loss(ebc, 3)
    return found


def test_a_gradient_that_comes_twice_while_it_is_reduced_is_refused(tmp_path):
    for found in two_ranks.run(reentrant, tmp_path):
        assert found.pop("ddp") == "no error"
        for reduction, message in found.items():
            assert "accumulated twice in one backward" in message and "use_reentrant=False" in message, reduction
