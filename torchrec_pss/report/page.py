"""The report's page: what runs came to, side by side, and of each what its array did. It stands alone: no script, no other file."""

import html
from typing import Any

from torchrec_pss.report import parts, plots
from torchrec_pss.report.layout_bar import COLORS, KINDS, drawn_layout, kinds_of
from torchrec_pss.report.style import STYLE

_HEAD = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'


def page(runs: dict[str, dict[str, Any]]) -> str:
    """The HTML of runs by name; each is what `read_run` returns."""
    named = [(plots.color_of(number), name) for number, name in enumerate(runs)]
    if len({run["auroc_bayes"] for run in runs.values()} - {None}) == 1:
        named.append(("gray", "Bayes: the best that is possible on these rows"))
    figures = plots.curve_figures(runs)
    told = ["<h1>Runs</h1>", _summary(runs)]
    if figures:
        told += ["<h2>Learning curves</h2>", parts.legend(named), _panels(figures)]
    for name, run in runs.items():
        told += [f"<h2>{html.escape(name)}</h2>", *_run(run)]
    return f"{_HEAD}<title>Shared arrays</title><style>{STYLE}</style>\n" + "\n".join(told)


def _run(run: dict[str, Any]) -> list[str]:
    told = []
    watched, load, layout, schema = plots.watched_figures(run), run.get("collision_load"), run.get("layout"), run.get("schema")  # fmt: skip
    if watched:
        told += ["<h3>The array in training</h3>", _panels(watched)]
    if layout:
        kinds = [(COLORS[kind], KINDS[kind]) for kind in kinds_of(layout)]
        told += ["<h3>The array, and which part each table reads</h3>", parts.legend(kinds), drawn_layout(layout)]
    if load:
        told += ["<h3>Its tables</h3>", _bars(run), f"<details><summary>All figures</summary>{_tables(run)}</details>"]
    else:
        told.append("<p>No shared array in this run.</p>")
    if schema:
        told += ["<h3>Its schema</h3>", parts.definitions({name: _text(value) for name, value in schema.items()})]
    return told


def _panels(figures: dict[str, str]) -> str:
    return parts.panels(parts.panel(label, svg) for label, svg in figures.items())


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(
            f"{name}: {_text(of)}" if isinstance(of, dict) else f"{name} ({of})" for name, of in value.items()
        )
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _summary(runs: dict[str, dict[str, Any]]) -> str:
    rows = [
        [name, run["embedding"], f"{run['embedding_bytes']:,}", f"{run['compression']:,.1f}x", f"{run['auroc_test']:.5f}",
         "-" if run["auroc_bayes"] is None else f"{run['auroc_bayes']:.5f}", f"{run['steps']:,}"]
        for name, run in runs.items()
    ]  # fmt: skip
    return parts.table(["run", "embedding", "bytes", "compression", "test AUROC", "Bayes", "steps"], rows)


def _bars(run: dict[str, Any]) -> str:
    """Of each table, a panel a figure."""
    load, ablation = run["collision_load"], run.get("ablation")
    hot = {name: table.get("hot_rows", 0) for name, table in ((run.get("layout") or {}).get("tables") or {}).items()}

    def of(figure: str) -> dict[str, float]:
        return {name: table[figure] for name, table in load.items()}

    found = [
        parts.bars("Bytes of its own", of("own_bytes"), _count),
        parts.bars("Bytes of its hashed region (tables may share one)", of("region_bytes"), _count),
        parts.bars("Collision load: hashed coordinates an element", of("rows_per_element"), "{:.3g}".format),
        parts.bars("Share of its reads that hashing loses", of("unresolved"), "{:.3f}".format),
    ]
    if any(hot.values()):
        found.append(parts.bars("Hot rows", hot, _count))
    if ablation:
        found.append(parts.bars("Test AUROC lost with its ids permuted", ablation, "{:+.5f}".format))
    return parts.panels(found, "columns")


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _tables(run: dict[str, Any]) -> str:
    ablation = run.get("ablation") or {}
    rows = [
        [name, load["kind"], f"{load['rows']:,}", str(load["width"]), f"{load['own_bytes']:,}", f"{load['region_bytes']:,}",
         f"{load['rows_per_element']:.3g}", f"{load['unresolved']:.3f}", f"{ablation[name]:+.5f}" if name in ablation else "-"]
        for name, load in run["collision_load"].items()
    ]  # fmt: skip
    head = ["table", "kind", "rows", "width", "own bytes", "hashed region", "coordinates an element", "hashing loses",
            "AUROC lost without it"]  # fmt: skip
    return parts.table(head, rows)
