"""What is not finite is found, wherever it lies."""

import pytest
import torch
import two_ranks
from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from torchrec_pss import get_default_pss_sharders
from torchrec_pss.distributed import NotFiniteError, require_finite, save_checkpoint

SIZES = [1, 2, 7, 8, 9, 16, 17, 33, 64, 1000, 70_001]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.complex64])
def test_one_element_anywhere(dtype):
    for size in SIZES:
        tensor = torch.zeros(size, dtype=dtype)
        for place in {0, size // 2, size - 1}:
            for value in ("nan", "inf", "-inf"):
                require_finite({"x": tensor})
                tensor[place] = float(value)
                with pytest.raises(NotFiniteError, match=rf"^x\[{place}(, 0)?\] is {value} on rank 0$"):
                    require_finite({"x": tensor})
                tensor[place] = 0


def test_names_and_places():
    whole = torch.zeros(3, 4).t()
    whole[1, 2] = float("nan")
    cases = {
        "a.b.1[1, 2]": {"a": {"b": [torch.ones(2), whole]}},
        "step": {"step": torch.tensor(float("nan"))},
        "eight[3]": {"eight": torch.tensor([1, 2, 3, float("nan")]).to(torch.float8_e4m3fn)},
        "p[0]": {"none": torch.zeros(0), "ids": torch.tensor([1]), "p": nn.Parameter(torch.tensor([float("nan")]))},
    }
    for place, state in cases.items():
        with pytest.raises(NotFiniteError) as error:
            require_finite(state)
        assert str(error.value).startswith(f"{place} is nan")
    require_finite({"largest": torch.tensor([torch.finfo().max]), "text": "nan", "number": float("nan"), "none": None})


def not_dense():
    two = [torch.ones(2), torch.ones(3)]
    return {
        "sparse_coo": torch.sparse_coo_tensor([[0, 2], [1, 0]], [1.0, float("nan")], (3, 3)),
        "sparse_csr": torch.eye(3).to_sparse_csr(),
        "nested": torch.nested.nested_tensor(two),
        "nested jagged": torch.nested.nested_tensor(two, layout=torch.jagged),
    }


@pytest.mark.parametrize("kind", ["sparse_coo", "sparse_csr", "nested", "nested jagged"])
def test_a_tensor_that_is_not_dense_is_named(tmp_path, kind):
    state = {"model": {"ids": [torch.ones(2), not_dense()[kind]]}}
    message = rf"^model\.ids\.1 is a {kind.split()[0]} tensor: a checkpoint holds dense ones only"
    with pytest.raises(ValueError, match=message):
        require_finite(state)
    for allow in (False, True):
        with pytest.raises(ValueError, match=message):
            save_checkpoint(state, tmp_path / "checkpoint", allow_not_finite=allow)
    assert not list(tmp_path.iterdir())


def sharded(rank, world_size, sharding):
    tables = [EmbeddingBagConfig(name="t", num_embeddings=50, embedding_dim=8, feature_names=["f"])]
    model = nn.Sequential(EmbeddingBagCollection(tables, device=torch.device("meta")))
    constraints = {"t": ParameterConstraints(sharding_types=[sharding], min_partition=4)}
    planner = EmbeddingShardingPlanner(Topology(world_size=2, compute_device="cpu"), constraints=constraints)
    sharders = get_default_pss_sharders()
    device = torch.device("cpu")
    dmp = DistributedModelParallel(model, device=device, plan=planner.plan(model, sharders), sharders=sharders)
    state = dmp.state_dict()
    require_finite({"model": state})
    (table,) = state.values()
    last = [
        shard
        for shard in table.local_shards()
        if shard.metadata.shard_offsets[1] == table.size(1) - shard.tensor.size(1)
    ]
    for shard in last:
        shard.tensor[-1, -1] = float("nan")
    try:
        require_finite({"model": state})
    except NotFiniteError as error:
        return bool(last), str(error)


@pytest.mark.parametrize("sharding", ["table_wise", "column_wise"])
def test_a_part_of_a_sharded_table(tmp_path, sharding):
    answers = two_ranks.run(sharded, tmp_path, sharding)
    rank = [has_it for has_it, _ in answers].index(True)
    for _, error in answers:
        assert error == f"model.0.embedding_bags.t.weight[49, 7] is nan on rank {rank}"
