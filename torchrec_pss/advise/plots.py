"""`draw`: the AUROC that is predicted to be lost, over the array's bytes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from torchrec_pss.whole_file import write_figure


def draw(path: Path, rows: Sequence[dict[str, Any]], target: float, best: dict[str, Any] | None) -> None:
    """
    Args:
        path: a file whose ending is one of matplotlib's formats; PNG without one.
        rows: of `advise`, at least one.
        target: AUROC that may be lost.
        best: the row that is recommended, None where none is.

    Raises:
        OSError: the file cannot be written.
    """
    size, drops = [row["bytes"] for row in rows], [row["drop"] for row in rows]
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axis = figure.subplots()
    low, high = [drop["low"] for drop in drops], [drop["high"] for drop in drops]
    axis.fill_between(size, low, high, alpha=0.2, color="#0072b2", label="90 % of data sets")
    axis.plot(size, [drop["expected"] for drop in drops], "o-", color="#0072b2", label="predicted")
    axis.axhline(target, color="#d55e00", ls="--", label=f"target {target:g}")
    axis.axhline(0, color="gray", lw=0.8)
    for row in rows:
        point = row["bytes"], row["drop"]["expected"]
        axis.annotate(f"{row['compression']:,}x", point, (5, 6), textcoords="offset points", fontsize=8)
    if best is not None:
        axis.plot(best["bytes"], best["drop"]["expected"], "s", ms=11, mfc="none", color="#009e73", label="recommended: the smallest within the target")  # fmt: skip
    axis.set(xscale="log", xlabel="bytes of the array", ylabel="AUROC lost against full tables")
    axis.xaxis.set_major_formatter(EngFormatter("B"))
    axis.legend(fontsize=8)
    write_figure(path, figure)
