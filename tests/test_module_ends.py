"""A sharded model that nobody holds any more is gone, with its process group: gloo's threads end, and its memory can be used again."""

import gc
import weakref

import pytest
import torch
import two_ranks
from torch import nn
from torch.distributed.optim import _apply_optimizer_in_backward
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection, get_default_pss_sharders

CASES = [(way, in_backward, dtype) for way in ("ddp", "sparse") for in_backward in (False, True) for dtype in DataType if dtype.name in ("FP32", "FP16")]  # fmt: skip


def ended(rank, world_size):
    """Of each case, whether the sharded collection and its array were gone after a step."""
    found = []
    for way, in_backward, dtype in CASES:
        tables = [EmbeddingBagConfig(name="t", num_embeddings=10**9, embedding_dim=8, feature_names=["f"], data_type=dtype)]  # fmt: skip
        model = nn.Sequential(PSSEmbeddingBagCollection(tables, config=PSSConfig(array_bytes=2048)))
        if in_backward:
            _apply_optimizer_in_backward(torch.optim.Adagrad, model.parameters(), {"lr": 0.1})
        model = DistributedModelParallel(model, device=torch.device("cpu"), sharders=get_default_pss_sharders(way))
        kjt = KeyedJaggedTensor(["f"], torch.tensor([1, 2]), lengths=torch.tensor([1, 1]))
        model(kjt).values().sum().backward()
        held = [weakref.ref(m) for m in model.modules() if hasattr(m, "array")]
        del model
        gc.collect()
        found.append(len(held) == 1 and held[0]() is None)
    return found


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_module_ends_with_its_last_reference(tmp_path, world_size):
    for of_rank in two_ranks.run(ended, tmp_path, world_size=world_size):
        assert dict(zip(CASES, of_rank, strict=True)) == dict.fromkeys(CASES, True)
