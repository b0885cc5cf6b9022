"""What a collection returns is of the dtype that the layers behind it have."""

import copy

import pytest
import torch
import torch.distributed as dist
import two_ranks
from fbgemm_gpu.split_embedding_configs import SparseType
from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import Topology
from torchrec.fx import symbolic_trace
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.modules.mlp import MLP
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss import (
    MixedEmbeddingCollection,
    PSSConfig,
    PSSEmbeddingBagCollection,
    PSSEmbeddingCollection,
    PSSParameterConstraints,
    PSSShardingPlanner,
    get_default_pss_sharders,
    unsharded,
)

CPU = torch.device("cpu")
CONFIG = PSSConfig(array_bytes=4000, init_range=0.5)
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def tables(data_type=DataType.FP32):
    return [
        EmbeddingBagConfig(name=n, num_embeddings=100, embedding_dim=8, feature_names=[n], data_type=data_type)
        for n in ("user", "item")
    ]


def bags(weights=None):
    return KeyedJaggedTensor(["user", "item"], torch.arange(8), weights, lengths=torch.tensor([1, 2, 3, 2]))


def collection(data_type=DataType.FP32, is_weighted=False, **others):
    torch.manual_seed(0)
    return PSSEmbeddingBagCollection(tables(data_type), is_weighted, config=CONFIG, **others)


@pytest.mark.parametrize("data_type", [DataType.FP32, DataType.FP16])
@pytest.mark.parametrize("dtype", DTYPES)
def test_bags(dtype, data_type):
    ours, expected = collection(data_type, output_dtype=dtype), collection(data_type)(bags()).values()
    found = ours(bags()).values()
    assert found.dtype == dtype and torch.equal(found, expected.to(dtype))
    for through in (symbolic_trace, torch.jit.script):
        read = through(ours)(bags()).values()
        assert read.dtype == dtype and torch.equal(read, found)
    found.sum().backward()
    assert ours.array.grad.dtype == ours.array.dtype and ours.array.grad.any()
    assert copy.deepcopy(ours).output_dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
def test_sequences(dtype):
    configs = [EmbeddingConfig(name="t", num_embeddings=100, embedding_dim=8, feature_names=["user"])]
    ours = PSSEmbeddingCollection(configs, config=CONFIG, output_dtype=dtype)
    for module in (ours, symbolic_trace(ours)):
        assert module(bags())["user"].values().dtype == dtype


@pytest.mark.parametrize("dtype", [torch.int32, torch.float8_e5m2, "fp16", None])
def test_what_is_none_is_refused(dtype):
    with pytest.raises(ValueError, match="output_dtype must be one of torch.float32, .* got"):
        collection(output_dtype=dtype)


@pytest.mark.parametrize("weights_dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dense_layers_and_weights_in_half_precision(dtype, weights_dtype):
    """A retrieval model's towers, with weights of the ids that learn."""
    weights = torch.rand(8).to(weights_dtype).requires_grad_()
    tower = MLP(16, [8, 4], dtype=dtype, device=CPU)
    read = tower(collection(is_weighted=True, output_dtype=dtype)(bags(weights)).values())
    read.float().square().sum().backward()
    assert read.dtype == dtype and weights.grad.dtype == weights_dtype and weights.grad.any()


def test_autocast():
    ours, tower = collection(), nn.Linear(16, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        read = ours(bags()).values()
        out = tower(read)
    assert read.dtype == torch.float32 and out.dtype == torch.bfloat16
    out.float().sum().backward()
    reference = collection()
    tower.zero_grad()
    tower(reference(bags()).values()).sum().backward()
    torch.testing.assert_close(ours.array.grad, reference.array.grad, rtol=2e-2, atol=2e-2)


class Towers(nn.Module):
    def __init__(self, ebc, dtype):
        super().__init__()
        self.ebc = ebc
        self.query = MLP(8, [4], dtype=dtype, device=CPU)
        self.candidate = MLP(8, [4], dtype=dtype, device=CPU)

    def forward(self, kjt: KeyedJaggedTensor):
        read = self.ebc(kjt)
        return (self.query(read["user"]) * self.candidate(read["item"])).sum(1)


def under_dmp(rank, world_size):
    """Swapped and planned towers in half precision: the output's dtype before and after unsharding."""
    found = []
    for given in (torch.float16, DataType.FP16, SparseType.FP16, SparseType.BF16):
        dtype = torch.bfloat16 if given == SparseType.BF16 else torch.float16
        fused = {"output_dtype": given if isinstance(given, SparseType) else SparseType.FP16}
        for way in ("swapped", "planned", "partly"):
            sharders = get_default_pss_sharders(fused_params={"output_dtype": given} if way == "swapped" else fused)
            if way == "swapped":
                model, plan = Towers(collection(), dtype), None
            else:
                model = Towers(EmbeddingBagCollection(tables(), device=CPU), dtype)
                constraints = {"item": PSSParameterConstraints(pss="never")} if way == "partly" else None
                planner = PSSShardingPlanner(
                    Topology(world_size, "cpu"), pss="always", config=CONFIG, constraints=constraints
                )
                plan = planner.collective_plan(model, sharders, dist.group.WORLD)
            dmp = DistributedModelParallel(model, sharders=sharders, device=CPU, plan=plan)
            out = dmp(bags())
            out.float().sum().backward()
            plain = unsharded(dmp)
            found.append(out.dtype == dtype and (plain is None or plain(bags()).dtype == dtype))
    return all(found)


@pytest.mark.parametrize("ranks", [1, 2])
def test_towers_in_half_precision(tmp_path, ranks):
    assert all(two_ranks.run(under_dmp, tmp_path, world_size=ranks))


@pytest.mark.parametrize("need_indices", [False, True])
def test_sequences_of_a_planned_collection_have_one_dtype(need_indices):
    """TorchRec's plain tables return fp32, where its sharded ones obey fused_params."""
    configs = [
        EmbeddingConfig(name=n, num_embeddings=100, embedding_dim=8, feature_names=[n]) for n in ("user", "item")
    ]
    whole = EmbeddingCollection(tables=configs, device=CPU, need_indices=need_indices)
    ours = MixedEmbeddingCollection(whole, ["user"], CONFIG, "cpu")
    expected = ours(bags())
    ours.array.output_dtype = torch.float16
    for module in (ours, symbolic_trace(ours), torch.jit.script(ours)):
        found = module(bags())
        for name, jagged in expected.items():
            assert torch.equal(found[name].values(), jagged.values().half())
            assert found[name].values().dtype == torch.float16 and torch.equal(found[name].lengths(), jagged.lengths())
            assert not need_indices or torch.equal(found[name].weights(), jagged.weights())
