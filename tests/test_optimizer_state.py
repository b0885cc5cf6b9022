"""The state of an optimizer whose step is taken in backward: saved, loaded and handed back as any other's."""

import copy

import pytest
import torch
import two_ranks
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.optim import _apply_optimizer_in_backward
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import EmbeddingModuleShardingPlan, ParameterSharding, ShardingEnv
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig
from torchrec.optim.keyed import KeyedOptimizerWrapper
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection, get_default_pss_sharders
from torchrec_pss.distributed import PSSEmbeddingBagCollectionSharder

CPU = torch.device("cpu")
OPTIMIZERS = {  # rates for gradients of 1e-6, which half precision would lose
    "sgd": (torch.optim.SGD, {"lr": 1e4}),
    "momentum": (torch.optim.SGD, {"lr": 1e4, "momentum": 0.9}),
    "adagrad": (torch.optim.Adagrad, {}),
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {}),
    "rmsprop": (torch.optim.RMSprop, {"momentum": 0.9, "centered": True}),
    "nadam": (torch.optim.NAdam, {}),
}
IN_LOOKUP = ("sgd", "adagrad", "adam", "adamw")


def model(data_type=DataType.FP32, seed=0):
    torch.manual_seed(seed)
    table = EmbeddingBagConfig(
        name="t", num_embeddings=10**9, embedding_dim=8, feature_names=["f"], data_type=data_type
    )
    config = PSSConfig(layout="plain", array_bytes=1024, exact=(), width=4, init_range=0.5)
    return torch.nn.ModuleDict({"ebc": PSSEmbeddingBagCollection([table], config=config)})


def backward(module, step):
    generator = torch.Generator().manual_seed(step)
    ids = KeyedJaggedTensor(["f"], torch.randint(0, 99, (16,), generator=generator), lengths=torch.full((8,), 2))
    (1e-6 * (module(ids).values() - 0.3).square().sum()).backward()


def stepping(name, data_type, seed=0):
    whole = model(data_type, seed)
    optimizer_class, kwargs = OPTIMIZERS[name]
    optimizer = optimizer_class([whole["ebc"].array], **{"lr": 0.01} | kwargs)
    whole["ebc"].step_in_backward(optimizer)
    whole["ebc"].projections.requires_grad_(False)
    return whole, optimizer


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("name", IN_LOOKUP)
@pytest.mark.parametrize("data_type", [DataType.FP32, DataType.FP16, DataType.BF16])
def test_through_torch_distributed_checkpoint(data_type, name, steps):
    (whole, optimizer), (other, again) = stepping(name, data_type), stepping(name, data_type, seed=1)
    for step in range(steps):
        backward(whole["ebc"], step)
    before = whole["ebc"].array.detach().clone()
    parameters, state = copy.deepcopy(get_state_dict(whole, optimizer))
    assert torch.equal(whole["ebc"].array, before)  # asking takes no step
    set_state_dict(other, again, model_state_dict=parameters, optim_state_dict=state)
    for step in range(steps, steps + 2):
        backward(whole["ebc"], step)
        backward(other["ebc"], step)
    assert torch.equal(whole["ebc"].array, other["ebc"].array) and not torch.equal(whole["ebc"].array, before)


@pytest.mark.parametrize("data_type", [DataType.FP32, DataType.FP16])
def test_as_a_keyed_optimizer(data_type):
    def made(seed):
        ebc = model(data_type, seed)["ebc"]
        keyed = KeyedOptimizerWrapper({"array": ebc.array}, lambda p: torch.optim.Adam(p, lr=0.01))
        ebc.step_in_backward(keyed._optimizer)
        return ebc, keyed

    (ebc, keyed), (other, again) = made(0), made(0)
    keyed.init_state()
    assert torch.isfinite(ebc.array).all()
    backward(ebc, 0)
    backward(other, 0)
    again.load_state_dict(copy.deepcopy(keyed.state_dict()))
    assert all(v.dtype == torch.float32 for v in again.state_dict()["state"]["array"].values())
    backward(ebc, 1)
    assert torch.isfinite(ebc.array).all() and int(keyed.state_dict()["state"]["array"]["step"]) == 2 + (
        data_type == DataType.FP32
    )


@pytest.mark.parametrize("name", IN_LOOKUP)
def test_an_optimizer_that_is_given_back_steps_as_torch_has_it(name):
    whole, optimizer = stepping(name, DataType.BF16)
    ebc = whole["ebc"]
    backward(ebc, 0)
    ebc.step_in_backward(optimizer)  # no second time
    ebc.step_in_backward(None)
    assert all(v.dtype == torch.bfloat16 for k, v in optimizer.state.get(ebc.array, {}).items() if k != "step")
    before = ebc.array.detach().clone()
    for _ in range(2):
        optimizer.zero_grad()
        (1e6 * ebc(KeyedJaggedTensor(["f"], torch.arange(9), lengths=torch.ones(9).long())).values().sum()).backward()
        optimizer.step()
    assert torch.isfinite(ebc.array).all() and not torch.equal(ebc.array, before)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def test_gradients_from_elsewhere_are_not_stepped_in_half_precision():
    whole, optimizer = stepping("adam", DataType.FP16)
    whole["ebc"].array.square().sum().backward()
    before = whole["ebc"].array.detach().clone()
    with pytest.raises(ValueError, match="torch.float16 array has a gradient that is not of its lookups"):
        optimizer.step()
    assert torch.equal(whole["ebc"].array, before)


def sharded(name, data_type, seed):
    whole = model(data_type, seed)
    optimizer_class, kwargs = OPTIMIZERS[name]
    _apply_optimizer_in_backward(optimizer_class, whole.parameters(), {"lr": 0.01} | kwargs)
    return DistributedModelParallel(whole, sharders=get_default_pss_sharders(), device=CPU)


def resumed(rank, world_size):
    """By case: whether a fresh model that loads another's checkpoint goes on as that does."""
    found = {}
    for data_type in (DataType.FP32, DataType.FP16):
        for name in OPTIMIZERS:
            first, second = sharded(name, data_type, seed=0), sharded(name, data_type, seed=1)
            for step in range(2):
                backward(first.module["ebc"], step)
            second.load_state_dict(copy.deepcopy(first.state_dict()))
            second.fused_optimizer.load_state_dict(copy.deepcopy(first.fused_optimizer.state_dict()))
            for step in range(2, 4):
                for one in (first, second):
                    backward(one.module["ebc"], step)
            pairs = zip(first.module["ebc"].parameters(), second.module["ebc"].parameters(), strict=True)
            found[name, data_type] = all(torch.equal(a, b) and torch.isfinite(a).all() for a, b in pairs)
    return found


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_fresh_fused_optimizer_loads(tmp_path, ranks):
    """TorchRec's own has its state from the start, and asks that what it loads is there."""
    for found in two_ranks.run(resumed, tmp_path, world_size=ranks):
        assert all(found.values()), found


def test_several_optimizers_in_backward_are_refused():
    whole = model()
    for optimizer_class in (torch.optim.SGD, torch.optim.Adam):
        _apply_optimizer_in_backward(optimizer_class, [whole["ebc"].array], {"lr": 0.01})
    plan = EmbeddingModuleShardingPlan({"array": ParameterSharding("data_parallel", "dense", [0])})
    with pytest.raises(ValueError, match=r"module: 2 optimizers in backward \(SGD, Adam\); give it one"):
        PSSEmbeddingBagCollectionSharder().shard(whole["ebc"], plan, ShardingEnv(1, 0), CPU)
