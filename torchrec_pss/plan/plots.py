"""`draw`: plans side by side, bytes on each rank above and the parts of a step below."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from torchrec_pss.distributed.planner.report import PlanReport
from torchrec_pss.distributed.planner.types import MODES
from torchrec_pss.whole_file import write_figure

_PARTS = {
    "fwd_compute": ("forward", "#0072b2"),
    "fwd_comms": ("forward, exchange", "#56b4e9"),
    "bwd_compute": ("backward and update", "#d55e00"),
    "bwd_comms": ("backward, exchange", "#e69f00"),
}
_BYTES = EngFormatter("B", places=1)


def draw(path: Path, plans: Mapping[str, PlanReport | str]) -> None:
    """
    Args:
        path: a file whose ending is one of matplotlib's formats; PNG without one.
        plans: by mode ("auto", "always", "never"); of one that there is no plan for, why.

    Raises:
        OSError: the file cannot be written.
    """
    figure = figure_of(plans)
    write_figure(path, figure)


def figure_of(plans: Mapping[str, PlanReport | str]) -> Figure:
    """What `draw` writes."""
    modes = [mode for mode in MODES if mode in plans]
    figure = Figure(figsize=(9, 6.2), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[3, 2])  # an array, of two
    above, below = parts
    axes = above.subplots(1, len(modes), sharey=True, squeeze=False)[0]
    for axis, mode in zip(axes, modes, strict=True):
        axis.set_title(f"--pss {mode}")
        plan = plans[mode]
        if isinstance(plan, PlanReport):
            _ranks(axis, plan)
        else:
            axis.text(0.5, 0.5, "no plan", transform=axis.transAxes, ha="center")
            axis.set(xticks=[])
    largest = max((plan.rank_bytes for plan in plans.values() if isinstance(plan, PlanReport)), default=1)
    axes[0].set(ylabel="bytes on a rank", ylim=(0, 1.05 * largest or 1))
    axes[0].yaxis.set_major_formatter(EngFormatter("B"))
    _steps(below.subplots(), {mode: plans[mode] for mode in modes})
    return figure


def _ranks(axis: Axes, plan: PlanReport) -> None:
    ranks = len(plan.bytes_of_ranks)
    axis.stairs(plan.bytes_of_ranks, [rank - 0.5 for rank in range(ranks + 1)], fill=True, color="#0072b2")
    for edge in range(1, ranks if ranks <= 32 else 0):  # of a few ranks, each is a bar
        axis.axvline(edge - 0.5, color="white", linewidth=2)
    axis.set(xlabel=f"rank; the largest has {_BYTES(plan.rank_bytes)}", xlim=(-0.6, ranks - 0.4))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _steps(axis: Axes, plans: Mapping[str, PlanReport | str]) -> None:
    """A bar a plan, divided into the parts of its slowest rank's step."""
    names = list(plans)
    found = {mode: plan for mode, plan in plans.items() if isinstance(plan, PlanReport)}
    ends = dict.fromkeys(found, 0.0)
    for part, (label, color) in _PARTS.items():
        lengths = [found[mode].milliseconds[part] for mode in found]
        axis.barh([names.index(m) for m in found], lengths, left=list(ends.values()), color=color, label=label)
        ends = {mode: ends[mode] + length for mode, length in zip(found, lengths, strict=True)}
    for mode, plan in plans.items():
        told = f" {ends[mode]:.3g} ms" if isinstance(plan, PlanReport) else " no plan"
        axis.text(ends.get(mode, 0.0), names.index(mode), told, va="center")
    axis.set_yticks(range(len(names)), [f"--pss {mode}" for mode in names])
    axis.set(
        xlabel="milliseconds of the slowest rank's step, predicted", xlim=(0, 1.15 * max(ends.values(), default=1) or 1)
    )
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.legend(loc="upper center", bbox_to_anchor=(0.45, 1.22), ncols=len(_PARTS), fontsize=8, frameon=False)
