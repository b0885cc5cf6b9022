"""train_interactions.py's loop: pairs against sampled items, and their AUROC."""

import argparse
import math

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from torchmetrics.classification import BinaryAUROC
from tqdm import tqdm

from torchrec_pss.datasets.interactions import Interactions
from torchrec_pss.distributed import NotFiniteError, require_finite
from torchrec_pss.models import TwoTower
from torchrec_pss.optim import WeightAverage

_TEST_BATCH = 1 << 15


def default_batch_size(num_pairs: int) -> int:
    """The largest power of two, 32 to 1024, that leaves an epoch over so many training pairs 300 steps."""
    return max(32, min(1024, 2 ** int(math.log2(max(num_pairs / 300, 1)))))


def train_epoch(
    model: TwoTower,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage,
    data: Interactions,
    args: argparse.Namespace,
    epoch: int,
) -> float:
    """One pass over the pairs in random order; the mean loss."""
    rng = np.random.default_rng([args.seed, epoch])
    order = rng.permutation(len(data.train_user))
    losses = []
    starts = range(0, len(order), args.batch_size)
    for start in tqdm(starts, desc=f"epoch {epoch + 1}", unit="step", mininterval=5):
        rows = order[start : start + args.batch_size]
        negatives = rng.integers(0, data.num_items, (len(rows), args.negatives))
        items = torch.from_numpy(np.concatenate([data.train_item[rows, None], negatives], axis=1))
        logits = model(torch.from_numpy(data.train_user[rows]), items)
        labels = torch.zeros_like(logits)
        labels[:, 0] = 1
        loss = binary_cross_entropy_with_logits(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.step()
        losses.append(float(loss.detach()))
        if not np.isfinite(losses[-1]):
            raise NotFiniteError(f"the loss is {losses[-1]} at step {len(losses)} of epoch {epoch + 1}")
    require_finite({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": average.state_dict()})
    return float(np.mean(losses))


def test_items(data: Interactions, seed: int) -> np.ndarray:
    """``[m, 2]``: every test pair's item beside a uniformly sampled one; the same ones at every call."""
    rng = np.random.default_rng([seed, 1 << 20])
    return np.stack([data.test_item, rng.integers(0, data.num_items, len(data.test_item))], axis=1)


@torch.no_grad()
def evaluate(model: TwoTower, data: Interactions, seed: int) -> float:
    """AUROC of the test pairs against as many sampled ones.

    Raises:
        NotFiniteError: a pair's logit is NaN or infinite.
    """
    items = torch.from_numpy(test_items(data, seed))
    auroc = BinaryAUROC(thresholds=None)
    for start in range(0, len(items), _TEST_BATCH):
        here = slice(start, start + _TEST_BATCH)
        logits = model(torch.from_numpy(data.test_user[here]), items[here])
        if not torch.isfinite(logits).all():
            raise NotFiniteError(f"logits of the test pairs {here.start} to {here.stop - 1} are not finite")
        labels = torch.tensor([1, 0]).expand_as(logits)
        auroc.update(torch.sigmoid(logits.double()).flatten(), labels.flatten())
    return float(auroc.compute())


def popularity_auroc(data: Interactions, seed: int) -> float:
    """The same AUROC of a ranking that knows no users: items by their number of training pairs."""
    pairs = np.bincount(data.train_item, minlength=data.num_items)
    scores = torch.from_numpy(pairs / pairs.max())[test_items(data, seed)]
    return float(BinaryAUROC(thresholds=None)(scores.flatten(), torch.tensor([1, 0]).expand_as(scores).flatten()))
