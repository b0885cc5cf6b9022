"""One training of one contestant on sequences: a user's items attend to a candidate item, as in DIN (arXiv 1706.06978).

The contestants are those of `rivals`; the array is laid out for dot products.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchmetrics.functional.classification import binary_auroc
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from benchmarks.quality import rivals
from benchmarks.quality.composed import cluster
from torchrec_pss.datasets.interactions import Interactions
from torchrec_pss.modules.id_counts import IdCounts
from torchrec_pss.optim import WeightAverage

_LEARNING_RATE = 0.004  # of Adam, of the layers after the embeddings
_RATES = tuple((None, factor) for factor in (2.0, 1.0, 4.0))
_HISTORY = 12  # items of a user, at most
_NEGATIVES = 4  # sampled items a pair
_BATCH_SIZE = 512  # pairs
_PAIRS = 300_000  # learned an epoch
_JUDGED = 50_000  # pairs to choose and to judge by, at most; a tenth of the training pairs to choose
_EVALUATION_PAIRS = 8192
_AVERAGE_EVERY = 4


@dataclass(frozen=True)
class SequenceTrial:
    """What to train; as `click_trial.ClickTrial`."""

    contestant: str
    compression: float
    trial: int = 0
    model: str = "sequence"
    seed: int = 0
    embedding_dim: int = 64
    epochs: int = 4
    bits: int = 32


# (variant, factor on the learning rate of the embeddings) a trial, as in rivals.py.
CONTESTANTS: dict[str, rivals.Trials] = dict.fromkeys(rivals.CONTESTANTS, _RATES) | {
    "row hashing": ((8, 2.0), (2, 2.0), (1, 2.0)),
    "ROBE": ((1, 2.0), (4, 2.0), (4, 1.0)),
    "PSS plain": ((1, 2.0), (4, 2.0), (1, 1.0)),
    "CAFE": ((0.7, 2.0), (0.5, 2.0), (0.3, 2.0)),
}


def build(
    name: str, table: EmbeddingConfig, budget: int, counts: IdCounts, variant: float | None, bits: int = 32
) -> rivals.Built:
    """A contestant of one table, with the bytes of all that it learns.

    Raises:
        ValueError: it cannot be had at that budget.
    """
    known = {table.name: counts}
    return rivals.CONTESTANTS[name].built([table], budget, known, variant, bits)


class SequenceModel(nn.Module):
    """Logits of candidates, given a user's items: attention over the items, then an MLP."""

    def __init__(self, embeddings: EmbeddingCollectionInterface, num_items: int) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.num_items = num_items
        dim = embeddings.embedding_dim()
        self.over = nn.Sequential(nn.Linear(3 * dim, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, history: torch.Tensor, known: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Logits ``[B, K]`` of ``items`` ``[B, K]`` for users with the items ``history[known]``, both ``[B, L]``."""
        rows = self.embeddings.embedding_configs()[0].num_embeddings  # row hashing: fewer than there are items
        lengths = torch.cat([known.sum(1), torch.full((len(items),), items.shape[1])]).int()
        ids = torch.cat([history[known], items.flatten()]) % rows
        read = self.embeddings(KeyedJaggedTensor(["history", "candidate"], ids, lengths=lengths))
        candidates = read["candidate"].values().view(*items.shape, -1)
        past = torch.zeros(*history.shape, candidates.shape[2])
        past[known] = read["history"].values()
        scores = (candidates @ past.mT).masked_fill(~known[:, None], -1e9)
        attended = torch.softmax(scores, dim=2) @ past
        return self.over(torch.cat([candidates, attended, candidates * attended], dim=2)).squeeze(2)


class Histories:
    """Items of each user, in one vector."""

    def __init__(self, users: np.ndarray, items: np.ndarray, num_users: int) -> None:
        self._items = torch.from_numpy(items[np.argsort(users, kind="stable")])
        self._number = torch.from_numpy(np.bincount(users, minlength=num_users))
        self._first = self._number.cumsum(0) - self._number

    def sample(self, users: torch.Tensor, targets: torch.Tensor, generator: torch.Generator):
        """Items ``[B, L]`` drawn of those of each user, and which of them are known: not the target itself."""
        drawn = torch.rand((len(users), _HISTORY), generator=generator)
        places = (drawn * self._number[users, None]).long() + self._first[users, None]
        history = self._items[places.clamp(max=len(self._items) - 1)]
        return history, (history != targets[:, None]) & (self._number[users, None] > 0)


def run(pairs: Interactions, trial: SequenceTrial) -> dict:
    """Trains on `_PAIRS` pairs an epoch; returns what `click_trial.run` does, an evaluation an epoch.

    Raises:
        ValueError: the contestant cannot be had at that budget.
        RuntimeError: the loss is not finite.
    """
    torch.manual_seed(trial.seed)
    variant, factor = CONTESTANTS[trial.contestant][trial.trial]
    chosen = np.random.default_rng(0).permutation(len(pairs.train_user))
    validation, train = np.split(chosen, [min(_JUDGED, len(chosen) // 10)])
    users, items = torch.from_numpy(pairs.train_user), torch.from_numpy(pairs.train_item)
    histories = Histories(pairs.train_user[train], pairs.train_item[train], pairs.num_users)
    table = EmbeddingConfig(
        name="item",
        num_embeddings=pairs.num_items,
        embedding_dim=trial.embedding_dim,
        feature_names=["history", "candidate"],
    )
    full_bytes = pairs.num_items * trial.embedding_dim * 4
    budget = int(full_bytes / trial.compression)
    counts = IdCounts.of(pairs.train_item[train])
    embeddings, size = build(trial.contestant, table, budget, counts, variant, trial.bits)
    read_in = partial(rivals.CONTESTANTS[trial.contestant].read_in, embeddings, trial.bits)
    model = SequenceModel(embeddings, pairs.num_items)
    optimizer = torch.optim.Adam(
        [
            {"params": list(model.over.parameters()), "lr": _LEARNING_RATE},
            {"params": list(embeddings.parameters()), "lr": factor * _LEARNING_RATE},
        ]
    )
    average = WeightAverage(dict(model.named_parameters()), every=_AVERAGE_EVERY)
    test = np.random.default_rng(1).permutation(len(pairs.test_user))[:_JUDGED]
    tested = torch.from_numpy(pairs.test_user[test]), torch.from_numpy(pairs.test_item[test])
    curve, step = [], 0
    for epoch in range(trial.epochs):
        if epoch and epoch == trial.epochs // 2:
            cluster(embeddings, trial.seed)
        generator = torch.Generator().manual_seed(trial.seed * 1000 + epoch)
        order = torch.from_numpy(train)[torch.randperm(len(train), generator=generator)[:_PAIRS]]
        for rows in order.split(_BATCH_SIZE):
            negatives = torch.randint(pairs.num_items, (len(rows), _NEGATIVES), generator=generator)
            history, known = histories.sample(users[rows], items[rows], generator)
            optimizer.zero_grad()
            with read_in():
                logits = model(history, known, torch.cat([items[rows, None], negatives], dim=1))
                labels = torch.zeros_like(logits)
                labels[:, 0] = 1
                loss = binary_cross_entropy_with_logits(logits, labels)
                loss.backward()
            optimizer.step()
            average.step()
            step += 1
        if not torch.isfinite(loss):
            raise RuntimeError(f"the loss is {float(loss)} at step {step}")
        with average.applied(), read_in():
            curve.append((step, _auroc(model, histories, *tested)))
    with average.applied(), read_in():
        auroc_val = _auroc(model, histories, users[validation], items[validation])
    return {"auroc_val": auroc_val, "auroc_test": curve[-1][1], "bytes": size, "budget": budget, "curve": curve}


@torch.no_grad()
def _auroc(model: SequenceModel, histories: Histories, users: torch.Tensor, items: torch.Tensor) -> float:
    """Of pairs against as many of the same users with uniformly drawn items; the same ones at every call."""
    generator = torch.Generator().manual_seed(0)
    negatives = torch.randint(model.num_items, items.shape, generator=generator)
    found = []
    for here, target, negative in zip(*(t.split(_EVALUATION_PAIRS) for t in (users, items, negatives)), strict=True):
        history, known = histories.sample(here, target, generator)
        found.append(model(history, known, torch.stack([target, negative], dim=1)))
    logits = torch.cat(found)
    return float(
        binary_auroc(torch.sigmoid(logits.double()).flatten(), torch.tensor([1, 0]).expand_as(logits).flatten())
    )
