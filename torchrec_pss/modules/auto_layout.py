"""``layout="auto"``: widths, exact tables, prefixes, hot rows and slices from tables, budget and counts.

docs/research/2026-11-24-layout-rules.md has the measurements behind each number here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from torchrec_pss.modules.allocation import aligned, cell_bytes, check_tables, largest_fitting
from torchrec_pss.modules.id_counts import IdCounts, examples_of
from torchrec_pss.modules.pss_config import PSSConfig
from torchrec_pss.modules.searched_layout import searched
from torchrec_pss.modules.table_config import TableConfig
from torchrec_pss.ops.quantize import key_bytes, projection_bytes, stored_bytes

_LEAST_WIDTH, _MOST_WIDTH = 6, 16  # coordinates read of a row that shares
_WIDTH_PER_ELEMENT = 32  # coordinates read for each element that the array has a row, within these limits
_FEW_READS = 100_000  # where counts show no table read more often, the two that follow stand in
_FEW_LEAST_WIDTH, _FEW_WIDTH_PER_ELEMENT = 4, 16
# Fewer examples than the first of these (the second where ids are rows) are read at most one coordinate for so many examples wide
# and at most so much of the embedding_dim, which leaves every table a projection; but at least `_LEAST_WIDTH`, or so many times
# the elements that the array has a row (at 2x, which was not measured, nothing is narrower).
_MANY_READS, _MANY_READS_OF_ROWS = 200_000, 60_000
_EXAMPLES_PER_COORDINATE = 5000
_WIDTH_PER_DIM = 3 / 4
_WIDTH_PER_OWN_ELEMENT = 2
_FEW_BYTES_WIDTH = 2  # at most, without a bias, where few examples meet a budget too small for the least width
_FEW_BYTES_PROJECTION_SHARE = 1 / 7  # of the budget, at most, for those projections
_FEW_BYTES_HOT_SHARE = 0.9  # in place of `_HOT_SHARE` there
_DOT_WIDTH = 2  # coordinates read of a row that shares before a dot product
_SHARED_BESIDE_PREFIX = 2  # hashed coordinates beside exact ones
_EXACT_ALONE = 3  # exact coordinates a row from which on none are hashed beside them, before a dot product
_PROJECTION_SHARE = 1 / 6  # of the budget, at most, for projections
_HOT_SHARE = 0.4  # of the array, at most, for hot rows and their keys
_HOT_COUNT = 4  # occurrences from which a row may be hot


def choose(tables: Sequence[TableConfig], config: PSSConfig, itemsize: int) -> PSSConfig:
    """``config`` with all that it leaves open decided, as a plain layout: the one that is `searched`, or by rules.

    1. All tables exact at their embedding_dim, if they fit.
    2. If every row can have elements of its own, as many exact coordinates a row as fit, and two shared ones (none from
       `_LEAST_WIDTH` on, with ``head="dot"`` from `_EXACT_ALONE`). With counts at hand and ``head="mlp"``, only from `_MOST_WIDTH` on.
    3. Else a narrow read (`_read_width`): tables are exact that have fewer rows than the cap under which all tables fit;
       the others have hot rows, the most frequent ids of all tables, and share the rest, each table a slice of its own.
       A budget too small for the projections is read one or two coordinates wide without a bias, nearly all of it by hot rows
       and no table exact unless all are, if the counts are of few examples (`_few_bytes_width`); else at the embedding_dim, by
       all tables together and with signs.

    Ids that are not ``[0, num_embeddings)`` (``exact`` given as a list) know only hot and shared rows. A choice that the
    config states is kept.

    Raises:
        ValueError: see `torchrec_pss.modules.allocation.check_tables`; ids of ``counts`` or ``hot`` that a table cannot have.
    """
    if config.layout == "plain" or config.hash == "robe":
        return config
    check_tables(tables, config)
    cell = cell_bytes(config.element_bits, itemsize)
    plain = replace(config, layout="plain", counts=None)
    stated = [getattr(config, field) for field in ("width", "prefix", "hot", "slices")]
    contiguous = config.exact == "auto" and stated == [None] * 4
    if contiguous and _all_exact(tables, config, cell):
        return replace(plain, exact=[t.name for t in tables])
    if _may_search(config):
        found = searched(tables, config, itemsize)
        if found is not None:
            return found[0]
    plain = replace(
        plain,
        bias=config.head == "mlp" if config.bias is None else config.bias,
        block_size=config.block_size or 1,
    )
    projected = config.width is not None or _projections_fit(tables, plain, _least_width(plain, config.counts))
    few_bytes_width = 0 if projected else _few_bytes_width(tables, config)
    if few_bytes_width:
        plain, projected = replace(plain, bias=False), True
    plain = replace(
        plain,
        sign=not projected if config.sign is None else config.sign,
        segments=projected or config.has_slices if config.segments is None else config.segments,
    )
    if contiguous and config.exact_fraction is None:
        least = 1 if config.head == "dot" or not config.counts else _MOST_WIDTH
        everything = _own_elements_for_every_row(tables, plain, cell, least)
        if everything is not None:
            return everything
    all_rows_fit = _widest_exact(tables, plain, cell)
    if config.width is None and projected:
        width = max(all_rows_fit, few_bytes_width or _read_width(tables, plain, cell, config.counts))
        plain = replace(plain, width={t.name: min(width, t.embedding_dim) for t in tables})
    if config.exact == "auto":
        small = contiguous and all_rows_fit >= few_bytes_width  # of few bytes, all tables or none
        plain = replace(plain, exact=_small_tables(tables, plain, cell) if small else [])
    if config.hot is None and config.counts:
        share = _FEW_BYTES_HOT_SHARE if few_bytes_width else _HOT_SHARE
        plain = replace(plain, hot=_hot_rows(tables, plain, config.counts, cell, share))
    return plain


def choose_folded(tables: Sequence[TableConfig], config: PSSConfig) -> tuple[PSSConfig, list[int]]:
    """As `choose`, and the rows of each table, where the caller numbers the ids: of an exact table perhaps fewer than it has, onto which
    `layout_search.fold` brings the ids' places in the order of their reads, 0 apart. Where ids nearly fit, that is less than to hash all of them.

    Raises:
        ValueError: see `choose`.
    """
    itemsize, rows = 4, [t.num_embeddings for t in tables]
    if not _may_search(config) or _all_exact(tables, config, cell_bytes(config.element_bits, itemsize)):
        return config, rows
    check_tables(tables, config)
    return searched(tables, config, itemsize, folds=True) or (config, rows)


def _all_exact(tables: Sequence[TableConfig], config: PSSConfig, itemsize: int | Fraction) -> bool:
    """Whether all rows fit at their embedding_dim."""
    widest = max(t.embedding_dim for t in tables)
    return (
        config.exact == "auto"
        and _exact_bytes(tables, widest, itemsize, False, config.element_bits) <= config.array_bytes
    )


def _may_search(config: PSSConfig) -> bool:
    """Whether all is open that a search decides, and counts say what it is to decide by."""
    stated = (
        config.block_size,
        config.sign,
        config.exact_fraction,
        config.width,
        config.prefix,
        config.hot,
        config.segments,
        config.slices,
        config.bias,
    )
    is_open = all(value is None for value in stated) and config.exact in ("auto", ())
    return config.layout == "auto" and config.head == "mlp" and bool(config.counts) and is_open


def _exact_bytes(tables: Sequence[TableConfig], width: int, itemsize: int | Fraction, bias: bool, bits: int) -> int:
    """Bytes of all tables exact at ``width`` or their embedding_dim."""
    own = sum(aligned(t.num_embeddings * min(width, t.embedding_dim)) for t in tables)
    itemsize = int(itemsize)  # of 32 bits a whole number; of fewer nobody asks
    return stored_bytes(own, bits, itemsize) + _projection_bytes(tables, width, bias, bits)


def _projection_bytes(tables: Sequence[TableConfig], width: int, bias: bool, bits: int) -> int:
    return projection_bytes(sum((width + bias) * t.embedding_dim for t in tables if width < t.embedding_dim), bits)


def _own_elements_for_every_row(
    tables: Sequence[TableConfig], plain: PSSConfig, itemsize: int | Fraction, least: int
) -> PSSConfig | None:
    """Step 2; None where not even ``least`` elements a row fit."""
    bias = bool(plain.bias)
    width = _widest_exact(tables, plain, itemsize)
    if width < least:
        return None
    # The shared region is at least 1/32 of the prefixes.
    shared = width + _SHARED_BESIDE_PREFIX
    needed = _exact_bytes(tables, width, itemsize, bias, plain.element_bits) * 33 // 32
    needed += _projection_bytes(tables, shared, bias, plain.element_bits)
    if needed > plain.array_bytes or width >= (_EXACT_ALONE if plain.head == "dot" else _LEAST_WIDTH):
        widths = {t.name: min(width, t.embedding_dim) for t in tables}
        return replace(plain, width=widths, exact=list(widths))
    widths = {t.name: min(shared, t.embedding_dim) for t in tables}
    prefixes = {t.name: min(width, t.embedding_dim) for t in tables}
    return replace(plain, width=widths, prefix=prefixes, exact=[])


def _projections_fit(tables: Sequence[TableConfig], plain: PSSConfig, width: int) -> bool:
    return (
        _projection_bytes(tables, width, bool(plain.bias), plain.element_bits) <= _PROJECTION_SHARE * plain.array_bytes
    )


def _few_bytes_width(tables: Sequence[TableConfig], config: PSSConfig) -> int:
    """That rows are read at from few examples in a budget too small for `_least_width`: as many coordinates as can be projected,
    at most `_FEW_BYTES_WIDTH`. 0 where there are none, and for a config that states how rows are shared."""
    stated = [config.prefix, config.block_size, config.sign, config.segments, config.bias, config.exact_fraction]
    if config.head != "mlp" or stated != [None] * len(stated) or not _has_few_examples(config.counts):
        return 0
    room = _FEW_BYTES_PROJECTION_SHARE * config.array_bytes
    return largest_fitting(
        0, _FEW_BYTES_WIDTH, lambda w: _projection_bytes(tables, w, False, config.element_bits) <= room
    )


def _least_width(plain: PSSConfig, counts: Mapping[str, IdCounts] | None) -> int:
    """That rows that share may be read at. From few examples, a narrow read is learned better than a wide one."""
    if plain.head == "dot":
        return _DOT_WIDTH
    return _FEW_LEAST_WIDTH if _has_few_examples(counts) else _LEAST_WIDTH


def _has_few_examples(counts: Mapping[str, IdCounts] | None) -> bool:
    return examples_of(counts) < _FEW_READS if counts else False


def _read_width(
    tables: Sequence[TableConfig], plain: PSSConfig, itemsize: int | Fraction, counts: Mapping[str, IdCounts] | None
) -> int:
    """Of rows that share: `_DOT_WIDTH` with ``head="dot"``, else even and in proportion to the array's elements a row. A wide
    read says more of a row, leaves fewer rows elements of their own, and from few examples is learned by heart sooner. Narrower
    where the projections would not fit."""
    least = _least_width(plain, counts)
    if plain.head == "dot":
        return least
    elements = plain.array_bytes / float(itemsize) / sum(t.num_embeddings for t in tables)
    most = _MOST_WIDTH
    many = _MANY_READS_OF_ROWS if plain.exact == "auto" else _MANY_READS
    if counts and (examples := examples_of(counts)) < many:
        dim = max(t.embedding_dim for t in tables)
        learned = min(examples // _EXAMPLES_PER_COORDINATE, int(_WIDTH_PER_DIM * dim))
        most = min(most, max(_LEAST_WIDTH, learned, int(_WIDTH_PER_OWN_ELEMENT * elements)))
    per_element = _FEW_WIDTH_PER_ELEMENT if _has_few_examples(counts) else _WIDTH_PER_ELEMENT
    wanted = min(2 * round(per_element * elements / 2), most)
    possible = range(least, wanted + 1)
    return max((w for w in possible if _projections_fit(tables, plain, w)), default=least)


def _widest_exact(tables: Sequence[TableConfig], plain: PSSConfig, itemsize: int | Fraction) -> int:
    """The largest width at which the array would hold all rows of all tables; 0 where there is none."""
    widest, bias = max(t.embedding_dim for t in tables), bool(plain.bias)
    return largest_fitting(
        0, widest, lambda w: _exact_bytes(tables, w, itemsize, bias, plain.element_bits) <= plain.array_bytes
    )


def _array_room(tables: Sequence[TableConfig], plain: PSSConfig, itemsize: int | Fraction) -> int:
    """Elements that the projections leave."""
    width = _widths(plain, tables)
    projected = [(t, w) for t, w in zip(tables, width, strict=True) if w < t.embedding_dim]
    numel = sum((w + bool(plain.bias)) * t.embedding_dim for t, w in projected)
    left = max(plain.array_bytes - projection_bytes(numel, plain.element_bits), 0)
    room = int(left // itemsize)
    while (
        plain.element_bits < 32 and stored_bytes(room, plain.element_bits) > left
    ):  # the last scale is of fewer elements
        room -= 1
    return room


def _widths(plain: PSSConfig, tables: Sequence[TableConfig]) -> list[int]:
    if isinstance(plain.width, Mapping):
        return [plain.width.get(t.name, t.embedding_dim) for t in tables]
    return [min(plain.width or t.embedding_dim, t.embedding_dim) for t in tables]


def _small_tables(tables: Sequence[TableConfig], plain: PSSConfig, itemsize: int | Fraction) -> list[str]:
    """Names of the tables that fit whole under the cap of rows at which all tables, capped, fill the array; fewer where
    `PSSConfig.exact_fraction` says so."""
    room, widths = _array_room(tables, plain, itemsize), _widths(plain, tables)
    sizes = [(t.num_embeddings, w) for t, w in zip(tables, widths, strict=True)]
    most = max(rows for rows, _ in sizes)
    cap = largest_fitting(0, most, lambda c: sum(aligned(min(rows, c) * w) for rows, w in sizes) <= room)
    names, used = [], 0
    for table, width in sorted(zip(tables, widths, strict=True), key=lambda p: (p[0].num_embeddings * p[1], p[0].name)):
        used += aligned(table.num_embeddings * width)
        within = plain.exact_fraction is None or used <= plain.exact_fraction * room
        if table.num_embeddings > cap or not within:
            break
        names.append(table.name)
    return names


def _hot_rows(
    tables: Sequence[TableConfig],
    plain: PSSConfig,
    counts: Mapping[str, IdCounts],
    itemsize: int | Fraction,
    share: float,
) -> dict[str, np.ndarray]:
    """The most frequent ids of all tables that are not exact, as many as ``share`` of the array holds with their keys."""
    room, widths = _array_room(tables, plain, itemsize), _widths(plain, tables)
    sharing = [(t, w) for t, w in zip(tables, widths, strict=True) if t.name in counts and t.name not in plain.exact]
    if not sharing:
        return {}
    taken = [(t.num_embeddings, w) for t, w in zip(tables, widths, strict=True) if t.name in plain.exact]
    given = plain.slices or {}
    least = sum(aligned(max(w, given.get(t.name, 0))) for t, w in zip(tables, widths, strict=True))
    left = min(share * room, room - sum(aligned(rows * w) for rows, w in taken) - least)
    all_counts = np.concatenate([counts[t.name].counts for t, _ in sharing])
    cost = np.concatenate(
        [
            np.full(len(counts[t.name].counts), w + key_bytes(8, plain.has_short_keys) / 8 / float(itemsize))
            for t, w in sharing
        ]
    )
    order = np.argsort(-all_counts, kind="stable")
    order = order[all_counts[order] >= _HOT_COUNT]
    number = int((np.cumsum(cost[order]) <= left - aligned(1) * len(sharing)).sum())
    is_hot = np.zeros(len(all_counts), bool)
    is_hot[order[:number]] = True
    hot, first = {}, 0
    for table, _ in sharing:
        known = counts[table.name]
        chosen = known.ids[is_hot[first : first + len(known.ids)]]
        first += len(known.ids)
        if len(chosen):
            hot[table.name] = np.sort(chosen)
    return hot
