"""The shape of TorchRec's examples/golden_training/train_dlrm.py."""

import pytest
import torch
import torch.distributed as dist
import two_ranks
from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
from torchrec.datasets.random import RandomRecDataset
from torchrec.distributed import TrainPipelineSparseDist
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.fbgemm_qcomm_codec import CommType, QCommsConfig, get_qcomm_codecs_registry
from torchrec.distributed.model_parallel import DistributedModelParallel as DMP
from torchrec.models.dlrm import DLRM, DLRMTrain
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim.keyed import KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

import torchrec_pss as pss  # swap, planner
from public_programs.ways import CPU, META, Program, check, compared

CATEGORIES, NUM_DENSE, DIM, ROWS = [f"cat_{i}" for i in range(3)], 3, 8, 60
RATE = 0.1


def tables():
    return [
        EmbeddingBagConfig(name=f"t_{c}", embedding_dim=DIM, num_embeddings=ROWS, feature_names=[c]) for c in CATEGORIES
    ]


def dlrm(collection):
    return DLRMTrain(
        DLRM(
            embedding_bag_collection=collection,
            dense_in_features=NUM_DENSE,
            dense_arch_layer_sizes=[16, DIM],
            over_arch_layer_sizes=[16, 1],
            dense_device=CPU,
        )
    )


def batches():
    return RandomRecDataset(
        CATEGORIES, 16, hash_size=ROWS, ids_per_feature=1, num_dense=NUM_DENSE, manual_seed=dist.get_rank(), num_generated_batches=2,
    )  # fmt: skip


def program(way, size):
    backend = dist.get_backend()
    ebc = EmbeddingBagCollection(tables=tables(), device=META)
    if way == "swap":
        ebc = pss.PSSEmbeddingBagCollection(tables(), device=META, config=pss.PSSConfig(array_bytes=size))  # swap
    train_model = dlrm(ebc)
    apply_optimizer_in_backward(RowWiseAdagrad, train_model.model.sparse_arch.parameters(), {"lr": RATE})
    codecs = None
    if backend == "nccl":
        codecs = get_qcomm_codecs_registry(
            QCommsConfig(forward_precision=CommType.FP16, backward_precision=CommType.BF16)
        )
    sharders, plan = [EmbeddingBagCollectionSharder(qcomm_codecs_registry=codecs)], None
    if way != "plain":
        sharders = pss.get_default_pss_sharders(qcomm_codecs_registry=codecs)  # swap, planner
    if way == "planner":
        planner = pss.PSSShardingPlanner(pss="always", array_bytes=size)  # planner
        plan = planner.collective_plan(train_model, sharders)  # planner
    model = DMP(module=train_model, device=CPU, sharders=sharders, plan=plan)  # planner
    dense = KeyedOptimizerWrapper(
        dict(in_backward_optimizer_filter(model.named_parameters())),
        lambda params: torch.optim.Adagrad(params, lr=RATE),
    )
    pipeline = TrainPipelineSparseDist(model, dense, CPU)
    data, probe = iter(batches()), next(iter(batches()))
    return Program(model, lambda: pipeline.progress(data)[0], lambda m: m(probe)[1][1], pipeline.detach)


def whole():
    return dlrm(EmbeddingBagCollection(tables=tables(), device=CPU))


def run(rank, world_size, folder):
    return compared(rank, world_size, program, whole, tables(), folder)


@pytest.mark.parametrize("ranks", [1, 2])
def test_golden_training(tmp_path, ranks):
    check(two_ranks.run(run, tmp_path, str(tmp_path), world_size=ranks))
