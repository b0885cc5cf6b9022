"""`auroc` from ranks, in O(n log n); ties count half."""

import numpy as np


def midranks(values: np.ndarray) -> np.ndarray:
    """float64 ``[n]``: the rank of each of ``values`` ``[n]``, from 1. Equal ones share the mean of their ranks."""
    order = np.argsort(values, kind="stable")
    ranks = np.empty(len(values))
    ranks[order] = _of_sorted(values[order])
    return ranks


def _of_sorted(values: np.ndarray) -> np.ndarray:
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]])) if len(values) else np.zeros(0, int)
    return shared_ranks(starts, len(values))


def shared_ranks(starts: np.ndarray, number: int) -> np.ndarray:
    """float64 ``[number]``: ranks of rows in order, from 1; those from one of ``starts`` to the next share their mean."""
    lengths = np.diff(np.append(starts, number))
    return np.repeat(starts + (lengths + 1) / 2, lengths)


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """The share of pairs of a positive and a negative row whose positive one has the higher score (Mann and Whitney's U).

    Args:
        scores: ``[n]``, finite.
        labels: ``[n]``, 0 or 1.

    Raises:
        ValueError: rows of one class only.
    """
    positive = labels == 1
    positives = int(positive.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        raise ValueError(f"AUROC needs both classes: {positives} of {len(labels)} rows are positive")
    above = midranks(scores)[positive].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))
