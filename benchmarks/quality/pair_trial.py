"""One training of one contestant on user-item pairs: `examples/train_interactions.py`'s two-tower model and loop.

Four contestants are the script's own; the others have its row hashing's rate and start from `rivals`.
"""

import sys
from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.quality import rivals
from benchmarks.quality.composed import cluster
from torchrec_pss.datasets.interactions import Interactions
from torchrec_pss.models import TwoTower
from torchrec_pss.modules.id_counts import IdCounts
from torchrec_pss.optim import WeightAverage

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import interaction_model
import interaction_training
import train_interactions

GOWALLA = Path(__file__).parents[3] / "shared" / "data" / "gowalla.npz"
_OF_THE_SCRIPT = {"pss": "pss", "full": "full", "narrow": "narrow", "row hashing": "hash"}
_RATES = tuple((None, factor) for factor in (1.0, 0.5, 2.0))
# (variant, factor on the learning rate) a trial, as in rivals.py.
CONTESTANTS: dict[str, rivals.Trials] = dict.fromkeys(rivals.CONTESTANTS, _RATES) | {
    "ROBE": ((1, 1.0), (4, 1.0), (4, 0.5)),
    "PSS plain": ((1, 1.0), (4, 1.0), (1, 0.5)),
    "CAFE": ((0.7, 1.0), (0.5, 1.0), (0.3, 1.0)),
}
_VALIDATION = 0.05  # of the training pairs


@dataclass(frozen=True)
class PairTrial:
    """What to train; as `click_trial.ClickTrial`."""

    contestant: str
    compression: float
    trial: int = 0
    model: str = "two-tower"
    seed: int = 0
    embedding_dim: int = 64
    epochs: int = 6
    bits: int = 32


def run(pairs: Interactions, trial: PairTrial) -> dict:
    """Trains; returns what `click_trial.run` does, an evaluation an epoch.

    Raises:
        ValueError: the contestant cannot be had at that budget.
        RuntimeError: the loss is not finite.
    """
    torch.manual_seed(trial.seed)
    train, validation = _held_out(pairs)
    budget = int((pairs.num_users + pairs.num_items) * trial.embedding_dim * 4 / trial.compression)
    flags = ["--path", str(GOWALLA), "--embedding", _OF_THE_SCRIPT.get(trial.contestant, "hash")]
    flags += ["--embedding_dim", str(trial.embedding_dim), "--seed", str(trial.seed)]
    flags += ["--batch_size", str(interaction_training.default_batch_size(len(train.train_user)))]
    if trial.contestant != "full":
        flags += ["--compression", str(trial.compression), "--bits", str(trial.bits)]
    args = train_interactions.parse(flags)
    variant, factor = CONTESTANTS[trial.contestant][trial.trial]
    if trial.contestant in _OF_THE_SCRIPT:
        model, size, _, _ = interaction_model.build(args, train)
    else:
        model, size = _rival(trial.contestant, variant, args, train, budget)
    rate = args.learning_rate or interaction_model.LEARNING_RATES[args.embedding]
    optimizer = torch.optim.Adam(model.parameters(), lr=rate * factor)
    average = WeightAverage(dict(model.named_parameters()), every=4)
    curve, steps = [], -(-len(train.train_user) // args.batch_size)
    for epoch in range(trial.epochs):
        if epoch and epoch == trial.epochs // 2:
            cluster(model, trial.seed)
        interaction_training.train_epoch(model, optimizer, average, train, args, epoch)
        with average.applied():
            curve.append((steps * (epoch + 1), interaction_training.evaluate(model, pairs, 0)))
    with average.applied():
        auroc_val = interaction_training.evaluate(model, validation, 0)
    return {"auroc_val": auroc_val, "auroc_test": curve[-1][1], "bytes": size, "budget": budget, "curve": curve}


def _rival(name: str, variant: float | None, args: Namespace, train: Interactions, budget: int) -> tuple[TwoTower, int]:
    """The model, and its embeddings' bytes."""
    tables = interaction_model.tables(train, args.embedding_dim, 0.0)
    ids = (train.train_user, train.train_item)
    counts = {t.name: IdCounts.of(i) for t, i in zip(tables, ids, strict=True)}
    contestant = rivals.CONTESTANTS[name]
    if args.bits < 32 and not contestant.is_layout:
        raise ValueError(f"{name} is no layout of the array: the script's loop reads it in 32 bits")
    embeddings, size = contestant.built(tables, budget, counts, variant, args.bits)
    return TwoTower(embeddings, args.negatives), size


def gowalla() -> Interactions:
    """Gowalla's pairs under permuted ids. The file numbers users and items by first appearance, so that items of one user
    are neighbours; a hash that is linear in the id (ROBE's, a modulo) would profit from an order that raw ids do not have.

    Raises:
        FileNotFoundError: the file is not there.
    """
    pairs, rng = Interactions.load(GOWALLA), np.random.default_rng(0)
    users, items = rng.permutation(pairs.num_users), rng.permutation(pairs.num_items)
    return replace(
        pairs,
        train_user=users[pairs.train_user], test_user=users[pairs.test_user],
        train_item=items[pairs.train_item], test_item=items[pairs.test_item],
    )  # fmt: skip


def _held_out(pairs: Interactions) -> tuple[Interactions, Interactions]:
    """The training pairs less some, and those as test pairs."""
    chosen = np.random.default_rng(0).random(len(pairs.train_user)) < _VALIDATION
    train = replace(pairs, train_user=pairs.train_user[~chosen], train_item=pairs.train_item[~chosen])
    validation = replace(pairs, test_user=pairs.train_user[chosen], test_item=pairs.train_item[chosen])
    return train, validation
