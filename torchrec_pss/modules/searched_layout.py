"""`searched`: the plain layout that resolves most of what counts say is read, of those that `layout_search` knows, and of one region that
all tables share."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from torchrec_pss.density import is_dense
from torchrec_pss.modules.allocation import cell_bytes
from torchrec_pss.modules.id_counts import IdCounts, examples_of
from torchrec_pss.modules.layout_objective import reads_of, resolved_in_region
from torchrec_pss.modules.layout_search import Choice, Table, search
from torchrec_pss.modules.pss_config import PSSConfig
from torchrec_pss.modules.table_config import TableConfig

_ROUNDING = 16  # bytes that scales of parts of groups may take more
_MANY = 200_000  # examples from which sparse logs are laid out by rules
_ELEMENTS_A_ROW = 1  # from which those of fewer are, too


def searched(
    tables: Sequence[TableConfig], config: PSSConfig, itemsize: int, folds: bool = False
) -> tuple[PSSConfig, list[int]] | None:
    """``config`` as a plain layout, of a dense log of few ids, or of few examples with less than an element a row: elsewhere the objective has not
    foreseen the lab's runs (docs/research/2026-11-30-layout-search.md), and it is None, as where no choice fits. A dense log's rows are read D wide where half of
    their elements fit: projected, it learns later. ``itemsize``: bytes of an element while it is trained. And the rows of each table: with
    ``folds``, of an exact one perhaps fewer than it has, for ids that are read least may share them (`fold`)."""
    counts = config.counts or {}
    total = examples_of(counts)
    elements = config.array_bytes / float(cell_bytes(config.element_bits, itemsize))
    dims, rows = [t.embedding_dim for t in tables], [t.num_embeddings for t in tables]
    if not is_dense(total, rows) and not (total < _MANY and elements < _ELEMENTS_A_ROW * sum(rows)):
        return None
    whole = 2 * elements >= sum(n * dim for n, dim in zip(rows, dims, strict=True))
    reads = [reads_of(counts.get(t.name), t.num_embeddings, total) for t in tables]
    contiguous = config.exact == "auto"
    folds &= contiguous and not whole  # two ids that share all of a wide row are not told apart
    given = [Table(r, t.num_embeddings, t.embedding_dim, contiguous, folds) for r, t in zip(reads, tables, strict=True)]
    found = search(given, config.array_bytes - _ROUNDING, config.element_bits, itemsize, whole)
    of_region = 0.0 if whole else resolved_in_region(reads, dims, elements, config.element_bits)
    plain = replace(config, layout="plain", counts=None, block_size=1)
    if of_region > (found[1] if found else 0.0):
        return replace(plain, sign=True, segments=False, bias=True, exact=[], hot={}), rows
    if found is None:
        return None
    choices = dict(zip((t.name for t in tables), found[0], strict=True))
    return _sliced(plain, choices, counts), [c.exact_rows or n for c, n in zip(found[0], rows, strict=True)]


def _sliced(plain: PSSConfig, choices: dict[str, Choice], counts: Mapping[str, IdCounts]) -> PSSConfig:
    return replace(
        plain, sign=False, segments=True, bias=True, short_keys=True,
        exact=[n for n, c in choices.items() if c.is_exact],
        width={n: c.width for n, c in choices.items()},
        slices={n: c.slice_numel for n, c in choices.items() if not c.is_exact},
        hot={n: np.sort(counts[n].ids[: c.hot]) for n, c in choices.items() if c.hot},
    )  # fmt: skip
