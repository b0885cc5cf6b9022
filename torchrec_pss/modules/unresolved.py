"""`unresolved_share`: how much of what the reads carry a layout cannot hold."""

from collections.abc import Mapping

import numpy as np
import torch

from torchrec_pss.modules.array_layout import ArrayLayout, TableLayout
from torchrec_pss.modules.id_counts import IdCounts, reads_of_ids
from torchrec_pss.ops.hashing import hot_keys_of, shortened


def unresolved_share(layout: ArrayLayout, counts: Mapping[str, IdCounts]) -> float:
    """Theorem 1's bound on the relative error of an array (docs/how/theory.md), mean over the tables: 0 where every row has
    elements of its own, near 1 where all reads meet strangers. A table without counts counts as evenly read."""
    return float(np.mean([unresolved_of_table(layout, t, counts.get(t.name)) for t in layout.tables]))


def unresolved_of_table(layout: ArrayLayout, table: TableLayout, known: IdCounts | None) -> float:
    """The same of one table."""
    if table.is_exact:
        return 0.0
    reads, rows = reads_of_ids(known, table.rows, table.rows)
    if known is not None and table.num_hot:
        keys = shortened(hot_keys_of(table.key, torch.from_numpy(known.ids)), table.hot_drop).numpy()
        hot = layout.hot_keys[table.hot_begin : table.hot_end].numpy()
        reads[: len(known.ids)][np.isin(keys, hot)] = 0
    total = (reads * rows).sum()
    cold = total / _total(table, known)
    if cold <= 0:
        return 0.0
    # Reads of one coordinate among those of the shared ones; a prefix is not lost.
    shared_width = table.width - table.prefix
    share = reads / total / shared_width
    numel = table.slots * table.block
    lost = float((reads * rows / total / (1 + numel * share)).sum())
    return cold * lost * shared_width / table.width


def _total(table: TableLayout, known: IdCounts | None) -> float:
    return float(table.rows) if known is None else float(max(known.total, 1))
