"""`ClickData`: the rows that a click model is trained on, as batches of each rank."""

import copy
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import process_group
import torch
import torch.distributed as dist
from torchrec.datasets.utils import Batch

from torchrec_pss.datasets.bad_rows import BadRows
from torchrec_pss.datasets.criteo_files import CriteoReader
from torchrec_pss.datasets.errors import DataError
from torchrec_pss.datasets.file_signature import check_same_files
from torchrec_pss.datasets.numbering import Numbering
from torchrec_pss.datasets.open_rows import FileReader, texts_of
from torchrec_pss.datasets.read_ahead import ReadAhead
from torchrec_pss.datasets.rows import (
    RowBlock,
    RowsOf,
    RowSource,
    num_steps,
    rank_windows,
)
from torchrec_pss.datasets.schema import CRITEO_SCHEMA, Schema
from torchrec_pss.datasets.splits import Splits
from torchrec_pss.modules.id_counts import IdCounts

logger: logging.Logger = logging.getLogger(__name__)


@dataclass
class ClickData:
    """Rows in three parts, and the tables they need.

    Attributes:
        source: of the rows.
        splits: their positions.
        signature: what the rows are, as JSON, for checkpoints: a run does not go on with others.
        num_embeddings: rows of each full table.
        counted: how `num_embeddings` was had, for the results.
        contiguous: whether ids lie in [0, num_embeddings), so that tables of the array may be exact.
        counts: how often ids occur in the training rows, or a sample of them, per feature; for the array only.
        rows_of: ids to rows of full tables, where they are not so already.
        schema: the columns that are read.
    """

    source: RowSource
    splits: Splits
    signature: dict
    num_embeddings: list[int]
    counted: str
    contiguous: bool
    counts: list[IdCounts] | None = None
    rows_of: RowsOf | None = None
    error: DataError | None = None  # of this rank, until all raise it
    numbering: Numbering | None = None  # of the ids, where the array's tables have their rows
    waited: float = 0.0  # seconds that `batches` were waited for
    schema: Schema = CRITEO_SCHEMA

    @property
    def names(self) -> list[str]:
        """Of the features, in their order."""
        return list(self.schema.features)

    @property
    def texts(self) -> list[str]:
        """The features whose ids are those of tokens; the others' are whole numbers."""
        return list(texts_of(self.source.files, self.schema)) if isinstance(self.source, FileReader) else []

    @property
    def separators(self) -> dict[str, str]:
        """Of bags that are text, what divides their tokens."""
        return {bag.name: bag.separator for bag in self.schema.bags} if isinstance(self.source, CriteoReader) else {}

    @property
    def num_dense(self) -> int:
        """Of a batch: one that is 0 where there is none."""
        return max(len(self.schema.dense), 1)

    def batches(
        self,
        rows: range,
        batch_size: int,
        first_step: int = 0,
        limit: int | None = None,
        shuffle_seed: int | None = None,
        pin_memory: bool = False,
        groups: deque[np.ndarray] | None = None,
    ) -> Iterator[Batch]:
        """This rank's batches of ``rows``, as many as every other rank's, made while others are in use (`ReadAhead`). To ``groups`` the
        ids of the schema's group are appended, int64 ``[n]`` of each batch, as they are read: rows of a numbering are shared by several.
        """
        made = self._batches(rows, batch_size, first_step, limit, shuffle_seed, groups)
        ahead = ReadAhead(_pinned(made) if pin_memory else made)
        try:
            for batch in ahead:
                self.waited += ahead.waited
                ahead.waited = 0.0
                yield batch
        finally:
            ahead.close()

    def _batches(
        self,
        rows: range,
        batch_size: int,
        first_step: int,
        limit: int | None,
        shuffle_seed: int | None,
        groups: deque[np.ndarray] | None,
    ) -> Iterator[Batch]:
        for step, block in enumerate(self.blocks(rows, batch_size, first_step, limit), start=first_step):
            if shuffle_seed is not None:
                order = np.random.default_rng([shuffle_seed, step, dist.get_rank()]).permutation(len(block))
                block = block.take(order)
            if groups is not None:
                groups.append(self._groups(block))
            if self.rows_of is not None:
                block = block.mapped(self.rows_of)
            yield block.batch(self.names)

    def blocks(self, rows: range, batch_size: int, first_step: int = 0, limit: int | None = None) -> Iterator[RowBlock]:
        """This rank's rows of each step, with the ids that they have in the source; none where they do not go round."""
        limited = self.limited(rows, batch_size, limit)
        yield from self._read(rank_windows(limited, batch_size, dist.get_rank(), dist.get_world_size(), first_step))

    def _groups(self, block: RowBlock) -> np.ndarray:
        """Of the batch's rows; an empty block's is one row of padding."""
        found = block.ids_by_feature()[self.names.index(self.schema.group)]
        return found if len(block) else np.zeros(1, np.int64)

    def _read(self, windows: Iterator[range]) -> Iterator[RowBlock]:
        """Blocks of the source. Of several ranks one that cannot read on hands out empty blocks, so that the others do not wait for it,
        until `raise_error`."""
        try:
            yield from self.source.read(windows)
        except DataError as error:
            if dist.get_world_size() == 1:
                raise
            self.error = error
            nothing = self.schema.nothing
            yield nothing  # for the window that was not read
            yield from (nothing for _ in windows)

    def raise_error(self) -> None:
        """Raises on every rank the error that one of them has met. Collective."""
        if dist.get_world_size() == 1:
            return
        errors: list[DataError | None] = [None] * dist.get_world_size()
        dist.all_gather_object(errors, self.error)
        for error in errors:
            if error is not None:
                raise error

    def check_same(self, then: object) -> None:
        """Refuses to go on from a checkpoint that was trained on other rows; ``then`` is its `signature`.

        Raises:
            ValueError: naming the file or the part, and what differs.
        """
        if then is None:
            if dist.get_rank() == 0:
                logger.warning("--resume: an earlier version's checkpoint: nobody can tell whether its data are these")
            return
        if not isinstance(then, dict) or then.get("kind") != self.signature["kind"]:
            found = then.get("kind") if isinstance(then, dict) else then
            raise ValueError(f"--resume: the checkpoint's rows were {found!r} and are {self.signature['kind']!r} now")
        if "files" in self.signature:
            check_same_files(then.get("files"), self.source.signatures)
        for name, now in self.signature.items():
            if name != "files" and then.get(name) != now:
                was = str(then.get(name))[:200]
                raise ValueError(
                    f"--resume: {name} of the data was {was} in the checkpoint and is now {str(now)[:200]}"
                )

    def limited(self, rows: range, batch_size: int, limit: int | None) -> range:
        """Those of ``rows`` that ``limit`` batches a process hold."""
        return rows[: (limit or len(rows)) * batch_size * dist.get_world_size()]

    def share_logged(self) -> None:
        """No rank logs a malformed line again that rank 0 has logged. Collective."""
        if isinstance(self.source, BadRows):
            self.source.logged |= process_group.first_rank_first(lambda: self.source.logged)

    def fold_ids(self, num_rows: list[int]) -> None:
        """From now on ids are taken modulo ``num_rows`` of their table."""
        before, fold = self.rows_of, modulo(num_rows)
        self.rows_of = fold if before is None else lambda ids: fold(before(ids))

    def number(self, numbering: Numbering) -> None:
        """From now on ids are rows of that."""
        self.numbering, self.rows_of = numbering, numbering.rows_of

    def share_rows(self, num_rows: list[int]) -> None:
        """From now on the ids that are read least share rows, where a table has fewer rows than ids."""
        self.number(replace(self.numbering, num_rows=num_rows))

    def unresolved(self) -> dict[str, float]:
        """By feature, where ids share rows of a numbering, what that leaves unresolved."""
        given = zip(self.names, self.counts, self.numbering.ids, self.numbering.num_rows, strict=True)
        return {
            name: self.numbering.unresolved(feature, counts.counts)
            for feature, (name, counts, ids, rows) in enumerate(given)
            if rows <= len(ids)
        }

    def copied(self) -> "ClickData":
        """Another one, which counts malformed lines anew and whose ids may share rows otherwise."""
        return replace(self, source=copy.copy(self.source))

    def steps(self, rows: range, batch_size: int, limit: int | None) -> int:
        steps = num_steps(rows, batch_size, dist.get_world_size())
        return min(steps, limit) if limit else steps


def _pinned(batches: Iterator[Batch]) -> Iterator[Batch]:
    """In pinned host memory, which a GPU copies from while the host goes on; called here, iterated in a thread."""
    device = torch.cuda.current_device()

    def pinned() -> Iterator[Batch]:
        torch.cuda.set_device(device)  # a thread begins with the first one, and would take memory of it
        for batch in batches:
            yield batch.pin_memory()

    return pinned()


def modulo(num_rows: Sequence[int]) -> RowsOf:
    """Of each feature's ids the rest by its table's rows."""
    return lambda ids: [of % rows for of, rows in zip(ids, num_rows, strict=True)]
