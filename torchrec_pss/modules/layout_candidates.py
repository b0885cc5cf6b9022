"""`candidates`: layouts of which counts do not say which is best, for a trial of each.

What rows of a dense log mean may lie along one direction or along all: the first wants few coordinates for every row, the second all of them
for frequent ones. Counts are the same. A pass over the log tells, by validation AUROC; docs/research/2026-11-30-trials-of-dense-logs.md has the measurements.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from torchrec_pss.modules.allocation import cell_bytes
from torchrec_pss.modules.auto_bits import with_bits
from torchrec_pss.modules.auto_layout import choose_folded
from torchrec_pss.modules.pss_config import PSSConfig
from torchrec_pss.modules.rival_layouts import capped_rows, exact_tables, narrow_width, row_hashing_width
from torchrec_pss.modules.table_config import TableConfig

Candidate = tuple[PSSConfig, list[int]]

CANDIDATES = ("searched", "prefixed", "narrow", "hashed")
_ITEMSIZE = 4  # of an element of 32 bits
_SMALL = 100  # rows of a table that is exact beside prefixes
_OWN_SHARE = 0.65  # of the elements that a row has, in its prefix
_LEAST_OF_DIM = 1 / 4  # of a row's coordinates that the prefix must have


def candidates(tables: Sequence[TableConfig], config: PSSConfig) -> dict[str, Candidate]:
    """Layouts by name, as plain configs, and the rows that each leaves every table (`layout_search.fold`).

    - ``searched``: as `choose_folded` has it;
    - ``prefixed``: rows read D wide, of which each has some coordinates of its own and shares the others;
    - ``narrow``: every row of its own, at the width that fits;
    - ``hashed``: row hashing, some coordinates wide, its rows as many as fit.

    ``searched`` alone, where the config leaves nothing open or all tables fit.

    Args:
        tables: whose ids are rows.
        config: with counts; of ``layout="auto"``.

    Raises:
        ValueError: see `auto_layout.choose`.
    """
    config, rows = with_bits(tables, config), [t.num_embeddings for t in tables]
    found = {"searched": choose_folded(tables, config)}
    if found["searched"][0] is config:
        return found
    prefixed = _prefixed(tables, config)
    if prefixed is not None:
        found["prefixed"] = prefixed, rows
    narrow = 0
    with suppress(ValueError):
        narrow = narrow_width(tables, config.array_bytes, config.element_bits)
        found["narrow"] = _exact(tables, config, narrow), rows
    with suppress(ValueError):
        width = row_hashing_width(tables, config.array_bytes, bits=config.element_bits)
        if width != narrow:
            found["hashed"] = (
                _exact(tables, config, width),
                capped_rows(tables, config.array_bytes, width, config.element_bits),
            )
    return found


def _exact(tables: Sequence[TableConfig], config: PSSConfig, width: int) -> PSSConfig:
    made = exact_tables(tables, config.array_bytes, width, config.init_range, config.head, config.element_bits)
    return replace(made, seed=config.seed)


def _prefixed(tables: Sequence[TableConfig], config: PSSConfig) -> PSSConfig | None:
    small = [t for t in tables if t.num_embeddings <= _SMALL]
    large = [t for t in tables if t.num_embeddings > _SMALL]
    if not large:
        return None
    elements = config.array_bytes / float(cell_bytes(config.element_bits, _ITEMSIZE))
    left = elements - sum(t.num_embeddings * t.embedding_dim for t in small)
    own = int(_OWN_SHARE * left / sum(t.num_embeddings for t in large))
    if own < _LEAST_OF_DIM * max(t.embedding_dim for t in large):
        return None
    return replace(
        config, layout="plain", counts=None, bias=True, block_size=1, sign=False, segments=True, exact=[t.name for t in small],
        prefix={t.name: min(own, t.embedding_dim) for t in large},
    )  # fmt: skip
