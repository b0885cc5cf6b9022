"""Curves along a run: as a PNG of its own, and as SVG inside the report's page.

Figures are made without pyplot, so that drawing one changes nothing in the program (a notebook, say) that asks for it.
"""

import io
import re
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

# Of a run's history, by panel: what `ArrayWatcher.measure` calls them, and how the legend does.
_WATCHED = {
    "L2 norm": {"array_norm": "array", "array_gradient_norm": "gradient", "array_moved_norm": "moved since the last point"},
    "share of elements": {
        "array_touched_share": "with a gradient in the step",
        "array_moved_share": "moved since the last point",
        "array_shared_moved_share": "of the shared ones, moved",
    },
}  # fmt: skip
_CURVES = {"auroc_val": "validation AUROC", "loss": "training loss"}
# A figure has this color for its text and axes, and the page puts its own there: light and dark differ.
_INK = "#123456"
_ON_PAGE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "torchrec_pss", "font.size": 9, "legend.frameon": False, "legend.labelcolor": _INK,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), _INK),
}  # fmt: skip


def curves(runs: dict[str, dict[str, Any]]) -> bytes:
    """Validation AUROC and training loss over steps, a line a run; a PNG."""
    figure = Figure(figsize=(11, 4))
    named: list[tuple[str, Line2D]] = []
    axes = figure.subplots(1, 2)
    for axis, key in zip(axes, _CURVES, strict=True):
        for name, line in _curves(axis, runs, key):
            if name not in [n for n, _ in named]:
                named.append((name, line))
    _legend(axes[0], named)
    return _png(figure)


def curve_figures(runs: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The same for the page, an SVG each, by what it shows; the n-th run's line has `color_of` n."""
    found = {}
    with matplotlib.rc_context(_ON_PAGE):
        for key, label in _CURVES.items():
            figure = Figure(figsize=(3.9, 2.6))
            axis = figure.subplots()
            if _curves(axis, runs, key):
                axis.set_ylabel("")  # the panel's title says it
                found[label] = _svg(figure, f"{label} over steps")
    return found


def color_of(number: int) -> str:
    """Of the n-th run's line; the ten of matplotlib's cycle again and again."""
    return matplotlib.colors.to_hex(f"C{number % 10}")


def _curves(axis: Axes, runs: dict[str, dict[str, Any]], key: str) -> list[tuple[str, Line2D]]:
    named = []
    for number, (name, run) in enumerate(runs.items()):
        points = [(h["step"], h[key]) for h in run["history"] if key in h]
        if points:
            named.append((name, axis.plot(*zip(*points, strict=True), ".-", color=color_of(number))[0]))
    bayes = {run["auroc_bayes"] for run in runs.values()} - {None}
    if key == "auroc_val" and len(bayes) == 1:
        named.append(("Bayes", axis.axhline(bayes.pop(), color="gray", linestyle="--")))
    axis.set(xlabel="step", ylabel=_CURVES[key])
    return named


def watched_figures(run: dict[str, Any]) -> dict[str, str]:
    """Norms and shares along the run, an SVG each, by what it shows; none where it was not watched."""
    points = [h for h in run["history"] if "array_norm" in h]
    found = {}
    with matplotlib.rc_context(_ON_PAGE):
        for label, keys in _WATCHED.items() if points else ():
            figure = Figure(figsize=(3.9, 2.6))
            axis = figure.subplots()
            for key, name in keys.items():
                if key in points[0]:
                    axis.plot([h["step"] for h in points], [h[key] for h in points], ".-", label=name)
            axis.set(xlabel="step", yscale="log" if label == "L2 norm" else "linear")
            axis.legend(fontsize=8)
            found[label] = _svg(figure, f"{label} over steps")
    return found


def _legend(axis: Axes, named: list[tuple[str, Line2D]]) -> None:
    """Names as they are: matplotlib leaves out those that begin with "_", and takes what stands between two "$" for mathematics."""
    legend = axis.legend([line for _, line in named], [str(number) for number in range(len(named))], fontsize=8)
    for text, (name, _) in zip(legend.get_texts(), named, strict=True):
        text.set(text=name, parse_math=False)


def _png(figure: Figure) -> bytes:
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _svg(figure: Figure, label: str) -> str:
    """For a page: without a size of its own, in the page's text color, and without ids that a second one would have too."""
    figure.tight_layout()
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
    )
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r' id="[a-z0-9.]+_\d+"', "", text)
    head, rest = text.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{label}">{rest}'
