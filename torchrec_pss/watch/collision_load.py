"""`collision_load`: how crowded each table's part of an array is."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torchrec_pss.modules.array_layout import ArrayLayout, TableLayout
from torchrec_pss.modules.id_counts import IdCounts, checked_counts
from torchrec_pss.modules.unresolved import unresolved_of_table


@dataclass(frozen=True)
class TableLoad:
    """Of one table.

    Attributes:
        kind: "exact", "prefix", "hot" or "shared", as ``print(layout)`` has it.
        rows: as configured.
        width: coordinates read of a row.
        own_bytes: of elements that belong to its rows alone (exact rows, prefixes, hot rows).
        region_bytes: of the region that its hashed coordinates fall into; tables that share one each state it whole.
        rows_per_element: hashed coordinates of its rows over the region's elements.
        unresolved: share of what the reads carry that hashing loses, by theorem 1 of docs/how/theory.md, from the ids' counts; evenly
            read where there are none.
    """

    kind: str
    rows: int
    width: int
    own_bytes: int
    region_bytes: int
    rows_per_element: float
    unresolved: float


def collision_load(layout: ArrayLayout, counts: Mapping[str, IdCounts] | None = None) -> dict[str, dict[str, Any]]:
    """A `TableLoad` as a dict, by table, JSON-ready.

    Args:
        layout: of a module of the array, ``module.layout``.
        counts: by table name, how often ids are read; a table without is taken to be read evenly.

    Raises:
        TypeError: counts that are no `IdCounts`.
    """
    known = {} if counts is None else checked_counts(counts)
    return {t.name: asdict(_of_table(layout, t, known.get(t.name))) for t in layout.tables}


def _of_table(layout: ArrayLayout, table: TableLayout, counts: IdCounts | None) -> TableLoad:
    region = 0 if table.is_exact else table.slots * table.block
    hashed = max(table.rows - table.num_hot, 0) * (table.width - table.prefix)  # rows of logs are an estimate
    return TableLoad(
        kind=table.kind,
        rows=table.rows,
        width=table.width,
        own_bytes=layout.stored_bytes(table.own_numel),
        region_bytes=layout.stored_bytes(region),
        rows_per_element=hashed / region if region else 0.0,
        unresolved=unresolved_of_table(layout, table, counts),
    )
