"""Fits a shared array to given rows, by least squares.

A table's projection is fixed first: the principal axes of its rows (with a bias: about their mean). It has orthonormal rows, so that the error
that is left to the array falls apart into its elements, and the best value of each is the weighted mean of the coordinates that
are hashed to it, signs undone. One pass for the axes, one for the means, one to measure; nothing is iterated.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from torchrec_pss.modules.array_layout import TableLayout
from torchrec_pss.modules.shared_array import SharedArrayModule

_CHUNK = 1 << 16  # rows at a time


@dataclass(frozen=True)
class TableRows:
    """Rows that a table should have.

    Attributes:
        ids: int64 ``[n]``, distinct.
        read: the rows of some of them, fp ``[k, embedding_dim]``.
        weights: fp ``[n]``, how much each counts (how often it is read); all alike if None.
    """

    ids: torch.Tensor
    read: Callable[[torch.Tensor], torch.Tensor]
    weights: torch.Tensor | None = None

    def chunks(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Ids, rows and weights (fp64), part by part."""
        weights = torch.ones(len(self.ids)) if self.weights is None else self.weights
        for ids, w in zip(self.ids.split(_CHUNK), weights.split(_CHUNK), strict=True):
            yield ids, self.read(ids).double(), w.double()


@dataclass(frozen=True)
class TableFit:
    """How well a table's rows are met.

    Attributes:
        rows: how many there are.
        rmse: root of the weighted mean of squared errors, of a coordinate.
        explained: share of the rows' variance (about their mean, weighted) that the array reproduces; 1 is exact, 0 no better
            than their mean.
    """

    rows: int
    rmse: float
    explained: float


@dataclass(frozen=True)
class FitReport:
    """By table; ``print(report)`` shows it.

    Attributes:
        tables: by name.
    """

    tables: dict[str, TableFit]

    def __str__(self) -> str:
        lines = [f"{'table':24}{'rows':>14}{'rmse':>12}{'explained':>12}"]
        lines += [f"{name[:23]:24}{t.rows:14,}{t.rmse:12.3g}{t.explained:12.4f}" for name, t in self.tables.items()]
        return "\n".join(lines)


@torch.no_grad()
def fit(module: SharedArrayModule, sources: Mapping[str, TableRows]) -> FitReport:
    """Sets the module's array and projections to reproduce rows as well as they can; elements that no row reads stay as they are.

    Args:
        module: on the CPU, its tables at least those of ``sources``.

    Raises:
        ValueError: a table that the module does not have; rows that are not finite, or of another embedding_dim.
        IndexError: an id out of an exact table's range.
    """
    layouts = {t.name: t for t in module.layout.tables}
    unknown = sorted(set(sources) - set(layouts))
    if unknown:
        raise ValueError(f"rows are given of the tables {unknown}; the module has {sorted(layouts)}")
    axes = {name: _axes(layouts[name], rows) for name, rows in sources.items()}
    # The readers add each row's coordinates to where the row is read from: that is a lookup's backward.
    sums, weights = (torch.zeros(module.array.numel(), dtype=torch.float64) for _ in range(2))
    for name, rows in sources.items():
        basis, bias = axes[name]
        for ids, values, w in rows.chunks():
            coordinates = (values - bias) @ basis
            sums += module.scatter(name, ids, coordinates * w[:, None])
            weights += module.scatter(name, ids, w[:, None].expand(-1, coordinates.shape[1]), signed=False)
    read = weights > 0
    module.array[read] = (sums[read] / weights[read]).to(module.array.dtype)
    for name, (basis, bias) in axes.items():
        if layouts[name].is_projected:
            projection = module.projection(name)
            projection[: layouts[name].width] = basis.mT.to(projection.dtype)
            if layouts[name].bias:
                projection[-1] = bias.to(projection.dtype)
    return FitReport({name: _measure(module, name, rows) for name, rows in sources.items()})


def _axes(layout: TableLayout, rows: TableRows) -> tuple[torch.Tensor, torch.Tensor]:
    """Orthonormal columns ``[embedding_dim, width]`` on which rows are projected, and what is subtracted before."""
    dim = layout.embedding_dim
    second, first, total = torch.zeros(dim, dim, dtype=torch.float64), torch.zeros(dim, dtype=torch.float64), 0.0
    for ids, values, w in rows.chunks():
        if values.shape != (len(ids), dim):
            raise ValueError(f"table {layout.name!r}: rows of shape {list(values.shape)}, expected [{len(ids)}, {dim}]")
        if not values.isfinite().all():
            bad = ids[~values.isfinite().all(1)][0]
            raise ValueError(f"table {layout.name!r}: the row of id {int(bad)} is not finite")
        second += values.mT @ (values * w[:, None])
        first += (values * w[:, None]).sum(0)
        total += float(w.sum())
    bias = torch.zeros(dim, dtype=torch.float64)
    if not layout.is_projected:
        return torch.eye(dim, dtype=torch.float64), bias
    if layout.bias and total > 0:
        bias = first / total
        second -= total * bias[:, None] * bias
    return torch.linalg.eigh(second).eigenvectors[:, -layout.width :].flip(1), bias


def _measure(module: SharedArrayModule, name: str, rows: TableRows) -> TableFit:
    error = total = 0.0
    squares = 0.0
    first: Any = 0.0  # a vector from the first chunk on
    for ids, values, w in rows.chunks():
        error += float(((module.materialize(name, ids).double() - values).square() * w[:, None]).sum())
        squares += float((values.square() * w[:, None]).sum())
        first = first + (values * w[:, None]).sum(0)
        total += float(w.sum())
    if not total:
        return TableFit(len(rows.ids), 0.0, 1.0)
    variance = squares - float((first**2).sum()) / total
    dim = len(first)
    explained = 1 - error / variance if variance > 1e-12 * squares else float(error <= 1e-9 * max(squares, 1e-30))
    return TableFit(len(rows.ids), (error / total / dim) ** 0.5, explained)
