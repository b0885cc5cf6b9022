"""Rows that are made ahead, in threads, are those that are made where they are asked for; losses that are looked at later are the same."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from torchrec_pss.datasets import synthetic
from torchrec_pss.datasets.made_ahead import MadeAhead
from torchrec_pss.datasets.rows import rank_windows
from torchrec_pss.datasets.synthetic import ClickLogConfig, ClickLogGenerator

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

from loss_window import LossWindow

WANTED = [range(0, 1), range(0, 2), range(1, 2), range(4, 7), range(6, 8), range(8, 8), range(8, 9)]


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_each_number_is_made_once(threads):
    asked = []

    def make(number):
        asked.append(number)
        return number * number

    assert list(MadeAhead(make, WANTED, threads)) == [[n * n for n in numbers] for numbers in WANTED]
    assert sorted(asked) == [0, 1, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_is_raised_where_its_item_would_have_come(threads):
    items = iter(MadeAhead(lambda number: 1 // (3 - number), [range(n, n + 1) for n in range(9)], threads))
    assert [next(items) for _ in range(3)] == [[0], [0], [1]]
    with pytest.raises(ZeroDivisionError):
        next(items)


@pytest.mark.parametrize("threads", [0, 3])
def test_blocks_are_the_rows_at_their_positions(threads, monkeypatch):
    monkeypatch.setattr(synthetic, "spare_threads", lambda: threads)
    generator = ClickLogGenerator(ClickLogConfig())
    windows = list(rank_windows(range(100, 9000), 1500, 1, 2))
    for window, block in zip(windows, generator.read(iter(windows)), strict=True):
        dense, ids, labels, _ = generator.rows(window)
        assert np.array_equal(block.dense, dense) and np.array_equal(block.ids, ids)
        assert np.array_equal(block.labels, labels) and len(block) == len(window)


def test_losses_of_a_window():
    losses, total = LossWindow(4, torch.device("cpu")), torch.zeros(())
    for value in (0.1, 0.7, 1e-9):
        loss = torch.tensor(value)
        losses.add(loss)
        total += loss
        loss.fill_(9.0)  # what a graph replays into the same tensor
    assert losses.close() == (float(total) / 3, None)
    for value in (1.0, float("inf"), 1.0, float("nan")):
        losses.add(torch.tensor(value))
    losses.mark_not_finite()
    assert losses.close()[1] == 2
    losses.add(torch.tensor(2.0))
    losses.mark_not_finite()
    assert losses.close() == (2.0, 1)
    losses.add(torch.tensor(3.0))
    assert losses.close() == (3.0, None)
