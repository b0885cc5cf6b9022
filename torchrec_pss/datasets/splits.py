"""Train, validation and test rows, as the field divides Criteo."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Splits:
    """Positions of the rows of each part."""

    train: range
    val: range
    test: range


def split_rows(num_rows: int, train_fraction: float) -> Splits:
    """Rows in time order: the first ``train_fraction`` to train on, the rest halved, validation before test.

    Raises:
        ValueError: a fraction outside (0, 1), or a part left without rows.
    """
    if not 0 < train_fraction < 1:
        raise ValueError(f"train_fraction must be between 0 and 1, got {train_fraction}")
    # Rounded, so that 0.8 of 80,000 is 64,000 whatever the binary fraction.
    num_train = round(num_rows * train_fraction)
    middle = num_train + (num_rows - num_train) // 2
    splits = Splits(range(num_train), range(num_train, middle), range(middle, num_rows))
    if min(len(splits.train), len(splits.val), len(splits.test)) < 1:
        raise ValueError(f"{num_rows} rows are too few to divide at train_fraction {train_fraction}")
    return splits


def split_files(rows_per_file: Sequence[int], train_fraction: float) -> Splits:
    """Several files (Criteo-1TB's days): all but the last to train on, the last halved. One file: `split_rows`."""
    if len(rows_per_file) == 1:
        return split_rows(rows_per_file[0], train_fraction)
    num_train, last = sum(rows_per_file[:-1]), rows_per_file[-1]
    if last < 2:
        raise ValueError("the last data file has too few rows to halve")
    middle = num_train + last // 2
    return Splits(range(num_train), range(num_train, middle), range(middle, num_train + last))
