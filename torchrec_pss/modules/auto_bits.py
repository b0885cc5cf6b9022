"""``bits="auto"``: more than 4 bits an element only where nothing is gained by fewer."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from torchrec_pss.modules.allocation import allocate
from torchrec_pss.modules.auto_layout import choose
from torchrec_pss.modules.pss_config import AUTO_BITS, PSSConfig
from torchrec_pss.modules.table_config import TableConfig, dtype_of

_MANY = (32, 8)
_FEW = 4  # at equal bytes above 32 and 8 wherever rows must share, and 3 and 2 above it nowhere (docs/research/2026-11-30-bits.md)
_ITEMSIZE = 4


def with_bits(tables: Sequence[TableConfig], config: PSSConfig) -> PSSConfig:
    """``config`` with bits that are a number: 32, or else 8, where every row of every table has all its elements alone then; else 4. Tables
    that are not FP32 have 32, which are theirs.

    Raises:
        ValueError: see `auto_layout.choose`.
    """
    if config.bits != AUTO_BITS:
        return config
    if any(dtype_of(t) != torch.float32 for t in tables):
        return replace(config, bits=32)
    return next(
        (c for bits in _MANY if _all_alone(tables, c := replace(config, bits=bits))), replace(config, bits=_FEW)
    )


def _all_alone(tables: Sequence[TableConfig], config: PSSConfig) -> bool:
    try:
        layout = allocate(tables, choose(tables, config, _ITEMSIZE), _ITEMSIZE)
    except ValueError:  # too few bytes, perhaps; of 4 bits it is raised
        return False
    return all(t.is_exact and not t.is_projected for t in layout.tables)
