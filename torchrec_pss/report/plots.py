"""The report's plots, as PNG bytes."""

import io
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

_MOST_PIXELS = 60_000  # of a side; matplotlib draws less than 2^16

# Of a watched array, by panel: what `ArrayWatcher.measure` calls them, and how the legend does.
_WATCHED = {
    "L2 norm": {"array_norm": "array", "array_gradient_norm": "gradient", "array_moved_norm": "moved since the last point"},
    "share of elements": {
        "array_touched_share": "with a gradient in the step",
        "array_moved_share": "moved since the last point",
        "array_shared_moved_share": "of the shared ones, moved",
    },
}  # fmt: skip


def curves(runs: dict[str, dict[str, Any]]) -> bytes:
    """Validation AUROC and training loss over steps, a line a run."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4))
    named: list[tuple[str, Any]] = []
    for name, run in runs.items():
        for axis, key in ((left, "auroc_val"), (right, "loss")):
            points = [(h["step"], h[key]) for h in run["history"] if key in h]
            if points:
                lines = axis.plot(*zip(*points, strict=True), ".-")
                if not named or named[-1][0] != name:
                    named.append((name, lines[0]))
    bayes = {run["auroc_bayes"] for run in runs.values()} - {None}
    if len(bayes) == 1:
        named.append(("Bayes", left.axhline(bayes.pop(), color="gray", linestyle="--")))
    left.set(xlabel="step", ylabel="validation AUROC")
    right.set(xlabel="step", ylabel="training loss")
    _legend(left, named)
    return _png(figure)


def watched(run: dict[str, Any]) -> bytes | None:
    """Norms and shares along the run; None where it was not watched."""
    points = [h for h in run["history"] if "array_norm" in h]
    if not points:
        return None
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4))
    for axis, (label, keys) in zip(axes, _WATCHED.items(), strict=True):
        for key, name in keys.items():
            if key in points[0]:
                axis.plot([h["step"] for h in points], [h[key] for h in points], ".-", label=name)
        axis.set(xlabel="step", ylabel=label, yscale="log" if label == "L2 norm" else "linear")
        axis.legend(fontsize=8)
    return _png(figure)


def tables(run: dict[str, Any]) -> bytes | None:
    """A bar a table: bytes of its own and of its region, what hashing loses, and its contribution; None without an array."""
    load, ablation = run.get("collision_load"), run.get("ablation")
    if not load:
        return None
    names = list(load)
    panels = [
        ("KiB of its own", [load[n]["own_bytes"] / 1024 for n in names]),
        ("KiB of its hashed region", [load[n]["region_bytes"] / 1024 for n in names]),
        ("hashed coordinates an element", [load[n]["rows_per_element"] for n in names]),
        ("share of its reads that hashing loses", [load[n]["unresolved"] for n in names]),
    ]
    if ablation:
        panels.append(("test AUROC lost without it", [ablation.get(n, 0.0) for n in names]))
    figure, axes = pyplot.subplots(1, len(panels), figsize=(3.2 * len(panels), 1.2 + 0.19 * len(names)), sharey=True)
    for axis, (label, values) in zip(axes, panels, strict=True):
        axis.barh(range(len(names)), values)
        axis.set_xlabel(label, fontsize=8)
        axis.tick_params(labelsize=7)
    axes[0].set_yticks(range(len(names)), names, parse_math=False)
    axes[0].invert_yaxis()
    return _png(figure)


def _legend(axis: Axes, named: list[tuple[str, Line2D]]) -> None:
    """Names as they are: matplotlib leaves out those that begin with "_", and takes what stands between two "$" for mathematics."""
    legend = axis.legend([line for _, line in named], [str(number) for number in range(len(named))], fontsize=8)
    for text, (name, _) in zip(legend.get_texts(), named, strict=True):
        text.set(text=name, parse_math=False)


def _png(figure: Figure) -> bytes:
    figure.tight_layout()
    buffer = io.BytesIO()
    height = figure.get_size_inches()[1]
    figure.savefig(buffer, format="png", dpi=min(110, _MOST_PIXELS / height))
    pyplot.close(figure)
    return buffer.getvalue()
