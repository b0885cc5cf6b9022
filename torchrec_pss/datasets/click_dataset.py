"""`ClickDataset`: click logs for a `DataLoader`, as TorchRec's `Batch` with a `KeyedJaggedTensor`."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch.distributed as dist
from torch.utils.data import IterableDataset, get_worker_info
from torchrec.datasets.utils import Batch

from torchrec_pss.datasets.open_rows import find_rows_files, reader_of, schema_of
from torchrec_pss.datasets.rows import num_steps, rank_windows
from torchrec_pss.datasets.schema import Schema
from torchrec_pss.datasets.splits import Splits, split_files

PARTS = tuple(Splits.__dataclass_fields__)
_BATCHES = "batches"


class ClickDataset(IterableDataset[Batch]):
    """Batches of one rank, in the order of the file's rows. Give it to a loader that does not batch again:

        DataLoader(ClickDataset("/data/criteo", batch_size=4096), batch_size=None, num_workers=2)

    Step k covers ``world_size * batch_size`` consecutive rows, and rank r has the r-th ``batch_size`` of them. All ranks make as many steps;
    one without rows left gets a row with `rows.PADDING_LABEL`. Workers divide the steps, and the loader puts them in order again. With
    torchdata's `StatefulDataLoader` a pass goes on where its ``state_dict`` was taken, with as many workers.

    Args:
        path: a file or a folder, or its URL, see docs/guides/criteo_data.md.
        batch_size: rows of a batch.
        part: "train", "val" or "test".
        train_fraction: of the rows to train on, where the files do not say it.
        rank: of the process group if None, or 0 where there is none.
        world_size: likewise, or 1.
        cache_dir: where numbers of rows are kept for the next time.
        schema: of what is neither Criteo's text nor prepared; a file, its URL, or a `Schema`.
        max_bad_rows: malformed lines that a pass of a worker leaves out before it gives up.

    Raises:
        ValueError: a part, batch size or rank that there is not; else see `open_files` and `split_files`.
        FileNotFoundError: see `open_files`.

    Examples:
        >>> from pathlib import Path
        >>> from torch.utils.data import DataLoader
        >>> from torchrec_pss.datasets import ClickDataset, Schema
        >>> rows = "".join(f"{n % 2},user{n % 3},item{n}\\n" for n in range(8))
        >>> _ = Path("clicks.csv").write_text("click,user,item\\n" + rows)
        >>> schema = Schema(label="click", sparse=("user", "item"))
        >>> data = ClickDataset("clicks.csv", batch_size=2, schema=schema, train_fraction=0.5)
        >>> batch = next(iter(DataLoader(data, batch_size=None)))
        >>> batch.labels, batch.sparse_features.keys()
        (tensor([0., 1.]), ['user', 'item'])
    """

    def __init__(
        self,
        path: str | Path,
        batch_size: int,
        part: str = "train",
        *,
        train_fraction: float = 6 / 7,
        rank: int | None = None,
        world_size: int | None = None,
        cache_dir: str | Path | None = None,
        schema: str | Path | Schema | None = None,
        max_bad_rows: int = 100,
    ) -> None:
        super().__init__()
        joined = dist.is_available() and dist.is_initialized()
        self.rank = (dist.get_rank() if joined else 0) if rank is None else rank
        self.world_size = (dist.get_world_size() if joined else 1) if world_size is None else world_size
        if part not in PARTS:
            raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank must be from 0 to {self.world_size - 1}, got {self.rank}")
        self.batch_size, self._max_bad_rows = batch_size, max_bad_rows
        self.schema = schema_of(path, schema)
        self._files = find_rows_files(path, self.schema, cache_dir)
        splits = split_files([f.num_rows for f in self._files], train_fraction, [f.role for f in self._files])
        self.rows: range = getattr(splits, part)
        self._made = self._first = 0  # batches of this worker's pass, and those that a loaded state had

    def __len__(self) -> int:
        """Batches of a pass."""
        return num_steps(self.rows, self.batch_size, self.world_size)

    def __iter__(self) -> Iterator[Batch]:
        """
        Raises:
            BadRowsError, DataError: see `CriteoReader.read` and `ParquetReader.read`.
        """
        worker = get_worker_info()
        first, apart = (0, 1) if worker is None else (worker.id, worker.num_workers)
        windows = rank_windows(self.rows, self.batch_size, self.rank, self.world_size)
        self._made, self._first = self._first, 0
        own = islice(windows, first + self._made * apart, None, apart)
        for block in reader_of(self._files, self.schema, self._max_bad_rows).read(own):
            self._made += 1
            yield block.batch(self.schema.features)
        self._made = 0

    def state_dict(self) -> dict[str, int]:
        """Batches of this worker's pass so far, for `load_state_dict`."""
        return {_BATCHES: self._made}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next pass begins there."""
        self._made = self._first = state[_BATCHES]
