"""ArrayRestart: afterwards array, projections and optimizer are those of a module just built; nothing else has moved."""

from functools import partial

import pytest
import torch
import two_ranks
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection, get_default_pss_sharders
from torchrec_pss.modules.array_restart import ArrayRestart
from torchrec_pss.optim.recipe import num_passes

TABLES = [
    EmbeddingBagConfig(name=f"t{i}", num_embeddings=1000, embedding_dim=8, feature_names=[f"f{i}"]) for i in range(2)
]
CONFIG = PSSConfig(array_bytes=4000, width=4, bias=True)
OPTIMIZERS = {"adam": torch.optim.Adam, "adagrad": torch.optim.Adagrad}


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.ebc = PSSEmbeddingBagCollection(TABLES, config=CONFIG)
        self.over = torch.nn.Linear(16, 1)

    def forward(self, kjt):
        return self.over(self.ebc(kjt).values()).square().mean()


def batch():
    return KeyedJaggedTensor(["f0", "f1"], torch.arange(12) * 77, lengths=torch.tensor([2, 1, 3, 1, 2, 3]))


def steps(model, optimizer, number=3):
    for _ in range(number):
        optimizer.zero_grad()
        model(batch()).backward()
        optimizer.step()


def keyed(model, optimizer_class):
    parts = [
        {n: p for n, p in model.named_parameters() if ("ebc" in n) == array} for array in (True, False)
    ]  # an optimizer of the array, one of the rest, as the scripts have them
    return CombinedOptimizer([KeyedOptimizerWrapper(part, partial(optimizer_class, lr=0.01)) for part in parts])


def plain(model, optimizer_class):
    return optimizer_class(model.parameters(), lr=0.01)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("optimizer_of", [plain, keyed])
def test_goes_on_as_a_module_just_built(name, optimizer_of):
    model = Model()
    optimizer = optimizer_of(model, OPTIMIZERS[name])
    restart = ArrayRestart(model)
    steps(model, optimizer)
    dense = model.over.weight.clone()
    moments = {k: v.clone() for k, v in optimizer.state[model.over.weight].items()}
    restart.restart(optimizer)
    assert torch.equal(model.over.weight, dense)
    assert all(torch.equal(v, moments[k]) for k, v in optimizer.state[model.over.weight].items())

    other = Model()
    assert not torch.equal(model.over.weight, other.over.weight)
    other.over.load_state_dict(model.over.state_dict())
    assert torch.equal(model.ebc.array, other.ebc.array)
    assert torch.equal(model.ebc.projections, other.ebc.projections)
    # The dense optimizers' pasts differ, so only the first step's effect on the array can be compared.
    steps(model, optimizer, 1)
    steps(other, optimizer_of(other, OPTIMIZERS[name]), 1)
    assert torch.equal(model.ebc.array, other.ebc.array)
    assert torch.equal(model.ebc.projections, other.ebc.projections)


def sharded(rank, world_size):
    model = DistributedModelParallel(Model(), sharders=get_default_pss_sharders(), device=torch.device("cpu"))
    optimizer = keyed(model, torch.optim.Adam)
    restart = ArrayRestart(model)
    steps(model, optimizer)
    restart.restart(optimizer)
    begun = {n: p.detach().clone().numpy() for n, p in model.named_parameters()}
    steps(model, optimizer)
    return begun, {n: p.detach().clone().numpy() for n, p in model.named_parameters()}


def test_replicas_stay_equal(tmp_path):
    (begun, after), (other_begun, other_after) = two_ranks.run(sharded, tmp_path)
    assert len(begun) == 4 and any(n.endswith("ebc.projections") for n in begun)
    for name in begun:
        assert (begun[name] == other_begun[name]).all() and (after[name] == other_after[name]).all()
        assert (begun[name] != after[name]).any()
    (array,) = (v for n, v in begun.items() if n.endswith("ebc.array"))
    assert (array == Model().ebc.array.detach().numpy()).all()


def test_no_array_is_refused():
    model = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="Linear has no shared array"):
        ArrayRestart(model)


def test_only_few_rows_are_passed_several_times():
    numbers = (1, 249_999, 250_000, 2_999_999, 3_000_000, 10**9)
    assert [num_passes(n) for n in numbers] == [3, 3, 2, 2, 1, 1]
    assert [num_passes(n, cross_layers=True) for n in numbers] == [2, 2, 2, 2, 1, 1]
