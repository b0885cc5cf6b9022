"""What `bench_lookup` measures: problems, and the ids drawn for them."""

import itertools
from dataclasses import dataclass

import numpy as np
import torch

from torchrec_pss.datasets.rows import KAGGLE_NUM_EMBEDDINGS, MLPERF_NUM_EMBEDDINGS

TABLE_SETS = {"kaggle": KAGGLE_NUM_EMBEDDINGS, "mlperf": MLPERF_NUM_EMBEDDINGS}
_SKEW = 1.1  # exponent of the power law


@dataclass(frozen=True)
class Case:
    """One problem.

    Attributes:
        tables: "kaggle" or "mlperf", 26 tables each.
        layout: of the array: "default" (``layout="auto"`` with counts) or "plain" (full width, one region, signs).
        array_bytes: budget of the array.
        embedding_dim: D.
        batch_size: bags a feature.
        ids_per_bag: ids in each bag.
        ids: "power_law" (exponent 1.1, frequent rows spread over the table) or "uniform".
        threads: of both sides.
        optimizer: of the step.
    """

    tables: str
    layout: str
    array_bytes: int
    embedding_dim: int
    batch_size: int
    ids_per_bag: int
    ids: str
    threads: int
    optimizer: str = "sgd"


MB = 1_000_000
QUICK = [
    Case("kaggle", "default", 2 * MB, 16, 2048, 1, "power_law", 2),
    Case("kaggle", "default", 2 * MB, 16, 16384, 1, "power_law", 2),
    Case("kaggle", "default", 2 * MB, 16, 16384, 1, "power_law", 1),
    Case("kaggle", "default", 2 * MB, 16, 16384, 1, "uniform", 2),
    Case("kaggle", "default", 10 * MB, 64, 4096, 1, "power_law", 2),
    Case("kaggle", "default", 10 * MB, 64, 2048, 10, "power_law", 2),
    Case("kaggle", "default", 100 * MB, 64, 4096, 1, "uniform", 2),
    Case("kaggle", "plain", 2 * MB, 16, 16384, 1, "power_law", 2),
    Case("kaggle", "plain", 10 * MB, 64, 4096, 1, "power_law", 2),
    Case("kaggle", "plain", 10 * MB, 64, 2048, 10, "power_law", 2),
    Case("kaggle", "plain", 100 * MB, 64, 4096, 1, "uniform", 2),
    Case("mlperf", "default", 10 * MB, 128, 2048, 1, "power_law", 2),
    Case("mlperf", "plain", 10 * MB, 128, 2048, 1, "power_law", 2),
]
ALL = [
    *QUICK,
    *(
        Case(tables, layout, size * MB, dim, batch, bag, ids, threads)
        for tables, layout, (size, dim), (batch, bag), ids, threads in itertools.product(
            ("kaggle", "mlperf"),
            ("default", "plain"),
            ((2, 16), (10, 64), (100, 64), (10, 128), (100, 128)),
            ((2048, 1), (65536, 1), (2048, 30)),
            ("power_law", "uniform"),
            (1, 2),
        )
        if batch * bag * dim <= 2048 * 30 * 128
    ),
]


def draw_ids(rows: list[int], number: int, ids: str, seed: int = 0) -> torch.Tensor:
    """int64 ``[tables, number]``."""
    rng = np.random.default_rng(seed)
    parts = []
    for n in rows:
        uniforms = rng.random(number)
        if ids == "power_law":
            a = 1 - _SKEW
            ranks = np.power(1 + uniforms * ((n + 1.0) ** a - 1), 1 / a) - 1
            drawn = (ranks.astype(np.int64) * 2_654_435_761 + 12_345) % n  # frequent rows do not lie side by side
        else:
            drawn = (uniforms * n).astype(np.int64)
        parts.append(np.clip(drawn, 0, n - 1))
    return torch.from_numpy(np.stack(parts))
