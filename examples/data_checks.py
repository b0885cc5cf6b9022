"""Looks at rows before anything is trained on them: whether there will be an AUROC, and what is odd."""

import argparse
import copy
import logging
from contextlib import suppress

import numpy as np
import process_group
from click_data import ClickData
from click_metrics import OneClassError

from torchrec_pss.datasets.column_checks import odd_columns
from torchrec_pss.datasets.errors import DataError
from torchrec_pss.datasets.rows import join_blocks
from torchrec_pss.datasets.synthetic import ClickLogGenerator

logger: logging.Logger = logging.getLogger(__name__)

_PASS_ROWS = 1 << 14
_CHECKED_ROWS = 1 << 10
_LOOKED_AT = 1 << 16  # first training rows, whose columns are looked at


def check_classes(data: ClickData, args: argparse.Namespace) -> None:
    """That there will be an AUROC, before anything is trained: reads each part of the rows until it has seen both classes.
    Collective.

    Raises:
        OneClassError: a part has no rows, or rows of one class only; names it.
    """
    splits, size = data.splits, args.test_batch_size
    parts = {
        "training": splits.train,
        "validation": data.limited(splits.val, size, args.limit_val_batches),
        "test": data.limited(splits.test, size, args.limit_test_batches),
    }

    def check() -> None:
        for name, rows in parts.items():
            windows = (rows[i : i + _CHECKED_ROWS] for i in range(0, len(rows), _CHECKED_ROWS))
            labels: set[float] = set()
            for block in copy.copy(data.source).read(windows):  # a copy: it counts malformed lines
                labels |= set(block.labels.tolist())
                if len(labels) == 2:
                    break
            else:
                found = f"labelled {labels.pop():g}" if labels else "malformed"
                raise OneClassError(f"AUROC needs both classes: all {len(rows)} {name} rows are {found}")

    process_group.first_rank_first(check)
    data.share_logged()


def warn_of_columns(data: ClickData) -> None:
    """Logs, once, which columns of files say nothing or say the label (`odd_columns`), by the first training rows. Collective."""
    if not isinstance(data.source, ClickLogGenerator):
        process_group.first_rank_first(lambda: _look_at_columns(data))
        data.share_logged()


def _look_at_columns(data: ClickData) -> None:
    rows, blocks = data.splits.train[:_LOOKED_AT], []
    windows = [rows[i : i + _PASS_ROWS] for i in range(0, len(rows), _PASS_ROWS)]
    with suppress(DataError):  # whoever trains on those rows says what is wrong with them
        for block in copy.copy(data.source).read(windows):  # a copy: it counts malformed lines
            blocks.append(block)
    if not blocks:
        return
    block = join_blocks(blocks)
    dense = dict(zip(data.schema.dense, block.dense.T, strict=True))
    sparse = dict(zip(data.schema.sparse, block.ids_by_feature(), strict=False))  # bags are behind them
    for odd in odd_columns(block.labels, dense, sparse):
        logger.warning("column %r, first %s training rows: %s", odd.name, f"{len(block):,}", odd)
    if block.times is not None:
        _look_at_times(data, block.times)


def _look_at_times(data: ClickData, training: np.ndarray) -> None:
    """Of the first training rows, and of the first ones of the other parts: whether they ascend."""
    name, back = data.schema.time, np.flatnonzero(np.diff(training) < 0)
    if len(back):
        logger.warning(
            "time %r: training row %s is later than the one behind it: rows are divided by their order, not by time (split: {val_from, test_from} does that)",
            name, f"{back[0] + 1:,}",
        )  # fmt: skip
        return
    parts = {"validation": data.splits.val[:_CHECKED_ROWS], "test": data.splits.test[:_CHECKED_ROWS]}
    with suppress(DataError):
        blocks = copy.copy(data.source).read(iter(parts.values()))
        for part, block in zip(parts, blocks, strict=False):
            if len(block) and block.times.min() < training[-1]:
                logger.warning(
                    "time %r: the first %s rows begin at %s, before training row %s, %s: later rows are trained on",
                    name, part, f"{block.times.min():g}", f"{len(training):,}", f"{training[-1]:g}",
                )  # fmt: skip
