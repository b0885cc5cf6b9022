"""`CountedIds`: how many distinct ids each feature has, and which are frequent; of one pass, and kept for the next run."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torchrec_pss.datasets.distinct import DistinctCounter
from torchrec_pss.datasets.frequent import FrequentIds
from torchrec_pss.datasets.npz_file import read_keyed, write_keyed
from torchrec_pss.datasets.rows import RowBlock
from torchrec_pss.modules.id_counts import IdCounts

_DISTINCT, _TOTALS = "distinct", "totals"


@dataclass
class CountedIds:
    """
    Attributes:
        distinct: of each feature, estimated (`DistinctCounter`).
        counts: of each feature (`FrequentIds`).
    """

    distinct: list[int]
    counts: list[IdCounts]

    @classmethod
    def of(cls, blocks: Iterable[RowBlock], features: int) -> "CountedIds":
        """In bounded memory."""
        distinct, frequent = DistinctCounter(features), FrequentIds(features)
        for block in blocks:
            ids = block.ids_by_feature()
            distinct.add(ids)
            frequent.add(ids)
        return cls(distinct.estimates(), frequent.counts())

    def save(self, path: Path, key: str) -> None:
        """Writes aside, then renames. ``key`` says of which rows it is."""
        arrays = {f"ids_{i}": counts.ids for i, counts in enumerate(self.counts)}
        arrays |= {f"counts_{i}": counts.counts for i, counts in enumerate(self.counts)}
        arrays |= {_DISTINCT: np.array(self.distinct), _TOTALS: np.array([counts.total for counts in self.counts])}
        write_keyed(path, key, arrays)

    @classmethod
    def load(cls, path: Path, key: str, features: int) -> "CountedIds":
        """
        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged, or of other rows than ``key`` says; names it.
        """
        names = [f"{kind}_{i}" for kind in ("ids", "counts") for i in range(features)]
        arrays = read_keyed(path, key, [_DISTINCT, _TOTALS, *names], "counted ids")
        for name, array in arrays.items():
            if array.ndim != 1 or array.dtype.kind not in "iu":
                raise ValueError(f"counted ids {path}: {name} is no vector of whole numbers")
        distinct, totals = arrays[_DISTINCT].tolist(), arrays[_TOTALS].tolist()
        if len(distinct) != features or len(totals) != features:
            raise ValueError(f"counted ids {path} are of {len(distinct)} features, not {features}")
        try:
            counts = [IdCounts(arrays[f"ids_{i}"], arrays[f"counts_{i}"], total) for i, total in enumerate(totals)]
        except ValueError as error:
            raise ValueError(f"counted ids {path}: {error}") from error
        return cls(distinct, counts)
