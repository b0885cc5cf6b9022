"""`MeanForOthers`: what is read of an id that an exact table has no row for, if not an error: the mean of its rows."""

from typing import Any

import torch
from torch import nn

from torchrec_pss.modules.shared_array import SharedArrayModule

_ROWS = 1 << 16  # read at a time
_NO_LIMIT = (1 << 63) - 1


class MeanForOthers(nn.Module):
    """Of the features of a bag collection, in their order."""

    limits: torch.Tensor
    means: torch.Tensor
    feature_of: torch.Tensor

    def __init__(self, module: SharedArrayModule) -> None:
        super().__init__()
        tables = [module.layout.tables[t] for t in module._table_of_feature]
        limits = [t.rows if t.prefix and module.layout.hash != "robe" else _NO_LIMIT for t in tables]
        rows = [
            _mean(module, t.name, t.rows) if n != _NO_LIMIT else torch.zeros(t.embedding_dim, device=module.device)
            for t, n in zip(tables, limits, strict=True)
        ]
        self.register_buffer("limits", torch.tensor(limits, device=module.device))
        self.register_buffer("means", torch.cat(rows))
        columns = torch.tensor([len(r) for r in rows], device=module.device)
        self.register_buffer("feature_of", torch.arange(len(tables), device=module.device).repeat_interleave(columns))

    def split(
        self, ids: torch.Tensor, offsets: torch.Tensor, weights: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Ids that all have a row, their weights, and of each bag the sum of the weights of those that had none, ``[F, B]``. ``offsets``:
        ``[F * B + 1]``."""
        number = self.limits.numel()
        bags = bags_of(ids, offsets)
        size = (offsets.numel() - 1) // number
        limits = self.limits.repeat_interleave(size)[bags]
        others = ((ids < 0) | (ids >= limits)) & (limits != _NO_LIMIT)
        weights = torch.ones(ids.numel(), device=ids.device) if weights is None else weights
        lost = torch.zeros(number * size, device=ids.device).index_add(0, bags, weights * others)
        return torch.where(others, 0, ids), weights * ~others, lost.view(number, size)

    def forward(self, lost: torch.Tensor) -> torch.Tensor:
        """What they add to the sums: fp32 ``[B, all dims]``."""
        return lost[self.feature_of].t() * self.means


def bags_of(ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """The bag of each id, int64 ``[L]``. ``offsets``: ``[F * B + 1]``."""
    return torch.searchsorted(offsets[1:].contiguous(), torch.arange(ids.numel(), device=ids.device), right=True)


def _mean(module: SharedArrayModule, table: str, rows: int) -> torch.Tensor:
    total: Any = sum(
        module.materialize(table, torch.arange(first, min(first + _ROWS, rows), device=module.device)).double().sum(0)
        for first in range(0, rows, _ROWS)
    )
    return (total / rows).float()
