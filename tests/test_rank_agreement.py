"""Ranks that would not hold the same array are refused on every rank, before anything hangs or is broadcast."""

import numpy as np
import pytest
import torch.distributed as dist
import two_ranks
from mixed_model import CPU, planner
from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection, get_default_pss_sharders
from torchrec_pss.distributed import rank_agreement
from torchrec_pss.modules.id_counts import IdCounts


def sharded(rank, world_size, what):
    """The error on this rank, whose model differs in ``what``."""
    odd = rank == world_size - 1
    seen = np.arange(1, 600) // (20 if what == "counts" and odd else 30)
    config = PSSConfig(array_bytes=8192, counts={"t": IdCounts.of(seen)}, seed=1 if what == "seed" and odd else 0)
    kind = DataType.BF16 if what == "data type" and odd else DataType.FP32
    table = EmbeddingBagConfig(name="t", num_embeddings=10**6, embedding_dim=8, feature_names=["f"], data_type=kind)
    if what == "version" and odd:
        rank_agreement._version = lambda package: "0.0.1"
    model = nn.ModuleDict({"pss": PSSEmbeddingBagCollection([table], config=config)})
    sharders = get_default_pss_sharders()
    plan = planner(world_size).collective_plan(model, sharders, dist.group.WORLD)
    try:
        DistributedModelParallel(model, plan=plan, sharders=sharders, device=CPU)
    except ValueError as error:
        return str(error)
    return None


MESSAGES = {
    "nothing": None,
    "counts": "ranks 0 and 1 of the group differ in their layout: table 't': hot_",
    "seed": "layout: seed is 0 on the first and 1 on the other",
    "data type": "differ in their",
    "version": "ranks 0 and 1 of the group differ in their torchrec_pss: ",
}


def sharded_in_every_way(rank, world_size):
    return {what: sharded(rank, world_size, what) for what in MESSAGES}


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    return two_ranks.run(sharded_in_every_way, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("what", MESSAGES)
def test_ranks_must_agree(errors, what):
    for found in errors:
        if MESSAGES[what] is None:
            assert found[what] is None
        else:
            assert MESSAGES[what] in found[what]
