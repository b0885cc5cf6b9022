"""Rows of Arrow tables, whatever they come from: Parquet, a `datasets.Dataset`, a query's answer."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torchrec.datasets.utils import Batch

from torchrec_pss.datasets.arrow_columns import bags_of_lists, bags_of_text, ids_of, lengths_of, numbers_of
from torchrec_pss.datasets.arrow_kinds import is_text, kinds_of
from torchrec_pss.datasets.bags import Bags
from torchrec_pss.datasets.errors import DataError
from torchrec_pss.datasets.rows import RowBlock
from torchrec_pss.datasets.schema import BagColumn, Schema


def arrow_batch(table: Any, schema: Schema) -> Batch:
    """TorchRec's `Batch` of a `pyarrow.Table` or `RecordBatch`, one row or more, as training on Parquet reads it: whole numbers are ids, text is
    hashed.

    Args:
        table: `pyarrow.Table` or `RecordBatch`, one row or more.
        schema: what its columns are.

    Raises:
        DataError: a column is missing or of another type, or a row has no label of 0 or 1, a number that is not finite, or weights that do not fit
            its ids; names column, row (from 0) and value.
    """
    from pyarrow import Table

    if isinstance(table, Table):
        table = table.combine_chunks()
    try:
        kinds_of(table.schema, schema)
    except ValueError as error:
        raise DataError(str(error)) from error
    block, bad = ArrowRows(schema).block(table)
    if bad:
        raise DataError(f"row {bad[0].row}: {bad[0].reason}")
    return block.batch(schema.features)


@dataclass
class BadRow:
    """A row that was left out: its place among those given, and why."""

    row: int
    reason: str


class ArrowRows:
    """Of tables whose columns `kinds_of` has looked at."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.columns = schema.columns(schema.used)

    def block(self, rows: Any) -> tuple[RowBlock, list[BadRow]]:
        """Of a record batch, or of a table of one chunk."""
        labels = numbers_of(_column(rows, self.schema.label), np.nan)
        names = [*self.schema.dense, *([] if self.schema.time is None else [self.schema.time])]
        raw = np.empty((len(labels), len(names)))
        for place, name in enumerate(names):
            raw[:, place] = numbers_of(_column(rows, name), np.nan if name == self.schema.time else 0)
        ids = np.array([ids_of(_column(rows, name)) for name in self.schema.sparse], np.int64)
        reasons: dict[int, str] = {}
        bags = [self._bags(rows, bag, reasons) for bag in self.schema.bags]
        block = self.columns.block(
            raw, ids.reshape(len(self.schema.sparse), len(labels)), bags, labels.astype(np.float32)
        )
        finite = np.isfinite(block.dense)
        good = finite.all(axis=1) & ((labels == 0) | (labels == 1))
        if block.times is not None:
            for row in np.flatnonzero(~np.isfinite(block.times)).tolist():
                reasons.setdefault(row, f"{self.schema.time} is missing, or no finite number")
        good[list(reasons)] = False
        if good.all():
            return block, []
        bad = np.flatnonzero(~good).tolist()
        return block.take(good), [
            BadRow(row, self._reason(labels[row], raw[row], finite[row]) or reasons[row]) for row in bad
        ]

    def _reason(self, label: float, raw: np.ndarray, finite: np.ndarray) -> str | None:
        """Why a row is none for its label or dense values."""
        if label not in (0, 1):
            return f"{self.schema.label} is {'missing' if np.isnan(label) else label}, not 0 or 1"
        if finite.all():
            return None
        place = int(np.argmin(finite))
        return f"{self.schema.dense[place]} is {raw[place]}, not a finite number"

    def _bags(self, rows: Any, bag: BagColumn, reasons: dict[int, str]) -> Bags:
        """Of a record batch; fills in why rows are none, of which no ids are kept."""
        from pyarrow.types import is_dictionary

        column = _column(rows, bag.name)
        if is_dictionary(column.type):
            column = column.dictionary_decode()
        found = bags_of_text(column, bag.separator) if is_text(column.type) else bags_of_lists(column)
        if bag.weights is None:
            return found
        weights = _column(rows, bag.weights)
        weighed = Bags(numbers_of(weights.flatten(), np.nan).astype(np.float32), lengths_of(weights))
        assert found.lengths is not None and weighed.lengths is not None  # lists have
        for row in np.flatnonzero(found.lengths != weighed.lengths).tolist():
            reasons.setdefault(
                row, f"{bag.name} has {found.lengths[row]} ids, and {bag.weights} {weighed.lengths[row]} weights"
            )
        same = found.lengths == weighed.lengths
        found, weighed = found.take(same), weighed.take(same)
        assert found.lengths is not None
        of_row = np.repeat(np.flatnonzero(same), found.lengths)
        for at in np.flatnonzero(~np.isfinite(weighed.ids)).tolist():
            shown = "nothing" if np.isnan(weighed.ids[at]) else weighed.ids[at]
            reasons.setdefault(int(of_row[at]), f"{bag.weights} has {shown}, not a finite number")
        lengths = np.zeros(len(same), np.int32)
        lengths[same] = found.lengths
        return Bags(found.ids, lengths, weighed.ids)


def _column(rows: Any, name: str) -> Any:
    from pyarrow import ChunkedArray

    found = rows.column(name)
    return found.combine_chunks() if isinstance(found, ChunkedArray) else found
