"""The shape of TorchRec's examples/prediction: a rating model in a loop of plain torch, saved with its sizes, and asked for predictions."""

import pytest
import torch
import torch.distributed as dist
import two_ranks
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchrec.distributed.model_parallel import DistributedModelParallel as DMP
from torchrec.distributed.model_parallel import get_unwrapped_module
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

import torchrec_pss as pss  # swap, planner
from public_programs.ways import CPU, Program, check, compared

ROWS, DIM, NUM_DENSE = {"user_id": 70, "item_id": 50, "user_category": 10, "item_category": 20}, 8, 4


def tables():
    return [EmbeddingBagConfig(name=n, embedding_dim=DIM, num_embeddings=r, feature_names=[n]) for n, r in ROWS.items()]


class Ratings(Dataset):
    def __init__(self, samples, seed):
        generator = torch.Generator().manual_seed(seed)
        self.ids = {n: torch.randint(0, r, (samples,), generator=generator) for n, r in ROWS.items()}
        self.dense = torch.rand(samples, NUM_DENSE, generator=generator)
        self.ratings = torch.randint(0, 6, (samples,), generator=generator).float()

    def __len__(self):
        return len(self.ratings)

    def __getitem__(self, index):
        ids = {name: values[index] for name, values in self.ids.items()}
        return ids | {"dense_features": self.dense[index], "rating": self.ratings[index]}


class Dlrm(nn.Module):
    """Dot products of all pairs, written out."""

    def __init__(self, embedding_bag_collection):
        super().__init__()
        self.embedding_bag_collection = embedding_bag_collection
        configs = embedding_bag_collection.embedding_bag_configs()
        pairs = (len(configs) + 1) * len(configs) // 2
        self.dense_arch = nn.Sequential(nn.Linear(NUM_DENSE, 16), nn.ReLU(), nn.Linear(16, configs[0].embedding_dim))
        self.over_arch = nn.Sequential(nn.Linear(configs[0].embedding_dim + pairs, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, dense_features, sparse_features):
        dense = self.dense_arch(dense_features)
        pooled = self.embedding_bag_collection(sparse_features)
        parts = [dense, *(pooled[name] for name in pooled.keys())]  # noqa: SIM118 (no dict)
        products = [(a * b).sum(dim=1, keepdim=True) for i, a in enumerate(parts) for b in parts[i + 1 :]]
        return self.over_arch(torch.cat([dense, *products], dim=1))


class InStars(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, dense_features, sparse_features):
        return torch.sigmoid(self.model(dense_features, sparse_features).squeeze()) * 5.0


def kjt_of(batch):
    values = torch.cat([batch[name] for name in ROWS])
    return KeyedJaggedTensor(keys=list(ROWS), values=values, lengths=torch.ones(len(values), dtype=torch.int32))


def program(way, size, folder):
    ebc = EmbeddingBagCollection(tables=tables(), device=CPU)
    if way == "swap":
        ebc = pss.PSSEmbeddingBagCollection(tables(), device=CPU, config=pss.PSSConfig(array_bytes=size))  # swap
    model = InStars(Dlrm(ebc)).to(CPU)
    if way == "planner":
        plan = pss.PSSShardingPlanner(pss="always", array_bytes=size).collective_plan(model)  # planner
        model = DMP(model, device=CPU, plan=plan, sharders=pss.get_default_pss_sharders())  # planner
    elif dist.get_world_size() > 1:  # the original is one process
        model = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-5)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=5, gamma=0.5)
    batches = [*DataLoader(Ratings(32, dist.get_rank()), batch_size=16, shuffle=False)] * 100
    steps, criterion = iter(batches), nn.MSELoss()

    def step():
        batch = next(steps)
        loss = criterion(model(batch["dense_features"], kjt_of(batch)), batch["rating"])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        optimizer.step()
        scheduler.step()
        return loss.item()

    def read(one):
        return one(batches[0]["dense_features"], kjt_of(batches[0]))

    def save():
        """With the sizes, as the original does; what it loads into is no wrapper."""
        if dist.get_rank() == 0:
            path = f"{folder}/{way}-{size}.pth"
            torch.save({"model_state_dict": model.state_dict(), "embedding_dim": DIM, **ROWS}, path)
            saved = torch.load(path)
            assert saved["user_id"] == ROWS["user_id"]
            if way == "swap":
                again = InStars(Dlrm(pss.PSSEmbeddingBagCollection(tables(), config=pss.PSSConfig(array_bytes=size))))
                again.load_state_dict({n.removeprefix("module."): v for n, v in saved["model_state_dict"].items()})
                torch.testing.assert_close(read(again), read(get_unwrapped_module(model)))
                assert 0 < float(predictions(again)[0]) < 5

    return Program(model, step, read, save)


@torch.no_grad()
def predictions(model, user=42, items=(10, 25, 49)):
    """Of one user for some items."""
    number = len(items)
    ids = {"user_id": [user] * number, "item_id": items, "user_category": [3] * number, "item_category": [5] * number}
    kjt = kjt_of({name: torch.tensor(values) for name, values in ids.items()})
    return model.eval()(torch.rand(number, NUM_DENSE), kjt).cpu().numpy().flatten()


def whole():
    return InStars(Dlrm(EmbeddingBagCollection(tables=tables(), device=CPU)))


def run(rank, world_size, folder):
    def make(way, size):
        return program(way, size, folder)

    return compared(rank, world_size, make, whole, tables(), folder)


@pytest.mark.parametrize("ranks", [1, 2])
def test_prediction(tmp_path, ranks):
    check(two_ranks.run(run, tmp_path, str(tmp_path), world_size=ranks), same_optimizer=True)
