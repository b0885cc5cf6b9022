"""The shape of facebookresearch/recipes' DLRM in Lightning (torchrecipes/rec/modules/lightning_dlrm.py).

Lightning is not installed: `Fit` makes the calls that its trainer makes, in their order.
"""

import pytest
import torch
import torch.distributed as dist
import two_ranks
from torch import nn
from torchrec.distributed import TrainPipelineSparseDist
from torchrec.distributed.model_parallel import DistributedModelParallel as DMP
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim.keyed import KeyedOptimizerWrapper

import torchrec_pss as pss  # swap, planner
from public_programs.test_golden_training import batches, dlrm, tables, whole
from public_programs.ways import CPU, META, Program, check, compared

RATE = 0.01


class LightningDlrm(nn.Module):
    """Shards the model in its constructor, and drives the pipeline in `training_step`."""

    def __init__(self, train_model, **more):
        super().__init__()
        self.model = DMP(module=train_model, device=CPU, **more)
        self.pipeline = TrainPipelineSparseDist(self.model, self.configure_optimizers(), CPU)
        self.automatic_optimization = False

    def configure_optimizers(self):
        """Of all parameters, those of tables too, which have FBGEMM's optimizer."""
        return KeyedOptimizerWrapper(
            dict(self.model.named_parameters()), lambda params: torch.optim.SGD(params, lr=RATE)
        )

    def training_step(self, dataloader_iter, batch_idx):
        return self.pipeline.progress(dataloader_iter)[0]


class Fit:
    """`pytorch_lightning.Trainer.fit` with manual optimization: hooks, the module's steps, a checkpoint of its state."""

    def __init__(self, module, loader, path):
        self.module, self.data, self.path, self.number = module, iter(loader), path, 0
        module.train()
        self.optimizer = module.configure_optimizers()

    def step(self):
        loss = self.module.training_step(self.data, self.number)
        self.number += 1
        return loss

    def save(self):
        state = {"state_dict": self.module.state_dict(), "optimizer_states": [self.optimizer.state_dict()]}
        torch.save(state | {"global_step": self.number}, self.path)
        self.module.pipeline.detach()


def program(way, size, folder):
    ebc = EmbeddingBagCollection(tables=tables(), device=META)
    if way == "swap":
        ebc = pss.PSSEmbeddingBagCollection(tables(), device=META, config=pss.PSSConfig(array_bytes=size))  # swap
    train_model, more = dlrm(ebc), {}
    if way == "planner":
        plan = pss.PSSShardingPlanner(pss="always", array_bytes=size).collective_plan(train_model)  # planner
        more = {"plan": plan, "sharders": pss.get_default_pss_sharders()}  # planner
    module = LightningDlrm(train_model, **more)
    fit, probe = Fit(module, batches(), f"{folder}/{way}-{size}-{dist.get_rank()}.ckpt"), next(iter(batches()))

    def save():
        fit.save()
        if way != "plain":
            saved = torch.load(fit.path, weights_only=True)["state_dict"]
            own = {n.removeprefix("model."): value for n, value in saved.items()}
            assert own.keys() == module.model.state_dict().keys()
            module.model.load_state_dict(own)

    return Program(module.model, fit.step, lambda m: m(probe)[1][1], save)


def run(rank, world_size, folder):
    def make(way, size):
        return program(way, size, folder)

    return compared(rank, world_size, make, whole, tables(), folder)


@pytest.mark.parametrize("ranks", [1, 2])
def test_lightning(tmp_path, ranks):
    check(two_ranks.run(run, tmp_path, str(tmp_path), world_size=ranks), same_optimizer=True)
