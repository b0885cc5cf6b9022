"""Train, validation and test rows, as the field divides Criteo or as the files' names say."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from torchrec_pss.datasets.file_roles import HELD_OUT, TEST, TRAIN

_LISTED = 40  # files that a line names at most


@dataclass(frozen=True)
class Splits:
    """Positions of the rows of each part."""

    train: range
    val: range
    test: range

    def as_json(self) -> dict[str, list[int]]:
        return {name: [rows.start, rows.stop] for name, rows in vars(self).items()}


def split_rows(num_rows: int, train_fraction: float) -> Splits:
    """Rows in time order: the first ``train_fraction`` to train on, the rest halved, validation before test.

    Raises:
        ValueError: a fraction outside (0, 1), or a part left without rows.
    """
    num_train = _num_train(num_rows, train_fraction)
    middle = num_train + (num_rows - num_train) // 2
    return _with_rows(
        Splits(range(num_train), range(num_train, middle), range(middle, num_rows)), num_rows, train_fraction
    )


def split_files(
    rows_per_file: Sequence[int], train_fraction: float, roles: Sequence[str | None] | None = None
) -> Splits:
    """Files in the order of their rows. Where no file has a role (see `file_roles.arrange`): of several (Criteo-1TB's days)
    all but the last to train on, the last halved; one: `split_rows`.

    With roles each file serves its own. What is held out is halved. Where nothing is to validate on, it is what the first
    ``train_fraction`` leaves of the training files' rows.

    Raises:
        ValueError: a fraction outside (0, 1), or a part left without rows.
    """
    if len(rows_per_file) == 1:
        return split_rows(rows_per_file[0], train_fraction)
    roles = _by_time(roles or [None] * len(rows_per_file))
    rows = {role: sum(n for n, r in zip(rows_per_file, roles, strict=True) if r == role) for role in roles}
    num_rows, num_train = sum(rows_per_file), rows[TRAIN]
    if HELD_OUT in rows:
        if rows[HELD_OUT] < 2:
            raise ValueError("the last data file has too few rows to halve")
        middle = num_train + rows[HELD_OUT] // 2
    else:
        middle = num_rows - rows[TEST]
        if num_train == middle:
            num_train = _num_train(num_train, train_fraction)
    splits = Splits(range(num_train), range(num_train, middle), range(middle, num_rows))
    return _with_rows(splits, middle, train_fraction)


def uses_fraction(roles: Sequence[str | None]) -> bool:
    """Whether ``train_fraction`` says anything of files with these roles."""
    return len(roles) == 1 or set(roles) == {TRAIN, TEST}


def files_of_training(roles: Sequence[str | None]) -> list[bool]:
    """Of each file, whether there are rows to train on in it."""
    return [len(roles) == 1 or role == TRAIN for role in _by_time(roles)]


def describe(splits: Splits, names: Sequence[str], rows_per_file: Sequence[int]) -> list[str]:
    """A line for each part: which rows, counted from 1, of which files."""
    stops = list(accumulate(rows_per_file))
    lines = []
    for part, rows in (("training", splits.train), ("validation", splits.val), ("test", splits.test)):
        shown = []
        for name, stop, num_rows in zip(names, stops, rows_per_file, strict=True):
            start = stop - num_rows
            first, last = max(rows.start, start) - start, min(rows.stop, stop) - start
            if first < last:
                of = "all" if last - first == num_rows else f"of {num_rows:,}"
                shown.append(f"{name} rows {first + 1:,} to {last:,} ({of})")
        if len(shown) > _LISTED:
            shown = [*shown[: _LISTED - 1], f"{len(shown) - _LISTED} files", shown[-1]]
        lines.append(f"{part}: {len(rows):,} rows: {', '.join(shown)}")
    return lines


def _by_time(roles: Sequence[str | None]) -> list[str | None]:
    """Where no file has a role, the last is held out."""
    held_out: list[str | None] = [*[TRAIN] * (len(roles) - 1), HELD_OUT]
    return list(roles) if set(roles) != {None} else held_out


def _num_train(num_rows: int, train_fraction: float) -> int:
    if not 0 < train_fraction < 1:
        raise ValueError(f"train_fraction must be between 0 and 1, got {train_fraction}")
    # Rounded, so that 0.8 of 80,000 is 64,000 whatever the binary fraction.
    return round(num_rows * train_fraction)


def _with_rows(splits: Splits, num_rows: int, train_fraction: float) -> Splits:
    if min(len(splits.train), len(splits.val), len(splits.test)) < 1:
        raise ValueError(f"{num_rows} rows are too few to divide at train_fraction {train_fraction}")
    return splits
