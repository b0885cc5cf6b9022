"""fp16 and bf16 arrays: every optimizer that is ours computes in fp32, and a module says what torch.optim's own would do."""

import copy
import warnings

import pytest
import torch
import torch.distributed as dist
import two_ranks
from lookup_cases import of_backward, positional, random_case
from torch.distributed.optim import _apply_optimizer_in_backward
from torchrec.distributed.planner import Topology
from torchrec.distributed.types import EmbeddingModuleShardingPlan, ParameterSharding, ShardingEnv
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection, PSSEmbeddingCollection, get_default_pss_sharders
from torchrec_pss.distributed import PSSEmbeddingBagCollectionSharder, PSSEmbeddingCollectionSharder
from torchrec_pss.distributed.mixed_embeddingbag import MixedEmbeddingBagCollectionSharder
from torchrec_pss.distributed.planner import PSSShardingPlanner
from torchrec_pss.modules.array_restart import ArrayRestart
from torchrec_pss.ops import HAS_CPU_KERNEL, reference
from torchrec_pss.ops.update_kinds import UpdateKind
from torchrec_pss.optim.stand_in import state_of

CPU = torch.device("cpu")
STEPS = 4
DTYPES = {DataType.FP16: torch.float16, DataType.BF16: torch.bfloat16}
# Those that step in the lookup, and some that do not.
OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.05}),
    "adagrad": (torch.optim.Adagrad, {"lr": 0.05}),
    "adam": (torch.optim.Adam, {"lr": 0.01}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01}),
    "momentum": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    "amsgrad": (torch.optim.Adam, {"lr": 0.01, "amsgrad": True}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 0.01}),
}


def tables(data_type, pooling=PoolingType.SUM):
    sizes = {"t": (10**9, pooling), "u": (40, PoolingType.SUM)}
    return [
        EmbeddingBagConfig(
            name=n, num_embeddings=rows, embedding_dim=8, feature_names=[f"f{n}"], data_type=data_type, pooling=how
        )
        for n, (rows, how) in sizes.items()
    ]


def model(data_type, kind="bags", seed=0):
    torch.manual_seed(seed)
    config = PSSConfig(layout="plain", array_bytes=4000, exact=["u"], width={"t": 4}, init_range=0.5)
    pooling = PoolingType.MEAN if kind == "two poolings" else PoolingType.SUM
    if kind == "sequences":
        names = {t.name: (t.num_embeddings, t.feature_names) for t in tables(data_type)}
        configs = [EmbeddingConfig(name=n, num_embeddings=r, embedding_dim=8, feature_names=f, data_type=data_type) for n, (r, f) in names.items()]  # fmt: skip
        return torch.nn.ModuleDict({"ebc": PSSEmbeddingCollection(configs, config=config)})
    return torch.nn.ModuleDict({"ebc": PSSEmbeddingBagCollection(tables(data_type, pooling), config=config)})


def batch(step, rank=0):
    generator = torch.Generator().manual_seed(100 * step + rank)
    lengths = torch.randint(0, 4, (32,), generator=generator)
    return KeyedJaggedTensor(["ft", "fu"], torch.randint(0, 40, (int(lengths.sum()),), generator=generator), lengths=lengths)  # fmt: skip


def read(ebc, kjt):
    found = ebc(kjt)
    found = found.wait() if hasattr(found, "wait") else found
    return torch.cat([j.values().flatten() for j in found.values()]) if isinstance(found, dict) else found.values()


def loss_of(ebc, kjt):
    """Gradients of 1e-6, as those of a mean over a large batch: below what fp16 tells from zero."""
    return 1e-6 * (read(ebc, kjt) - 0.3).square().sum()


def sharded(module, process_group=None):
    """As DistributedModelParallel does it."""
    env = ShardingEnv(1, 0) if process_group is None else ShardingEnv.from_process_group(process_group)
    sharder = (
        PSSEmbeddingCollectionSharder
        if isinstance(module, PSSEmbeddingCollection)
        else PSSEmbeddingBagCollectionSharder
    )()
    plan = EmbeddingModuleShardingPlan(
        {"array": ParameterSharding("data_parallel", "dense", list(range(env.world_size)))}
    )
    return sharder.shard(module, plan, env, CPU)


def trained(rank, world_size, data_type, kind, process_group=None):
    """By optimizer, after four steps: the array, as fp32, and the dtypes of its optimizer's state."""
    found = {}
    for name, (optimizer_class, kwargs) in OPTIMIZERS.items():
        ebc = model(data_type, kind, seed=rank)["ebc"]
        _apply_optimizer_in_backward(optimizer_class, ebc.parameters(), kwargs)
        ebc = sharded(ebc, dist.group.WORLD if world_size > 1 else None)
        for step in range(STEPS):
            loss_of(ebc, batch(step, rank)).backward()
        state = ebc.fused_optimizer.state_dict()["state"].get("array", {})
        found[name] = ebc.array.detach().float().numpy(), {v.dtype for v in state.values() if torch.is_tensor(v)}
    return found


def trained_alone(data_type, name, kind, ranks):
    """The same by torch.optim in fp32, on an array that is rounded after each step; means over the ranks' batches."""
    whole = model(data_type, kind)
    array, projections = whole["ebc"].array, whole["ebc"].projections
    optimizer_class, kwargs = OPTIMIZERS[name]
    wide = torch.nn.Parameter(array.detach().float())
    optimizers = [optimizer_class([p], **kwargs) for p in (wide, projections)]
    double = copy.deepcopy(whole["ebc"]).float()
    for step in range(STEPS):
        with torch.no_grad():
            double.array.copy_(wide)
            double.projections.copy_(projections)
        double.zero_grad()
        sum(loss_of(double, batch(step, rank)) for rank in range(ranks)).div(ranks).backward()
        wide.grad, projections.grad = double.array.grad, double.projections.grad
        for optimizer in optimizers:
            optimizer.step()
        with torch.no_grad():
            wide.copy_(wide.to(array.dtype))
    return wide.detach()


def close(array, expected, dtype):
    """Up to a unit in the last place: fp32 sums in another order round to the neighbour now and then."""
    assert torch.isfinite(array).all()
    ulp = torch.finfo(dtype).eps
    torch.testing.assert_close(array, expected, rtol=2 * ulp, atol=2 * ulp)
    assert (array != expected).float().mean() < 0.05


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("kind", ["bags", "two poolings", "sequences"])
@pytest.mark.parametrize("data_type", DTYPES)
def test_optimizers_in_backward_compute_in_fp32(tmp_path, data_type, kind, ranks):
    """On one process the lookup's backward steps where it can; on two the gradient is averaged before."""
    of_ranks = [trained(0, 1, data_type, kind)] if ranks == 1 else two_ranks.run(trained, tmp_path, data_type, kind)
    start = model(data_type, kind)["ebc"].array.detach().float()
    for name, (array, dtypes) in of_ranks[0].items():
        assert all((other[name][0] == array).all() for other in of_ranks)
        assert dtypes <= {torch.float32}, name
        expected = trained_alone(data_type, name, kind, ranks)
        close(torch.from_numpy(array), expected, DTYPES[data_type])
        assert name in ("sgd", "momentum") or (expected != start).float().mean() > 0.1


@pytest.mark.parametrize("name", ["sgd", "adagrad", "adam", "adamw"])
@pytest.mark.parametrize("data_type", DTYPES)
def test_step_in_backward_of_a_plain_module(data_type, name):
    """Also of a deep copy, and after loading the optimizer's state, which torch.optim would round to the array's dtype."""
    optimizer_class, kwargs = OPTIMIZERS[name]
    ebc = model(data_type)["ebc"]
    optimizer = optimizer_class([ebc.array], **kwargs)
    ebc.step_in_backward(optimizer)
    projections = optimizer_class([ebc.projections], **kwargs)
    for step in range(STEPS):
        projections.zero_grad()
        loss_of(ebc, batch(step)).backward()
        projections.step()
        optimizer.step()
        if step == 1:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    close(ebc.array.detach().float(), trained_alone(data_type, name, "bags", ranks=1), DTYPES[data_type])
    assert all(v.dtype == torch.float32 for v in state_of(optimizer, ebc.array).values())
    twin = copy.deepcopy(ebc)
    before = ebc.array.detach().clone()
    loss_of(twin, batch(9)).mul(1e6).backward()
    assert torch.equal(ebc.array, before) and not torch.equal(twin.array, before) and torch.isfinite(twin.array).all()
    restart = ArrayRestart(ebc)
    loss_of(ebc, batch(9)).mul(1e6).backward()
    restart.restart(optimizer)
    assert torch.equal(ebc.array, before) and not any(v.any() for v in state_of(optimizer, ebc.array).values())


def test_the_planner_hands_fp16_tables_optimizers_over():
    ebc = EmbeddingBagCollection(tables(DataType.FP16)[:1], device=torch.device("meta"))
    _apply_optimizer_in_backward(torch.optim.Adagrad, ebc.parameters(), {"lr": 0.1})
    whole = torch.nn.ModuleDict({"ebc": ebc})
    sharders = get_default_pss_sharders()
    planner = PSSShardingPlanner(Topology(world_size=1, compute_device="cpu"), pss="always", array_bytes=4000)
    plan = planner.plan(whole, sharders)
    mixed = sharders_of(sharders, MixedEmbeddingBagCollectionSharder).shard(
        ebc, plan.plan["ebc"], ShardingEnv(1, 0), CPU
    )
    array = mixed.array.array
    for step in range(3):
        loss_of(mixed, batch(step)).backward()
    assert array.dtype == torch.float16 and torch.isfinite(array).all()
    assert mixed.array.fused_optimizer.state_dict()["state"]["array"]["sum"].dtype == torch.float32


def sharders_of(sharders, kind):
    return next(s for s in sharders if isinstance(s, kind))


@pytest.mark.parametrize("kernel", ["op", "reference"])
def test_adagrad_leaves_elements_without_a_gradient_where_eps_is_zero(kernel):
    """0 / 0: of an element that was read, and whose gradients cancel or are zero."""
    assert HAS_CPU_KERNEL
    for seed in range(40):
        case = random_case(seed, torch.float32)
        out, saved = torch.ops.torchrec_pss.lookup(*positional(case))
        saved = saved if kernel == "op" else saved[:1]
        update = torch.ops.torchrec_pss if kernel == "op" else reference
        array, sink, state = case["array"].clone(), *(torch.zeros_like(case["array"]) for _ in range(2))
        arguments = list(of_backward(case).values())[1:]
        update.lookup_backward_update_(
            torch.zeros_like(out),
            saved,
            array,
            sink,
            state,
            None,
            *arguments,
            int(UpdateKind.ADAGRAD),
            [0.1, *[0.0] * 6],
        )
        assert torch.equal(array, case["array"])


def test_the_module_says_once_what_torch_optim_does_to_fp16():
    """And the remedies that it names are some."""
    ebc = model(DataType.FP16)["ebc"]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        read(ebc, batch(0))
    with pytest.warns(UserWarning, match="eps=1e-8 is 0 there.*Give eps=1e-4 or more.*apply_optimizer_in_backward"):
        read(ebc, batch(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(ebc, batch(0))
        read(model(DataType.BF16)["ebc"], batch(0))
        stepping = model(DataType.FP16)["ebc"]
        stepping.step_in_backward(torch.optim.Adam([stepping.array]))
        read(stepping, batch(0))
    for eps, finite in ((1e-8, False), (1e-4, True)):
        for optimizer_class in (torch.optim.Adam, torch.optim.Adagrad):
            ebc = model(DataType.FP16)["ebc"]
            ebc._warned_of_half = True
            optimizer = optimizer_class(ebc.parameters(), lr=0.01, eps=eps)
            for step in range(3):
                optimizer.zero_grad()
                read(ebc, batch(step)).square().sum().backward()
                optimizer.step()
            assert bool(torch.isfinite(ebc.array).all()) == finite
