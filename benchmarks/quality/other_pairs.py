"""User-item pairs of a generator: users pick the items of the largest scores

    <u, v> + popularity + Gumbel noise        or        affinity[cluster of u, cluster of v] + popularity + Gumbel noise

without replacement, as many as a log-normal number says; a fifth of all pairs is for testing.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torchrec_pss.datasets.interactions import Interactions
from torchrec_pss.whole_file import written_aside

_FEWEST = 3  # items of a user
_MOST = 1 / 3  # of the items
_TRAINING = 0.8  # of the pairs
_USERS_AT_ONCE = 500


@dataclass(frozen=True)
class OtherPairs:
    """A data set's pairs.

    Attributes:
        num_users, num_items: of each.
        num_pairs: about as many; no user has fewer than three.
        effect: standard deviation of the scores that popularity does not explain.
        popularity: standard deviation of the items' popularity.
        seed: of everything.
        factors: of users and items, unless there are clusters.
        clusters: of users and of items.
    """

    num_users: int
    num_items: int
    num_pairs: int
    effect: float
    popularity: float
    seed: int
    factors: int = 0
    clusters: int = 0


def draw(of: OtherPairs) -> Interactions:
    rng = np.random.default_rng(of.seed)
    users, items = _tastes(of, rng)
    popularity = rng.normal(0, of.popularity, of.num_items)
    activity = np.exp(rng.normal(0, 1, of.num_users))
    number = np.maximum(_FEWEST, activity / activity.sum() * of.num_pairs).astype(int)
    number = number.clip(_FEWEST, int(of.num_items * _MOST))
    chosen = []
    for first in range(0, of.num_users, _USERS_AT_ONCE):
        some = slice(first, min(first + _USERS_AT_ONCE, of.num_users))
        scores = users[some] @ items.T + popularity
        order = np.argsort(-(scores + rng.gumbel(size=scores.shape)), axis=1)
        chosen += [best[:n] for best, n in zip(order, number[some], strict=True)]
    user, item = np.repeat(np.arange(of.num_users), number), np.concatenate(chosen)
    train, test = np.split(rng.permutation(len(user)), [int(_TRAINING * len(user))])
    return Interactions(user[train], item[train], user[test], item[test], of.num_users, of.num_items)


def write(of: OtherPairs, path: Path) -> None:
    """The file that `examples/train_interactions.py` takes."""
    pairs = draw(of)
    names = ("train_user", "train_item", "test_user", "test_item")
    with written_aside(path) as aside, open(aside, "wb") as stream:
        np.savez(stream, **{name: getattr(pairs, name) for name in names})


def _tastes(of: OtherPairs, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of users and of items, whose dot products are the scores."""
    if of.clusters:
        cluster_of_user, cluster_of_item = (rng.integers(0, of.clusters, n) for n in (of.num_users, of.num_items))
        affinity = rng.normal(0, of.effect, (of.clusters, of.clusters))
        return affinity[cluster_of_user], np.eye(of.clusters)[cluster_of_item]
    users, items = (rng.normal(0, 1, (n, of.factors)) for n in (of.num_users, of.num_items))
    return users, items * (of.effect / of.factors**0.5)
