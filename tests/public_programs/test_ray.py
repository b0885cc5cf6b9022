"""The shape of TorchRec's examples/ray/train_torchrec.py: what each of Ray's workers runs."""

import pytest
import torch
import two_ranks
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch.utils.data import DataLoader
from torchrec.distributed import TrainPipelineSparseDist
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel as DMP
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim.keyed import KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

import torchrec_pss as pss  # swap, planner
from public_programs.test_golden_training import batches, dlrm, tables, whole
from public_programs.ways import CPU, META, Program, check, compared

RATE = 0.1


def program(way, size):
    ebc = EmbeddingBagCollection(tables=tables(), device=META)
    if way == "swap":
        ebc = pss.PSSEmbeddingBagCollection(tables(), device=META, config=pss.PSSConfig(array_bytes=size))  # swap
    train_model = dlrm(ebc)
    fused_params = {"learning_rate": RATE, "optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD}
    sharders, plan = [EmbeddingBagCollectionSharder(fused_params=fused_params)], None
    if way != "plain":
        sharders = pss.get_default_pss_sharders(fused_params=fused_params)  # swap, planner
    if way == "planner":
        planner = pss.PSSShardingPlanner(pss="always", array_bytes=size)  # planner
        plan = planner.collective_plan(train_model, sharders)  # planner
    model = DMP(module=train_model, device=CPU, sharders=sharders, plan=plan)  # planner
    dense = KeyedOptimizerWrapper(
        dict(in_backward_optimizer_filter(model.named_parameters())),
        lambda params: torch.optim.Adagrad(params, lr=RATE),
    )
    pipeline = TrainPipelineSparseDist(model, dense, CPU)
    loader = DataLoader(batches(), batch_size=None, batch_sampler=None, pin_memory=False, num_workers=0)
    data, probe = iter(loader), next(iter(batches()))
    return Program(model, lambda: pipeline.progress(data)[0], lambda m: m(probe)[1][1], pipeline.detach)


def run(rank, world_size, folder):
    return compared(rank, world_size, program, whole, tables(), folder)


@pytest.mark.parametrize("ranks", [1, 2])
def test_ray_worker(tmp_path, ranks):
    check(two_ranks.run(run, tmp_path, str(tmp_path), world_size=ranks))
