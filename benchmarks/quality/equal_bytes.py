"""What people look at of `few_bits`: the headline table, a CSV of all contestants, and one plot of the AUROC lost over bytes."""

import csv
from pathlib import Path

_HEADLINE = ("Criteo, 80,000 rows", "Criteo, 70,036 rows", "Gowalla, two-tower", "Gowalla, sequence")  # real rows
_OF_HEADLINE = (10, 100)  # compressions
_NAMED = ("full", "pss", "narrow", "row hashing")  # the other rivals' best stands behind these
_PLOTTED = {
    "narrow": "tab:blue",
    "row hashing": "tab:orange",
    "PSS plain": "tab:green",
    "CAFE": "tab:red",
    "ROBE": "tab:purple",
}
_FIELDS = ("data", "compression", "contestant", "runs", "mean_auroc", "bytes", "pss_above_by", "half", "pss_above_in")


def headline(rows: list[dict]) -> list[dict]:
    """Of the rows those of the headline table: real data, at most eight."""
    return [r for data in _HEADLINE for r in rows if r["data"] == data and r["compression"] in _OF_HEADLINE]


def markdown(rows: list[dict]) -> str:
    """A line for each row: mean AUROC, behind a rival's what pss is above it by, with its 95 % interval; the best but full tables in bold."""
    head = "| data | full, fp32 | pss | narrow | row hashing | best of the others |"
    return "\n".join([head, "|---" * 6 + "|", *map(_line, rows)]) + "\n"


def best_rival(row: dict) -> str:
    """Of all that are as small."""
    found = row["contestants"]
    return max((n for n in found if n not in ("pss", "full")), key=lambda n: found[n]["mean"])


def _line(row: dict) -> str:
    found = row["contestants"]
    first = max((n for n in found if n != "full"), key=lambda n: found[n]["mean"])
    others = {n: found[n]["mean"] for n in found if n not in _NAMED}

    def cell(name: str) -> str:
        if name not in found:
            return "-"
        mean = f"{found[name]['mean']:.4f}".removeprefix("0")
        mean = f"**{mean}**" if name == first else mean
        return mean + ("" if name in ("pss", "full") else f" ({_above(found[name])})")

    data = f"{row['data']}, {row['compression']:,}x"
    other = max(others, key=others.get) if others else None
    cells = [data, *map(cell, _NAMED), "-" if other is None else f"{other} {cell(other)}"]
    return f"| {' | '.join(cells)} |"


def _above(rival: dict) -> str:
    return f"{rival['pss_above_by']:+.4f} ±{rival['half']:.4f}".replace("0.", ".")


def write_csv(path: Path, rows: list[dict]) -> None:
    """A line for each contestant of each row."""
    with open(path, "w", newline="") as stream:
        writer = csv.DictWriter(stream, _FIELDS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            for name, found in row["contestants"].items():
                of_row = {"data": row["data"], "compression": row["compression"], "contestant": name}
                of_rival = {k: f"{found[k]:.6f}" for k in ("pss_above_by", "half") if k in found}
                writer.writerow(
                    of_row
                    | {"runs": len(found["held_out"]), "mean_auroc": f"{found['mean']:.6f}", "bytes": found["bytes"]}
                    | of_rival
                    | {"pss_above_in": found.get("pss_above_in", "")}
                )


def plot(path: Path, rows: list[dict]) -> None:
    """AUROC lost against full tables over stored bytes, a panel for each real data set; the array thick, five rivals thin."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import EngFormatter, NullFormatter

    panels = [data for data in _HEADLINE if any(r["data"] == data for r in rows)]
    columns = min(len(panels), 2)
    lines = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(lines, columns, figsize=(4.8 * columns, 3.2 * lines), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, data in zip(axes.flat, panels, strict=False):
        of_data = sorted((r for r in rows if r["data"] == data), key=lambda r: -r["compression"])
        for name, colour in (_PLOTTED | {"pss": "black"}).items():
            points = [
                (r["contestants"][name]["bytes"], r["contestants"]["full"]["mean"] - r["contestants"][name]["mean"])
                for r in of_data
                if name in r["contestants"]
            ]
            if points:
                label, width = ("torchrec_pss", 3) if name == "pss" else (name, 1)
                axis.plot(*zip(*points, strict=True), "o-", ms=4, lw=width, zorder=width, color=colour, label=label)
        axis.axhline(0, color="grey", lw=0.8, ls=":")
        axis.invert_yaxis()
        axis.set(xscale="log", xlabel="stored bytes", title=data)
        axis.xaxis.set_major_formatter(EngFormatter("B"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    figure.supylabel("AUROC lost against full tables (up is better)", fontsize=10)
    handles = {label: h for a in axes.flat for h, label in zip(*a.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=len(handles), frameon=False)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
