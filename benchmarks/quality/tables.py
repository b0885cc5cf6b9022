"""From results to what people look at: a Markdown table, and plots of AUROC against bytes and against steps."""

import statistics
from pathlib import Path


def interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half the width of a 95 % interval of it (Student's t; 0 for one value)."""
    t95 = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776, 12: 2.201}
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, 0.0
    t = t95.get(len(values), 2.6)
    return mean, t * statistics.stdev(values) / len(values) ** 0.5


def markdown(rows: list[dict], contestants: list[str]) -> str:
    """One line a (data, model, compression); the best contestant but "full" in bold, and how pss stands to it."""
    lines = [
        "| data | model | compression | " + " | ".join(contestants) + " | Bayes | pss is |",
        "|---" * (len(contestants) + 5) + "|",
    ]
    for row in rows:
        possible = {c: r for c, r in row["contestants"].items() if "mean" in r}
        best = max((c for c in possible if c != "full"), key=lambda c: possible[c]["mean"], default=None)
        cells = []
        for c in contestants:
            found = possible.get(c)
            cell = f"{found['mean']:.4f}".lstrip("0") + f" ±{found['half']:.4f}".replace("0.", ".") if found else "-"
            cells.append(f"**{cell}**" if c == best else cell)
        bayes = f"{row['bayes']:.4f}".lstrip("0") if row["bayes"] else "-"
        lines.append(
            f"| {row['data']} | {row['model']} | {row['compression']:g}x | "
            + " | ".join(cells)
            + f" | {bayes} | {standing(row)} |"
        )
    return "\n".join(lines) + "\n"


def standing(row: dict) -> str:
    """Of pss among those that are compressed: "best", "level with" another whose mean is the same (the layouts are then), "within
    its interval" of the best, or "below"."""
    means = {c: r["mean"] for c, r in row["contestants"].items() if "mean" in r and c != "full"}
    if "pss" not in means:
        return "impossible"
    behind = max(means.values()) - means["pss"]
    if behind == 0:
        level = [c for c, mean in means.items() if mean == means["pss"] and c != "pss"]
        return f"level with {', '.join(level)}" if level else "best"
    return "within its interval" if behind <= row["contestants"]["pss"]["half"] else f"{behind:.4f} below".lstrip("0")


def plot(path: Path, rows: list[dict]) -> None:
    """A panel a (data, model): mean test AUROC against bytes, one line a contestant."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = sorted({(r["data"], r["model"]) for r in rows})
    names = dict.fromkeys(name for row in rows for name in row["contestants"])
    colours = dict(zip(names, pyplot.cm.tab20.colors, strict=False))  # the same in all panels
    columns = min(len(panels), 3)
    height = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(height, columns, figsize=(6 * columns, 5 * height), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (data, model) in zip(axes.flat, panels, strict=False):
        lines: dict[str, list[tuple[float, float, float]]] = {}
        for row in rows:
            if (row["data"], row["model"]) == (data, model):
                for name, found in row["contestants"].items():
                    if "mean" in found:
                        lines.setdefault(name, []).append((found["bytes"], found["mean"], found["half"]))
        for name, points in lines.items():
            size, mean, half = zip(*sorted(points), strict=True)
            axis.errorbar(
                size, mean, half, fmt="o-", capsize=2, color=colours[name], label=name, lw=2.5 if name == "pss" else 1
            )
        axis.set(xscale="log", xlabel="bytes of the embeddings", ylabel="test AUROC", title=f"{data}, {model}")
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def plot_curves(
    path: Path, curves: dict[str, list[tuple[int, float]]], title: str, measure: str = "test AUROC"
) -> None:
    """A measure against steps, one line a name."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 5))
    for name, curve in curves.items():
        steps, aurocs = zip(*curve, strict=True)
        axis.plot(steps, aurocs, "o-", ms=3, label=name)
    axis.set(xlabel="step", ylabel=measure, title=title)
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def headline(lines: list[dict]) -> str:
    """A line a run; AUROC, and what it is above the full tables by, seed by seed: each less Bayes' on its own test rows, which are others
    where more rows were trained on."""
    below_bayes = {(r["name"], r["seed"]): r["auroc_test"] - r["bayes"] for r in lines}
    by_name: dict[str, list[dict]] = {}
    for r in lines:
        by_name.setdefault(r["name"], []).append(r)
    rows = []
    for name, of_name in by_name.items():
        first, share = of_name[0], statistics.fmean(r["share_of_bayes"] for r in of_name)
        found = ", ".join(f"{r['auroc_test']:.4f}" for r in of_name)
        pairs = [(r["auroc_test"] - r["bayes"], below_bayes.get((r["full"], r["seed"]))) for r in of_name]
        above = ", ".join(f"{ours - full:+.4f}" for ours, full in pairs if full is not None)
        rows.append(
            f"| {name} | {first['bytes']:,} | {first['compression']:,.0f}x | {found} | {above or '-'} | {100 * share:.1f} % |"
        )
    head = "| run | stored bytes | compression | test AUROC | above full tables by | of the way from .5 to Bayes |"
    return "\n".join([head, "|---" * 6 + "|", *rows]) + "\n"
