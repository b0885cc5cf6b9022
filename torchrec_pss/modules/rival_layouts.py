"""What others do to make tables smaller, as layouts of the same array, for comparisons at equal bytes.

Both are tables with elements of their own for every row, read at a small width and projected: narrow tables keep all
rows, row hashing caps the number of rows and takes ids modulo the cap.
"""

from collections.abc import Sequence
from typing import Any

from torchrec_pss.modules.allocation import aligned, largest_fitting
from torchrec_pss.modules.pss_config import PSSConfig
from torchrec_pss.modules.table_config import TableConfig
from torchrec_pss.ops.quantize import projection_bytes, stored_bytes
from torchrec_pss.ranges import checked

_ITEMSIZE = 4  # of full tables, and of elements of 32 bits
_ROW_HASHING_WIDTH = 4  # at most, before interactions and an MLP (docs/research/2026-11-28-width-of-row-hashing.md)
_PROJECTION_SHARE = 1 / 6  # of row hashing's bytes, at most
_PROJECTION_SHARE_OF_WIDTH_1 = 1 / 2


def narrow_width(tables: Sequence[TableConfig], array_bytes: int | str, bits: int = 32) -> int:
    """The widest width at which all rows of all tables fit ``array_bytes`` (projections included; a table is read at its
    embedding_dim where that is less).

    Raises:
        ValueError: width 1 does not fit; names the smallest budget and its compression.
    """
    budget: int = checked("array_bytes", array_bytes)
    rows = [t.num_embeddings for t in tables]
    widest = max(t.embedding_dim for t in tables)
    for width in range(widest, 0, -1):
        if _bytes(tables, rows, width, bits) <= budget:
            return width
    smallest = _bytes(tables, rows, 1, bits)
    raise ValueError(
        f"array_bytes = {budget} is too small for narrow tables: width 1 needs {smallest} bytes, "
        f"{_as_compression(tables, smallest)}"
    )


def row_hashing_width(
    tables: Sequence[TableConfig], array_bytes: int | str, widest: int = _ROW_HASHING_WIDTH, bits: int = 32
) -> int:
    """The width, at most ``widest``, at which row hashing is best: as many coordinates as `_PROJECTION_SHARE` of ``array_bytes``
    can project; one where that is `_PROJECTION_SHARE_OF_WIDTH_1`; below that the embedding_dim, without projections.
    docs/research/2026-11-28-width-of-row-hashing.md has what it rests on."""
    budget: int = checked("array_bytes", array_bytes)
    dim = max(t.embedding_dim for t in tables)
    a_coordinate = projection_bytes(sum(t.embedding_dim for t in tables), bits)
    if a_coordinate > _PROJECTION_SHARE_OF_WIDTH_1 * budget:
        return dim
    return min(max(int(_PROJECTION_SHARE * budget / a_coordinate), 1), widest, dim)


def capped_rows(tables: Sequence[TableConfig], array_bytes: int | str, width: int, bits: int = 32) -> list[int]:
    """Rows of each table under one cap, the largest at which they fit ``array_bytes`` at ``width``, projections included.

    Raises:
        ValueError: not even one row a table fits; names the smallest budget and its compression.
    """
    budget: int = checked("array_bytes", array_bytes)

    def capped(cap: int) -> list[int]:
        return [min(t.num_embeddings, cap) for t in tables]

    most = max(t.num_embeddings for t in tables)
    cap = largest_fitting(0, most, lambda c: _bytes(tables, capped(c), width, bits) <= budget)
    if cap == 0:
        smallest = _bytes(tables, capped(1), width, bits)
        raise ValueError(
            f"array_bytes = {budget} is too small for row hashing at width {width}: "
            f"one row a table needs {smallest} bytes, {_as_compression(tables, smallest)}"
        )
    return capped(cap)


def exact_tables(
    tables: Sequence[TableConfig],
    array_bytes: int | str,
    width: int,
    init_range: float | None = None,
    head: str = "mlp",
    bits: int = 32,
) -> PSSConfig:
    """All tables exact at ``width`` (or their embedding_dim, if that is less). ``head``: `PSSConfig.head`."""
    widths = {t.name: min(width, t.embedding_dim) for t in tables}
    given: dict[str, Any] = {} if init_range is None else {"init_range": init_range}
    return PSSConfig(
        array_bytes=array_bytes, layout="plain", exact=list(widths), width=widths, head=head, bits=bits, **given
    )


def _bytes(tables: Sequence[TableConfig], rows: Sequence[int], width: int, bits: int) -> int:
    widths = [min(width, t.embedding_dim) for t in tables]
    own = sum(aligned(n * w) for n, w in zip(rows, widths, strict=True))
    projected = sum(w * t.embedding_dim for t, w in zip(tables, widths, strict=True) if w < t.embedding_dim)
    return stored_bytes(own, bits) + projection_bytes(projected, bits)


def _as_compression(tables: Sequence[TableConfig], array_bytes: int) -> str:
    full = sum(t.num_embeddings * t.embedding_dim for t in tables) * _ITEMSIZE
    return f"a compression of {full / array_bytes:.4g}"
