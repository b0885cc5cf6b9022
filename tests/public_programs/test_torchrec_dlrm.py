"""The shape of facebookresearch/dlrm's torchrec_dlrm/dlrm_main.py: planner, DCN, rates that follow a policy, an evaluation by AUROC."""

import itertools

import pytest
import torch
import torch.distributed as dist
import torchmetrics
import two_ranks
from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
from torch.optim.lr_scheduler import LRScheduler
from torchrec.distributed import TrainPipelineSparseDist
from torchrec.distributed.comm import get_local_size
from torchrec.distributed.model_parallel import DistributedModelParallel as DMP
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.storage_reservations import HeuristicalStorageReservation
from torchrec.distributed.sharding_plan import get_default_sharders
from torchrec.models.dlrm import DLRM_DCN, DLRMTrain
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

import torchrec_pss as pss  # swap, planner
from public_programs.test_golden_training import DIM, NUM_DENSE, batches, tables
from public_programs.ways import CPU, META, Program, check, compared

RATE, EPS, BATCH = 0.1, 1e-8, 16


class WarmupAndDecay(LRScheduler):
    """Linear up over three steps, flat, then down."""

    def get_lr(self):
        step = self._step_count
        return [rate * min(step / 3, 1.0, max(10 - step, 1) / 3) for rate in self.base_lrs]


def dcn(collection):
    return DLRMTrain(
        DLRM_DCN(
            embedding_bag_collection=collection,
            dense_in_features=NUM_DENSE,
            dense_arch_layer_sizes=[16, DIM],
            over_arch_layer_sizes=[16, 1],
            dcn_num_layers=2,
            dcn_low_rank_dim=4,
            dense_device=CPU,
        )
    )


def program(way, size, optimizer_class=torch.optim.Adagrad):
    options = {"lr": RATE, "eps": EPS} if optimizer_class is torch.optim.Adagrad else {"lr": RATE}
    ebc = EmbeddingBagCollection(tables=tables(), device=META)
    if way == "swap":
        ebc = pss.PSSEmbeddingBagCollection(tables(), device=META, config=pss.PSSConfig(array_bytes=size))  # swap
    train_model = dcn(ebc)
    apply_optimizer_in_backward(optimizer_class, train_model.model.sparse_arch.parameters(), dict(options))
    sharders, kind = get_default_sharders(), EmbeddingShardingPlanner
    if way != "plain":
        sharders = pss.get_default_pss_sharders()  # swap, planner
    more = {}
    if way == "planner":
        kind = pss.PSSShardingPlanner  # planner
        more = {"pss": "always", "array_bytes": size}  # planner
    topology = Topology(local_world_size=get_local_size(), world_size=dist.get_world_size(), compute_device=CPU.type)
    planner = kind(topology=topology, batch_size=BATCH, storage_reservation=HeuristicalStorageReservation(0.05), **more)
    plan = planner.collective_plan(train_model, sharders, dist.GroupMember.WORLD)
    model = DMP(module=train_model, device=CPU, plan=plan, sharders=sharders)  # swap, planner
    dense = KeyedOptimizerWrapper(
        dict(in_backward_optimizer_filter(model.named_parameters())), lambda params: optimizer_class(params, **options)
    )
    optimizer = CombinedOptimizer([model.fused_optimizer, dense])
    scheduler = WarmupAndDecay(optimizer)
    pipeline = TrainPipelineSparseDist(model, optimizer, CPU, execute_all_batches=True)
    data, probe = iter(batches()), next(iter(batches()))

    def step():
        loss = pipeline.progress(data)[0]
        scheduler.step()
        rates = [group["lr"] for group in optimizer.param_groups]
        assert max(rates) - min(rates) < 1e-6, (way, rates)  # FBGEMM keeps fp32
        return loss

    return Program(model, step, lambda m: m(probe)[1][1], lambda: evaluate(pipeline))


def evaluate(pipeline):
    """By the training's pipeline, on the batches that were learned."""
    pipeline._model.eval()
    metric, batches_left = torchmetrics.AUROC(task="multiclass", num_classes=2), itertools.islice(iter(batches()), 3)
    with torch.no_grad():
        while True:
            try:
                _, logits, labels = pipeline.progress(batches_left)
            except StopIteration:
                break
            chance = torch.sigmoid(logits)
            metric(torch.stack((1 - chance, chance), dim=1), labels)
    pipeline._model.train()
    pipeline.detach()
    assert 0 < metric.compute().item() <= 1


def whole():
    return dcn(EmbeddingBagCollection(tables=tables(), device=CPU))


def sgd(way, size):
    return program(way, size, torch.optim.SGD)


def run(rank, world_size, folder, make):
    return compared(rank, world_size, make, whole, tables(), folder)


@pytest.mark.parametrize(("ranks", "make"), [(1, program), (2, program), (1, sgd)])
def test_torchrec_dlrm(tmp_path, ranks, make):
    check(two_ranks.run(run, tmp_path, str(tmp_path), make, world_size=ranks), same_optimizer=True)
