"""TorchRec's and FBGEMM's optimizers in backward, on a shared array."""

import copy

import pytest
import torch
import torch.distributed as dist
import torchrec.optim as theirs
import two_ranks
from fbgemm_gpu.split_embedding_configs import EmbOptimType, SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_training import WeightDecayMode
from torch.distributed.optim import _apply_optimizer_in_backward
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import Topology
from torchrec.distributed.types import ShardingEnv
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim.optimizers import in_backward_optimizer_filter
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection, get_default_pss_sharders
from torchrec_pss.distributed import PSSEmbeddingBagCollectionSharder
from torchrec_pss.distributed.planner import PSSShardingPlanner
from torchrec_pss.optim.counterparts import counterpart, of_fused_params, optimizer_of

CPU = torch.device("cpu")
BETAS = {"beta1": 0.8, "beta2": 0.99}
# What a user writes, and the optimizer of torch.optim that steps the array.
ROWS = {
    "SGD": (theirs.SGD, {"lr": 0.1}, torch.optim.SGD, {"lr": 0.1}),
    "SGD, FBGEMM's rate": (theirs.SGD, {}, torch.optim.SGD, {"lr": 0.01}),
    "Adagrad": (theirs.Adagrad, {"lr": 0.1}, torch.optim.Adagrad, {"lr": 0.1, "eps": 1e-8}),
    "RowWiseAdagrad": (theirs.RowWiseAdagrad, {"lr": 0.1, "eps": 1e-3}, torch.optim.Adagrad, {"lr": 0.1, "eps": 1e-3}),
    "RowWiseAdagrad, L2": (
        theirs.RowWiseAdagrad,
        {"lr": 0.1, "weight_decay": 0.2, "weight_decay_mode": WeightDecayMode.L2},
        torch.optim.Adagrad,
        {"lr": 0.1, "eps": 1e-8, "weight_decay": 0.2},
    ),
    "Adam": (theirs.Adam, {"lr": 0.1} | BETAS, torch.optim.Adam, {"lr": 0.1, "eps": 1e-8, "betas": (0.8, 0.99)}),
    "Adam, decay": (
        theirs.Adam,
        {"lr": 0.1, "weight_decay": 0.3},
        torch.optim.AdamW,
        {"lr": 0.1, "eps": 1e-8, "betas": (0.9, 0.999), "weight_decay": 0.3},
    ),
    "PartialRowWiseAdam": (
        theirs.PartialRowWiseAdam,
        {"learning_rate": 0.1, "betas": (0.8, 0.99)},
        torch.optim.Adam,
        {"lr": 0.1, "eps": 1e-8, "betas": (0.8, 0.99)},
    ),
    "torch.optim.Adam": (torch.optim.Adam, {"lr": 0.1}, torch.optim.Adam, {"lr": 0.1}),
    "torch.optim.NAdam": (torch.optim.NAdam, {"lr": 0.1}, torch.optim.NAdam, {"lr": 0.1}),
}
KINDS = {
    theirs.SGD: EmbOptimType.EXACT_SGD,
    theirs.Adagrad: EmbOptimType.EXACT_ADAGRAD,
    theirs.RowWiseAdagrad: EmbOptimType.EXACT_ROWWISE_ADAGRAD,
    theirs.Adam: EmbOptimType.ADAM,
    theirs.PartialRowWiseAdam: EmbOptimType.PARTIAL_ROWWISE_ADAM,
}


def tables():
    return [
        EmbeddingBagConfig(name=f"t{i}", num_embeddings=50, embedding_dim=8, feature_names=[f"f{i}"]) for i in range(2)
    ]


def swapped():
    torch.manual_seed(0)
    config = PSSConfig(layout="plain", array_bytes=1024, exact=(), init_range=0.5)
    return torch.nn.ModuleDict({"ebc": PSSEmbeddingBagCollection(tables(), config=config)})


def loss_of(ebc, step):
    generator = torch.Generator().manual_seed(step)
    lengths = torch.randint(0, 3, (32,), generator=generator)
    ids = torch.randint(0, 50, (int(lengths.sum()),), generator=generator)
    return (ebc(KeyedJaggedTensor(["f0", "f1"], ids, lengths=lengths)).values() - 0.3).square().sum()


def with_torch(optimizer_class, kwargs, array):
    """The array after three steps of torch.optim's own."""
    whole = swapped()
    with torch.no_grad():
        whole["ebc"].array.copy_(array)
    optimizer = optimizer_class([whole["ebc"].array], **kwargs)
    for step in range(3):
        optimizer.zero_grad()
        loss_of(whole["ebc"], step).backward()
        optimizer.step()
    return whole["ebc"].array.detach()


@pytest.mark.parametrize("name", ROWS)
def test_counterparts(name):
    optimizer_class, kwargs, expected_class, expected = ROWS[name]
    given = copy.copy(kwargs)
    found_class, found = counterpart(optimizer_class, kwargs)
    assert (found_class, found) == (expected_class, expected) and kwargs == given
    rewritten = (
        {"learning_rate": kwargs["lr"]} if "lr" in kwargs else {}
    )  # as TorchRec's sharders leave what tables share
    rest = {n: v for n, v in kwargs.items() if n != "lr"} | {"optimizer": EmbOptimType.EXACT_SGD}
    assert counterpart(optimizer_class, rest | rewritten) == (expected_class, expected)
    if optimizer_class in KINDS and kwargs:
        fused = {n: v for n, v in kwargs.items() if n != "betas"} | (BETAS if "betas" in kwargs else {})
        assert of_fused_params(fused | {"optimizer": KINDS[optimizer_class]}) == (expected_class, expected)


def under_dmp(rank, world_size):
    """By way of writing it: the array at the end, as it should be, and the optimizer's state's names."""
    found = {}
    for name, (optimizer_class, kwargs, expected_class, expected) in ROWS.items():
        for way in ("in backward", "fused_params"):
            if way == "fused_params" and (optimizer_class not in KINDS or "betas" in kwargs or not kwargs):
                continue
            whole, fused = swapped(), None
            if way == "in backward":
                _apply_optimizer_in_backward(optimizer_class, whole.parameters(), copy.copy(kwargs))
            else:
                fused = kwargs | {"optimizer": KINDS[optimizer_class]}
            dmp = DistributedModelParallel(whole, sharders=get_default_pss_sharders(fused_params=fused), device=CPU)
            ebc = dmp.module["ebc"]
            start = ebc.array.detach().clone()
            for step in range(3):
                loss_of(ebc, step).backward()
            assert not dict(in_backward_optimizer_filter(dmp.named_parameters()))
            state = dmp.fused_optimizer.state_dict()["state"].get("ebc.array", {})
            torch.testing.assert_close(ebc.array.detach(), with_torch(expected_class, expected, start))
            found[name, way] = ebc.array.detach().numpy(), sorted(state)
    return found


@pytest.mark.parametrize("ranks", [1, 2])
def test_train_as_torchs_own(tmp_path, ranks):
    """All ranks have the same batches here, so that means over ranks are one process's."""
    of_ranks = two_ranks.run(under_dmp, tmp_path, world_size=ranks)
    for case, (array, state) in of_ranks[0].items():
        assert all((other[case][0] == array).all() for other in of_ranks)
        assert state == {
            "SGD": [], "Adagrad": ["step", "sum"], "RowWiseAdagrad": ["step", "sum"],
            "NAdam": ["exp_avg", "exp_avg_sq", "mu_product", "step"],
        }.get(case[0].split(",")[0].split(".")[-1], ["exp_avg", "exp_avg_sq", "step"] if "SGD" not in case[0] else [])  # fmt: skip


def test_rowwise_adagrad_of_an_array_without_dmp():
    """`RowWiseAdagrad` is no mere name: it steps a plain collection, by its own defaults."""
    whole = swapped()
    start = whole["ebc"].array.detach().clone()
    _apply_optimizer_in_backward(theirs.RowWiseAdagrad, whole.parameters(), {"lr": 0.1})
    for step in range(3):
        loss_of(whole["ebc"], step).backward()
    torch.testing.assert_close(whole["ebc"].array.detach(), with_torch(torch.optim.Adagrad, {"lr": 0.1}, start))
    with pytest.raises(ValueError, match="RowWiseAdagrad has no rows in a 1-D parameter"):
        theirs.RowWiseAdagrad([whole["ebc"].array, torch.nn.Parameter(torch.zeros(2, 3))])
    rows = torch.nn.Parameter(torch.ones(2, 3))
    own = theirs.RowWiseAdagrad([rows], lr=0.5)
    assert type(own) is theirs.RowWiseAdagrad and own.state[rows]["sum"].shape == (2, 1)
    assert type(copy.deepcopy(own)) is theirs.RowWiseAdagrad


def planned(rank, world_size):
    """A plain model whose tables all go into an array: what it trains by, and the rate of what it does not share."""
    found = {}
    for way in ("in backward", "fused_params"):
        torch.manual_seed(0)
        whole, fused = torch.nn.ModuleDict({"ebc": EmbeddingBagCollection(tables())}), None
        if way == "in backward":
            _apply_optimizer_in_backward(theirs.RowWiseAdagrad, whole.parameters(), {"lr": 0.05})
        else:
            fused = {"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "learning_rate": 0.05}
        sharders = get_default_pss_sharders(fused_params=fused)
        planner = PSSShardingPlanner(Topology(world_size, "cpu"), pss="always", array_bytes=1024)
        plan = planner.collective_plan(whole, sharders, dist.group.WORLD)
        dmp = DistributedModelParallel(whole, sharders=sharders, device=CPU, plan=plan)
        for step in range(3):
            loss_of(dmp.module["ebc"], step).backward()
        group, *_ = dmp.fused_optimizer.param_groups  # of the array, and of its projections
        found[way] = dmp.module["ebc"].array.array.detach().numpy(), group["lr"], group["eps"]
    return found


def test_of_a_planned_model(tmp_path):
    for found in two_ranks.run(planned, tmp_path):
        (first, *rates), (second, *others) = found.values()
        assert (first == second).all() and rates == others == [0.05, 1e-8]


@pytest.mark.parametrize("name", ["LAMB", "PartialRowWiseLAMB", "LarsSGD"])
def test_what_needs_a_rows_norm_is_refused_when_it_is_planned(name):
    whole = swapped()
    _apply_optimizer_in_backward(getattr(theirs, name), whole.parameters(), {"lr": 0.1})
    expected = rf"torchrec\.optim\.{name} has no counterpart on a shared array.*use torchrec\.optim\.Adam or"
    with pytest.raises(ValueError, match=expected):
        PSSShardingPlanner(Topology(1, "cpu"), pss="never").plan(whole, get_default_pss_sharders())


@pytest.mark.parametrize(
    ("optimizer_class", "kwargs", "expected"),
    [
        (theirs.SGD, {"lr": 0.1, "momentum": 0.5}, r"torchrec.optim.SGD on a shared array has no option momentum=0.5; it has lr"),
        (theirs.SGD, {"weight_decay": 0.1}, r"has no option weight_decay=0.1"),
        (theirs.Adam, {"rate": 0.1}, r"torchrec.optim.Adam on a shared array has no option rate=0.1; it has lr, eps, betas"),
        (theirs.RowWiseAdagrad, {"weight_decay": 0.1}, "weight_decay=0.1 with weight_decay_mode=None.*WeightDecayMode.L2"),
        (theirs.RowWiseAdagrad, {"gradient_clipping": True}, "no option gradient_clipping=True"),
        (torch.nn.Linear, {}, "must be a class of optimizers, got <class 'torch.nn.modules.linear.Linear'>"),
    ],
)  # fmt: skip
def test_options_without_a_counterpart_are_refused(optimizer_class, kwargs, expected):
    with pytest.raises(ValueError, match=expected):
        counterpart(optimizer_class, kwargs)


def test_fused_params():
    storage = {"stochastic_rounding": False, "cache_load_factor": 0.5, "output_dtype": None}
    assert of_fused_params(None) is of_fused_params(storage) is None
    assert of_fused_params(storage | {"learning_rate": 0.5}) == (torch.optim.SGD, {"lr": 0.5})
    for make in (lambda fused: get_default_pss_sharders(fused_params=fused), PSSEmbeddingBagCollectionSharder):
        with pytest.raises(ValueError, match="fused_params: FBGEMM has no option 'learning_rat'; of optimizers it has"):
            make({"learning_rat": 0.1})
    for fused, expected in (
        ({"optimizer": "adam"}, "fused_params: optimizer must be one of EmbOptimType.EXACT_SGD.*got 'adam'"),
        ({"optimizer": EmbOptimType.LAMB}, "torchrec.optim.LAMB has no counterpart"),
        ({"optimizer": EmbOptimType.SHAMPOO}, "EmbOptimType.SHAMPOO has no counterpart"),
    ):
        sharders = get_default_pss_sharders(fused_params=fused)
        with pytest.raises(ValueError, match=expected):
            PSSShardingPlanner(Topology(1, "cpu"), pss="never").plan(swapped(), sharders)
        planner = PSSShardingPlanner(Topology(1, "cpu"), pss="auto", array_bytes=1024)
        planner.plan(torch.nn.ModuleDict({"ebc": EmbeddingBagCollection(tables())}), sharders)  # left to TorchRec
        assert all(expected.split(" has")[0].split(": ")[-1][:12] in t.reason for t in planner.tables)


def test_sharders_are_torchrecs_with_the_same_arguments():
    fused, codecs = {"learning_rate": 0.1}, {"forward": None}
    for sharder in get_default_pss_sharders(fused_params=fused, qcomm_codecs_registry=codecs):
        if "Quant" not in type(sharder).__name__:
            assert sharder.qcomm_codecs_registry == codecs, sharder
        inner = getattr(sharder, "_ebc_sharder", getattr(sharder, "_ec_sharder", sharder))
        if "Quant" not in type(sharder).__name__:
            assert inner.fused_params == fused, sharder


def test_classes_derived_from_torchrecs():
    """Those are names of kernels, but for `RowWiseAdagrad`; who derives from one has no step."""

    class Named(theirs.Adam):
        pass

    class OwnStep(theirs.RowWiseAdagrad):
        def step(self, closure=None):
            raise NotImplementedError

    class SameStep(theirs.RowWiseAdagrad):
        pass

    with pytest.raises(ValueError, match=r"Named is derived from torchrec.optim.Adam, which is the name of an FBGEMM"):
        counterpart(Named, {"lr": 0.1})
    array = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match="RowWiseAdagrad has no rows in a 1-D parameter"):
        OwnStep([array])
    SameStep([torch.nn.Parameter(torch.ones(2, 3))])  # torch wraps its step now
    assert type(SameStep([array])) is torch.optim.Adagrad


def test_rowwise_adagrad_takes_parameters_in_any_form():
    array, table = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2, 3))
    for given in ([{"params": [array]}], [("array", array)], (array,), [{"params": array}]):
        assert type(theirs.RowWiseAdagrad(given)) is torch.optim.Adagrad
    for given in ([{"params": [table]}], [("table", table)], (table,), iter([table])):
        assert type(theirs.RowWiseAdagrad(given)) is theirs.RowWiseAdagrad
    for given in (iter([array]), [{"params": [array, table]}], [torch.nn.Parameter(torch.ones(()))]):
        with pytest.raises(ValueError, match="RowWiseAdagrad has no rows in a 1-D parameter"):
            theirs.RowWiseAdagrad(given)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"betas": 0.9}, "torchrec.optim.Adam: betas must be two numbers, got 0.9"),
        ({"betas": (0.9,)}, r"betas must be two numbers, got \(0.9,\)"),
        ({"lr": "0.1"}, "lr must be a number, got '0.1'"),
        ({"weight_decay": None}, "weight_decay must be a number, got None"),
    ],
)
def test_values_that_are_no_numbers(kwargs, message):
    with pytest.raises(ValueError, match=message):
        counterpart(theirs.Adam, kwargs)


def test_fused_params_that_torchrec_gives_its_kernels_itself():
    for name in ("embedding_specs", "device", "self", "table_names"):
        with pytest.raises(ValueError, match=f"fused_params: FBGEMM has no option '{name}'"):
            PSSEmbeddingBagCollectionSharder(fused_params={name: None})


def test_fused_params_of_another_kind():
    for fused in ({1: 2}, [("lr", 0.1)], "lr"):
        with pytest.raises(ValueError, match="fused_params: FBGEMM has no option 1|fused_params must be a dict"):
            get_default_pss_sharders(fused_params=fused)
    for dtype in (torch.int8, "fp16", SparseType.INT8, DataType.INT8):
        with pytest.raises(ValueError, match="fused_params: output_dtype must be one of torch.float32, .* got"):
            get_default_pss_sharders(fused_params={"output_dtype": dtype})
    get_default_pss_sharders(fused_params={"output_dtype": None})


def test_values_that_an_optimizer_refuses_are_refused_with_the_parameters_name():
    def make(kwargs):
        whole = swapped()
        whole["ebc"].array._optimizer_classes, whole["ebc"].array._optimizer_kwargs = [theirs.SGD], [kwargs]
        env = ShardingEnv(world_size=1, rank=0, pg=None)
        return PSSEmbeddingBagCollectionSharder().shard(whole["ebc"], {}, env, CPU, "ebc")

    with pytest.raises(ValueError, match="array: SGD in backward with {'lr': -1}: Invalid learning rate: -1"):
        make({"lr": -1})


@pytest.mark.parametrize(
    ("optimizer_class", "kwargs", "fused", "expected"),
    [
        (torch.optim.SGD, {}, {"learning_rate": 0.5, "eps": 1e-3}, {"lr": 0.5}),
        (torch.optim.SGD, {"lr": 0.2, "momentum": 0.9}, {"learning_rate": 0.5}, {"lr": 0.2, "momentum": 0.9}),
        (torch.optim.Adagrad, {"lr": 0.2}, {"learning_rate": 0.5, "eps": 1e-3}, {"lr": 0.2, "eps": 1e-3}),
        (torch.optim.Adam, {}, {"lr": 0.5, "beta1": 0.8}, {"lr": 0.5, "betas": (0.8, 0.999)}),
        (torch.optim.NAdam, {}, {"learning_rate": 0.5}, {}),
    ],
)
def test_fused_params_fill_in_what_a_class_of_torchs_leaves_open(optimizer_class, kwargs, fused, expected):
    """As on TorchRec's tables; it knows no NAdam."""
    array = torch.nn.Parameter(torch.ones(3))
    array._optimizer_classes, array._optimizer_kwargs = [optimizer_class], [kwargs]
    assert optimizer_of(array, fused, "array") == (optimizer_class, expected)


def test_fused_params_that_mean_another_thing_in_a_class_of_torchs():
    array = torch.nn.Parameter(torch.ones(3))
    array._optimizer_classes, array._optimizer_kwargs = [torch.optim.Adam], [{"lr": 0.1}]
    with pytest.raises(
        ValueError, match=r"array: torch.optim.Adam in backward .* lr, eps, betas, not weight_decay=0.1"
    ):
        optimizer_of(array, {"weight_decay": 0.1}, "array")
    array._optimizer_kwargs = [{"weight_decay": 0.2}]
    assert optimizer_of(array, {"weight_decay": 0.1}, "array") == (torch.optim.Adam, {"weight_decay": 0.2})
