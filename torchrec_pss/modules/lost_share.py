"""`lost_share`: how much of what full tables would hold a layout cannot; what the advisor predicts a loss from."""

from collections.abc import Mapping

from torchrec_pss.modules.array_layout import ArrayLayout, TableLayout
from torchrec_pss.modules.id_counts import IdCounts
from torchrec_pss.modules.layout_objective import Reads, kept_by_bits, own_ids, reads_of, resolved


def lost_share(layout: ArrayLayout, counts: Mapping[str, IdCounts], reads_per_count: float = 1.0) -> float:
    """Of what rows mean, what full tables tell of it less what the layout does, by the objective of `torchrec_pss.modules.layout_objective`; mean
    over the tables, by the odds that two reads are of different ids.

    A row that shares meets the reads of its table's that share, in each coordinate, over the elements of their slice: theorem 1's load
    (docs/how/theory.md). Where all tables share one region only a table's own count, for codes tell tables apart. docs/research/2026-11-30-advisor.md has how well
    that predicts.

    Args:
        counts: by table name; a table without is read evenly, once a row.
        reads_per_count: reads in the training that is meant, over those counted.
    """
    reads = [reads_of(counts.get(t.name), t.rows, t.rows).times(reads_per_count) for t in layout.tables]
    weight = sum(of.weight for of in reads)
    kept, lost = kept_by_bits(layout.bits), 0.0
    for table, of in zip(layout.tables, reads, strict=True):
        full = resolved(of, table.embedding_dim, table.embedding_dim, of.ids.sum())
        lost += of.weight * (full - kept * _resolved(table, of))
    return lost / weight if weight else 0.0


def _resolved(table: TableLayout, of: Reads) -> float:
    dim, every = table.embedding_dim, of.ids.sum()
    if table.is_exact:
        return resolved(of, dim, table.width, every)
    sharing = float(of.reads @ (of.ids - own_ids(of, table.num_hot)))
    load = sharing * (table.width - table.prefix) / (table.slots * table.block)
    found = resolved(of, dim, table.width, table.num_hot, load)
    if not table.prefix:
        return found
    # The first coordinates are a row's own, the others shared.
    alone, shared = resolved(of, dim, table.prefix, every), resolved(of, dim, table.prefix, table.num_hot, load)
    return alone + found - shared
