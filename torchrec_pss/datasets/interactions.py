"""Implicit feedback: (user, item) pairs to learn from and to test on."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torchrec_pss.datasets.npz_file import read_npz

_ARRAYS = ("train_user", "train_item", "test_user", "test_item")
_SPARSEST = 100  # ids up to so many times the number of distinct ones
_ALWAYS_ROWS = 10_000_000  # ids up to here however sparse they are


@dataclass
class Interactions:
    """Pairs of users and items, ids from 0.

    Attributes:
        train_user, train_item: int64 ``[n]``.
        test_user, test_item: int64 ``[m]``.
        num_users, num_items: one more than the largest id.
    """

    train_user: np.ndarray
    train_item: np.ndarray
    test_user: np.ndarray
    test_item: np.ndarray
    num_users: int
    num_items: int

    @classmethod
    def load(cls, path: str | Path) -> "Interactions":
        """Reads an ``.npz`` with the integer arrays train_user, train_item, test_user, test_item.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not an npz, an array that is missing, empty, not integer, negative, or not as long as its twin,
                or ids so sparse that a table with a row for each could not be trained.
        """
        path = Path(path)
        arrays = read_npz(path, _ARRAYS)
        for name in _ARRAYS:
            if name not in arrays:
                raise ValueError(f"data file {path} has no array {name}")
            array = arrays[name]
            if array.ndim != 1 or array.dtype.kind not in "iu" or not len(array):
                raise ValueError(f"{path}: {name} must be a non-empty integer vector, got {array.dtype} {array.shape}")
            if array.min() < 0:
                raise ValueError(f"{path}: {name} holds the negative id {array.min()}")
        for part in ("train", "test"):
            users, items = arrays[f"{part}_user"], arrays[f"{part}_item"]
            if len(users) != len(items):
                raise ValueError(f"{path}: {len(users)} {part}_user but {len(items)} {part}_item")
        sizes = [_num_rows(path, kind, arrays[f"train_{kind}"], arrays[f"test_{kind}"]) for kind in ("user", "item")]
        train_user, train_item, test_user, test_item = (arrays[name].astype(np.int64) for name in _ARRAYS)
        num_users, num_items = sizes
        return cls(train_user, train_item, test_user, test_item, num_users, num_items)


def _num_rows(path: Path, kind: str, train: np.ndarray, test: np.ndarray) -> int:
    """One more than the largest id."""
    largest = max(int(train.max()), int(test.max()))
    if largest >= _ALWAYS_ROWS:
        distinct = len(np.union1d(train, test))
        if largest >= _SPARSEST * distinct:
            raise ValueError(
                f"{path}: {kind} ids go up to {largest}, but only {distinct} are distinct: "
                f"number them from 0 (numpy.unique with return_inverse=True)"
            )
    return largest + 1
