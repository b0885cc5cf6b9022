"""train_criteo.py's model: a TorchRec DLRM on one shared array or on full tables, sharded by TorchRec's planner."""

import argparse
import logging
from dataclasses import fields
from functools import partial

import torch
import torch.distributed as dist
from click_data import ClickData
from compiled_layers import compile_dense
from full_tables import SGD_RATE, LazyAdam, sharded_tables
from torch.distributed.optim import _apply_optimizer_in_backward
from torchrec.distributed.comm import get_local_size
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.distributed.types import ShardingPlan
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection, get_default_pss_sharders
from torchrec_pss.distributed.mixed_collection import SHARED_ARRAY
from torchrec_pss.distributed.planner import PSSShardingPlanner
from torchrec_pss.models import ClickModel, ClickModelConfig
from torchrec_pss.modules.id_counts import IdCounts
from torchrec_pss.modules.layout_candidates import CANDIDATES, candidates
from torchrec_pss.modules.rival_layouts import capped_rows, exact_tables, narrow_width, row_hashing_width
from torchrec_pss.optim.recipe import adam_learning_rates, array_eps

logger: logging.Logger = logging.getLogger(__name__)

_EPS = 1e-8  # torch's default
_EBC = "dlrm.sparse_arch.embedding_bag_collection"
_ADAGRAD_RATE_OF_TABLES = 0.03


def build(args: argparse.Namespace, data: ClickData, device: torch.device) -> ClickModel:
    """The unsharded model. With row hashing the data's ids are folded to the capped tables' rows."""
    tables = tables_of(args, data)
    if args.embedding == "full" or args.planner_pss:
        ebc = EmbeddingBagCollection(tables, data.schema.weighted, device=torch.device("meta"))
    else:
        ebc = PSSEmbeddingBagCollection(tables, data.schema.weighted, device, config=array_config(args, tables, data))
    dlrm = model_config(args, data).dlrm(ebc, device)
    if args.compile:
        compile_dense(dlrm)
    return ClickModel(dlrm)


def model_config(args: argparse.Namespace, data: ClickData) -> ClickModelConfig:
    """What the flags say of the model beside its embeddings."""
    named = {f.name: getattr(args, f.name) for f in fields(ClickModelConfig) if f.name != "dense_in_features"}
    return ClickModelConfig(data.num_dense, **named)


def tables_of(args: argparse.Namespace, data: ClickData) -> list[EmbeddingBagConfig]:
    return [
        EmbeddingBagConfig(
            name=f"t_{name}",
            num_embeddings=rows,
            embedding_dim=args.embedding_dim,
            feature_names=[name],
            pooling=PoolingType[pooling.upper()],
        )
        for name, rows, pooling in zip(data.names, data.num_embeddings, data.schema.poolings, strict=True)
    ]


def multiply_adds(model: ClickModel) -> int:
    """Of the dense layers, forward, a row."""
    return sum(p.numel() for name, p in model.named_parameters() if not name.startswith("dlrm.sparse_arch."))


def array_config(args: argparse.Namespace, tables: list[EmbeddingBagConfig], data: ClickData) -> PSSConfig:
    """The array's layout: ours, or a rival's at the same bytes."""
    array_bytes = _array_bytes(args, data)
    if args.embedding == "narrow":
        width = narrow_width(tables, array_bytes, args.bits)
        return exact_tables(tables, array_bytes, width, args.init_range, bits=args.bits)
    if args.embedding == "hash":
        width = args.width or row_hashing_width(tables, array_bytes, bits=args.bits)
        rows = capped_rows(tables, array_bytes, width, args.bits)
        for table, capped in zip(tables, rows, strict=True):
            table.num_embeddings = capped
        data.fold_ids(rows)
        return exact_tables(tables, array_bytes, width, args.init_range, bits=args.bits)
    if not args.vocabulary:
        if args.layout in CANDIDATES:
            raise ValueError(
                f"--layout {args.layout} is of text whose ids are numbered, and this is no dense log: --vocabulary"
            )
        return _open_config(args, data)
    found = array_candidates(args, tables, data)
    name = "searched" if args.layout not in CANDIDATES else args.layout
    if name not in found:
        raise ValueError(
            f"--layout {name} does not fit {array_bytes} bytes, or does not differ; there are {', '.join(found)}"
        )
    config, rows = found[name]
    for table, number in zip(tables, rows, strict=True):
        table.num_embeddings = number
    data.share_rows(rows)
    return config


def array_candidates(
    args: argparse.Namespace, tables: list[EmbeddingBagConfig], data: ClickData
) -> dict[str, tuple[PSSConfig, list[int]]]:
    """Of a log whose ids are numbered, layouts by name, and the rows that each leaves the tables."""
    return candidates(tables, _open_config(args, data))


def _open_config(args: argparse.Namespace, data: ClickData) -> PSSConfig:
    """What the flags say."""
    return PSSConfig(
        array_bytes=_array_bytes(args, data),
        layout="auto" if args.layout in CANDIDATES else args.layout,
        counts=counts_by_table(data),
        seed=args.seed,
        bits=args.bits,
        block_size=args.block_size,
        width=args.width,
        exact="auto" if data.contiguous else (),
        **{k: getattr(args, k) for k in ("exact_fraction", "init_range") if getattr(args, k) is not None},
    )


def _array_bytes(args: argparse.Namespace, data: ClickData) -> int:
    return args.array_bytes or max(int(full_embedding_bytes(args, data.num_embeddings) / args.compression), 1)


def counts_by_table(data: ClickData) -> dict[str, IdCounts] | None:
    """Of the training rows' ids, where they were counted."""
    return data.counts and {f"t_{name}": c for name, c in zip(data.names, data.counts, strict=True)}


def full_embedding_bytes(args: argparse.Namespace, num_embeddings: list[int]) -> int:
    """Bytes of the full tables, fp32."""
    return sum(num_embeddings) * args.embedding_dim * 4


def embedding_bytes(args: argparse.Namespace, data: ClickData, model: DistributedModelParallel) -> int:
    """Bytes that the sharded model's embeddings take, all ranks together counted once."""
    array = shared_array(model)
    if array is None:
        return full_embedding_bytes(args, data.num_embeddings)
    inside = {t.name for t in array.layout.tables}
    rest = [rows for name, rows in zip(data.names, data.num_embeddings, strict=True) if f"t_{name}" not in inside]
    return array.layout.embedding_bytes + full_embedding_bytes(args, rest)


def shared_array(model: DistributedModelParallel) -> PSSEmbeddingBagCollection | None:
    """The shared array of a sharded model, if it has one."""
    return next((m for m in model.modules() if isinstance(m, PSSEmbeddingBagCollection)), None)


def learning_rates(args: argparse.Namespace, world_size: int) -> tuple[float, float]:
    """Rates of the dense layers and of the embeddings: those given, else the defaults.

    The defaults of Adam grow with the global batch; they and Adagrad's were the best of a few on generated rows (batch
    1024 and 4096) and on 64,000 rows of Criteo (batch 32 and 64), see docs/research/2026-11-25-training-recipe.md. The dense layers' are high because
    the weights are averaged.
    """
    if args.optimizer == "adam":
        rate, embedding_rate = adam_learning_rates(args.batch_size * world_size)
    else:
        rate, embedding_rate = 0.01, _ADAGRAD_RATE_OF_TABLES if args.embedding == "full" else 0.05
    return args.learning_rate or rate, args.embedding_learning_rate or embedding_rate


def embedding_eps(args: argparse.Namespace, world_size: int) -> float:
    """Of the optimizer of array or tables, `--eps` before all."""
    if args.eps is not None or args.optimizer != "adam":
        return args.eps or _EPS
    return array_eps(args.batch_size * world_size)


def shard(
    args: argparse.Namespace, model: ClickModel, data: ClickData, device: torch.device
) -> tuple[DistributedModelParallel, CombinedOptimizer]:
    """Plans and shards; one optimizer for what backward does not update by itself."""
    optimizer_class = {"adagrad": torch.optim.Adagrad, "adam": torch.optim.Adam}[args.optimizer]
    sharders = get_default_pss_sharders(args.array_reduction or "ddp")
    plan = _plan(args, model, data, device, sharders, optimizer_class)
    # DDP's hooks and buckets are not captured; a graph is of one process, which has nothing to reduce.
    wrap = not args.cuda_graph
    sharded = DistributedModelParallel(model, plan=plan, sharders=sharders, device=device, init_data_parallel=wrap)
    if args.print_sharding_plan and dist.get_rank() == 0:
        print(plan, flush=True)
        if shared_array(sharded) is not None:
            print(shared_array(sharded).layout, flush=True)

    # One pass over parameter and state instead of one an operation; Adagrad has none on a GPU.
    fused = args.optimizer == "adam" or device.type == "cpu"
    dense, array = {}, {}
    for name, parameter in in_backward_optimizer_filter(sharded.named_parameters()):
        (array if ".embedding_bag_collection." in name else dense)[name] = parameter
    # A rate that is a number would stay in a graph as it was at capture.
    options = {"fused": fused} | ({"capturable": True} if args.cuda_graph else {})
    optimizers = [
        KeyedOptimizerWrapper(
            parameters,
            partial(optimizer_class, lr=torch.tensor(lr, device=device) if args.cuda_graph else lr, eps=eps, **options),
        )
        for parameters, lr, eps in (
            (dense, args.learning_rate, args.eps or _EPS),
            (array, args.embedding_learning_rate, embedding_eps(args, dist.get_world_size())),
        )
        if parameters
    ]
    if args.recipe == "equal":  # FBGEMM's own steps leave gradients, and their rate stays as it is
        rate, eps = args.embedding_learning_rate, embedding_eps(args, dist.get_world_size())
        return sharded, CombinedOptimizer([LazyAdam(sharded_tables(sharded), rate, eps), *optimizers])
    return sharded, CombinedOptimizer([sharded.fused_optimizer, *optimizers])


def _plan(
    args: argparse.Namespace,
    model: ClickModel,
    data: ClickData,
    device: torch.device,
    sharders: list,
    optimizer_class: type,
) -> ShardingPlan:
    """TorchRec's own planner's; or, with --planner_pss, ours for the plain tables. Full tables learn in backward."""
    ebc = model.dlrm.sparse_arch.embedding_bag_collection
    constraints = None
    if isinstance(ebc, EmbeddingBagCollection):
        table_optimizer, rate = optimizer_class, args.embedding_learning_rate
        if args.planner_pss:
            table_optimizer, rate = torch.optim.Adagrad, _ADAGRAD_RATE_OF_TABLES
        elif args.recipe == "equal":
            table_optimizer, rate = torch.optim.SGD, SGD_RATE
            whole_rows = ParameterConstraints(sharding_types=["table_wise", "row_wise"], compute_kernels=["fused"])
            constraints = {table.name: whole_rows for table in ebc.embedding_bag_configs()}
        elif device.type == "cpu" and args.optimizer == "adam":
            raise ValueError("--optimizer adam with --embedding full needs a GPU: FBGEMM has no fused Adam on the CPU")
        eps = {} if args.recipe == "equal" else {"eps": args.eps or _EPS}
        _apply_optimizer_in_backward(table_optimizer, ebc.parameters(), {"lr": rate, **eps})
    memory = {} if args.rank_memory is None else {"hbm_cap": args.rank_memory, "ddr_cap": args.rank_memory}
    topology = Topology(
        world_size=dist.get_world_size(), local_world_size=get_local_size(), compute_device=device.type, **memory
    )
    common = {"batch_size": args.batch_size, "storage_reservation": FixedPercentageStorageReservation(percentage=0.15)}
    if not args.planner_pss:
        planner = EmbeddingShardingPlanner(topology, constraints=constraints, **common)
        return planner.collective_plan(model, sharders, dist.group.WORLD)
    config = None if args.planner_pss == "never" else array_config(args, ebc.embedding_bag_configs(), data)
    planner = PSSShardingPlanner(topology, pss=args.planner_pss, config=config, **common)
    plan = planner.collective_plan(model, sharders, dist.group.WORLD)
    for name, sharding in plan.plan[_EBC].items():
        if sharding.sharding_type == SHARED_ARRAY:  # learns by the array's own optimizer
            weight = ebc.embedding_bags[name].weight
            weight._optimizer_classes, weight._optimizer_kwargs = [], []
    return plan
