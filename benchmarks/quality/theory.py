"""docs/how/theory.md's formulas, and the experiment that they are checked by.

python -m benchmarks.quality.theory [--out DIR]     # theory.json and theory.png
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from torchrec_pss.flags import Parser, add_number
from torchrec_pss.ops import HASH_MIX64, FeatureColumn, feature_matrix
from torchrec_pss.ops.hashing import table_key
from torchrec_pss.ops.reference import row_addresses
from torchrec_pss.whole_file import write_json


@dataclass(frozen=True)
class Case:
    """A table of ``rows`` x ``dim`` whose k-th row occurs in proportion to k^-skew, on ``numel`` shared elements in blocks of
    ``block``; the ``hot`` most frequent rows have elements of their own (not among ``numel``)."""

    rows: int
    dim: int
    numel: int
    block: int = 1
    skew: float = 0.0
    hot: int = 0


def frequencies(case: Case) -> np.ndarray:
    """Of the rows, adding up to 1."""
    f = np.arange(1, case.rows + 1, dtype=np.float64) ** -case.skew
    return f / f.sum()


def error_bound(case: Case) -> float:
    """Theorem 1: at most this is the expected frequency-weighted squared error of the best array, over the table's
    frequency-weighted energy, for coordinates of equal energy."""
    f = frequencies(case)
    cold = f[case.hot :]
    share = cold / (cold.sum() * case.dim)
    return float((cold * (1 - share) / (1 - share + case.numel * share)).sum())


def uniform_error(case: Case) -> float:
    """The exact expectation for Z = 1 where all rows are equally frequent and none is hot."""
    items = case.rows * case.dim
    return 1 - case.numel / items * (1 - (1 - 1 / case.numel) ** items)


def fitted_error(case: Case, seed: int) -> float:
    """The same, measured: a random table, the package's own addresses and signs, the weighted least-squares array."""
    generator = torch.Generator().manual_seed(seed)
    # Coordinates of +-1: every row has the same energy, as the bound takes it.
    table = torch.randint(0, 2, (case.rows, case.dim), generator=generator).double() * 2 - 1
    weight = torch.from_numpy(frequencies(case))[:, None].expand_as(table)
    addresses, signs = _addresses(case, seed)
    cold = slice(case.hot, None)
    fitted = _least_squares(case, table, weight, addresses, signs)
    errors = (fitted - table)[cold].square() * weight[cold]
    return float(errors.sum() / (table.square() * weight).sum())


def _addresses(case: Case, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    columns = {
        FeatureColumn.KEY: table_key("theory", seed),
        FeatureColumn.WIDTH: case.dim,
        FeatureColumn.BLOCK: case.block,
        FeatureColumn.SLOTS: case.numel // case.block,
    }
    feature = feature_matrix([columns], torch.device("cpu"))[0]
    no_hot = torch.zeros(0, dtype=torch.int32)
    return row_addresses(feature, no_hot, torch.arange(case.rows), HASH_MIX64, sign=True)


def _least_squares(case, table, weight, addresses, signs) -> torch.Tensor:
    """What the array reads after the fit: an element is the weighted mean of the signed coordinates at its address."""
    cold = slice(case.hot, None)
    at, signed = addresses[cold].flatten(), (table * signs)[cold].flatten()
    sums = torch.zeros(case.numel, dtype=torch.float64)
    weights = sums.index_add(0, at, weight[cold].flatten())
    array = sums.index_add(0, at, weight[cold].flatten() * signed) / weights.clamp(min=1e-300)
    return array[addresses] * signs


def predicted_noise(fraction: float) -> float:
    """Theorem 2: deviation of a fitted dot product about ``fraction^2`` times the true one, over the true one's deviation."""
    f = fraction
    return float(np.sqrt(f * f * (1 - f) ** 2 + 2 * f**3 * (1 - f)))


def dot_product_noise(case: Case, seed: int) -> tuple[float, float]:
    """Theorem 2, measured on equally frequent rows: the slope of fitted on true dot products of pairs of rows, and the
    standard deviation of the rest over that of the true ones."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(case.rows, case.dim, generator=generator, dtype=torch.float64)
    weight = torch.full_like(table, 1 / case.rows)
    fitted = _least_squares(case, table, weight, *_addresses(case, seed))
    pairs = torch.randperm(case.rows, generator=generator).view(2, -1)
    true = (table[pairs[0]] * table[pairs[1]]).sum(1)
    read = (fitted[pairs[0]] * fitted[pairs[1]]).sum(1)
    slope = float((true * read).sum() / true.square().sum())
    return slope, float((read - slope * true).std() / true.std())


CASES = [
    *(Case(4000, 8, m) for m in (100, 1000, 3200, 10_000, 100_000)),
    *(Case(4000, 8, 3200, block=z) for z in (2, 8)),
    *(Case(4000, d, 3200) for d in (2, 32)),
    *(Case(20_000, 4, m, skew=s) for s in (0.8, 1.1, 1.5, 2.0) for m in (200, 2000, 20_000)),
    *(Case(20_000, 4, 2000, skew=1.1, hot=h) for h in (100, 1000)),
]


def main() -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    add_number(parser, "--seeds", default=5)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    found = []
    for case in CASES:
        measured = [fitted_error(case, seed) for seed in range(args.seeds)]
        found.append({**asdict(case), "measured": float(np.mean(measured)), "bound": error_bound(case)})
        print(f"{case}: measured {found[-1]['measured']:.4f}, bound {found[-1]['bound']:.4f}", flush=True)
    write_json(args.out / "theory.json", found)
    _plot(args.out / "theory.png", found)


def _plot(path: Path, found: list[dict]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 6))
    for skew in sorted({f["skew"] for f in found}):
        points = [(f["bound"], f["measured"]) for f in found if f["skew"] == skew]
        axis.plot(*zip(*points, strict=True), "o", label=f"skew {skew}")
    axis.plot([0.002, 1], [0.002, 1], "k--", lw=1, label="bound")
    axis.set(xscale="log", yscale="log", xlabel="bound on the relative error", ylabel="measured relative error")
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
