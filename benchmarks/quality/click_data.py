"""Click logs in memory, as every contestant of a study reads them: contiguous ids of a vocabulary of the training rows."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torchmetrics.functional.classification import binary_auroc

from torchrec_pss.datasets.criteo_files import CriteoReader, open_files
from torchrec_pss.datasets.rows import KAGGLE_NUM_EMBEDDINGS, RowBlock
from torchrec_pss.datasets.synthetic import ClickLogConfig, ClickLogGenerator
from torchrec_pss.datasets.vocabulary import Vocabulary
from torchrec_pss.modules.id_counts import IdCounts

CRITEO_ROWS = Path(__file__).parents[3] / "shared" / "data" / "criteo_80k.tsv.gz"


@dataclass
class ClickLog:
    """Rows of a log, the first to train on, then to choose by, then to judge by.

    Attributes:
        name: of the data set.
        dense: fp32 ``[n, 13]``.
        ids: int64 ``[26, n]``, row 0 of a table for ids that training did not show.
        labels: fp32 ``[n]``.
        num_train, num_val: rows of the first two parts.
        num_embeddings: rows of the full tables.
        bayes: AUROC of the true probability over the test rows, where it is known.
    """

    name: str
    dense: torch.Tensor
    ids: torch.Tensor
    labels: torch.Tensor
    num_train: int
    num_val: int
    num_embeddings: list[int]
    bayes: float | None = None

    @cached_property
    def counts(self) -> list[IdCounts]:
        """Of the training rows, per feature."""
        return [IdCounts.of(feature) for feature in self.ids[:, : self.num_train].numpy()]


def criteo(path: Path = CRITEO_ROWS, limit: int | None = None, shuffle: int | None = None) -> ClickLog:
    """A Criteo file, in its order, or shuffled by a seed: eight tenths to train on, a tenth each to choose and to judge by.

    Raises:
        FileNotFoundError: no such file.
    """
    files = open_files(path)
    rows = min(sum(f.num_rows for f in files), limit or 1 << 62)
    (block,) = CriteoReader(files).read(iter([range(rows)]))
    if shuffle is not None:
        order = np.random.default_rng(shuffle).permutation(rows)
        block = block.take(order)
    return _log(path.name, block, round(0.8 * len(block)), round(0.1 * len(block)))


def generated(num_train: int, scale: float, skew: float, seed: int = 0) -> ClickLog:
    """Rows of `ClickLogGenerator` with Kaggle's cardinalities times ``scale``; a fifth as many, at most 200,000, each to
    choose and to judge by."""
    rows = tuple(max(2, round(n * scale)) for n in KAGGLE_NUM_EMBEDDINGS)
    generator = ClickLogGenerator(ClickLogConfig(seed=seed, num_embeddings=rows, skew=skew))
    num_val = min(num_train // 5, 200_000)
    dense, ids, labels, logits = generator.rows(range(num_train + 2 * num_val))
    log = _log(f"generated, skew {skew}", RowBlock(dense, ids, labels), num_train, num_val)
    test = slice(num_train + num_val, None)
    true = torch.from_numpy(logits[test, 0])
    log.bayes = float(binary_auroc(torch.sigmoid(true.double()), log.labels[test].long()))
    return log


def _log(name: str, block: RowBlock, num_train: int, num_val: int) -> ClickLog:
    vocabulary = Vocabulary.build([block.take(np.arange(num_train))])
    return ClickLog(
        name,
        torch.from_numpy(block.dense),
        torch.from_numpy(np.stack(vocabulary.rows_of(block.ids))),
        torch.from_numpy(block.labels),
        num_train,
        num_val,
        [n + 1 for n in vocabulary.num_distinct],
    )
