"""`searched`: the plain layout that resolves most of what counts say is read, of those that `layout_search` knows, and of one region that
all tables share."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torchrec.modules.embedding_configs import BaseEmbeddingConfig

from torchrec_pss.modules.allocation import cell_bytes
from torchrec_pss.modules.density import DENSE_READS, reads_a_row
from torchrec_pss.modules.layout_objective import reads_of, resolved_in_region
from torchrec_pss.modules.layout_search import Choice, Table, search
from torchrec_pss.modules.pss_config import PSSConfig

_ROUNDING = 16  # bytes that scales of parts of groups may take more
# From fewer examples than `_MANY` rows are read at most a coordinate for so many of them wide, and at most so much of the
# embedding_dim, which leaves every table a projection: wide rows are learned by heart. Not where nearly all share.
_MANY, _EXAMPLES_PER_COORDINATE, _WIDTH_PER_DIM, _LEAST_WIDTH = 200_000, 5000, 3 / 4, 4


def searched(tables: Sequence[BaseEmbeddingConfig], config: PSSConfig, itemsize: int) -> PSSConfig | None:
    """``config`` as a plain layout; None where no choice fits, and where rules are better (`_is_searched`). ``itemsize``: bytes of an
    element while it is trained."""
    total = max(known.total for known in config.counts.values())
    reads = [reads_of(config.counts.get(t.name), t.num_embeddings, total) for t in tables]
    contiguous = config.exact == "auto"
    given = [
        Table(r, t.num_embeddings, t.embedding_dim, contiguous, itemsize) for r, t in zip(reads, tables, strict=True)
    ]
    elements = config.array_bytes / float(cell_bytes(config.bits, itemsize))
    if not _is_searched(tables, total, elements):
        return None
    dims, widest = [t.embedding_dim for t in tables], _widest(tables, total, elements)
    found = search(given, config.array_bytes - _ROUNDING, config.bits, True, widest)
    of_region = resolved_in_region(reads, dims, elements, config.bits) if widest >= max(dims) else 0.0
    plain = replace(config, layout="plain", counts=None, block_size=1)
    if of_region > (found[1] if found else 0.0):
        return replace(plain, sign=True, segments=False, bias=True, exact=[], hot={})
    return found and _sliced(plain, dict(zip((t.name for t in tables), found[0], strict=True)), config)


def _is_searched(tables: Sequence[BaseEmbeddingConfig], examples: int, elements: float) -> bool:
    """Dense logs are, but where the array has half of all rows' elements; and logs of few examples with less than an element a row.
    Elsewhere the objective has not foreseen the lab's runs (docs/layout.md), and rules decide."""
    rows = [t.num_embeddings for t in tables]
    if reads_a_row(examples, rows) >= DENSE_READS:
        return 2 * elements < sum(t.num_embeddings * t.embedding_dim for t in tables)
    return examples < _MANY and elements < sum(rows)


def _sliced(plain: PSSConfig, choices: dict[str, Choice], config: PSSConfig) -> PSSConfig:
    return replace(
        plain, sign=False, segments=True, bias=True, short_keys=True,
        exact=[n for n, c in choices.items() if c.is_exact],
        width={n: c.width for n, c in choices.items()},
        slices={n: c.slice_numel for n, c in choices.items() if not c.is_exact},
        hot={n: np.sort(config.counts[n].ids[: c.hot]) for n, c in choices.items() if c.hot},
    )  # fmt: skip


def _widest(tables: Sequence[BaseEmbeddingConfig], examples: int, elements: float) -> int:
    """That a row may be read."""
    dim = max(t.embedding_dim for t in tables)
    if examples >= _MANY or elements < sum(t.num_embeddings for t in tables):
        return dim
    return max(min(examples // _EXAMPLES_PER_COORDINATE, int(_WIDTH_PER_DIM * dim)), min(_LEAST_WIDTH, dim), 1)
