"""A page about one or more runs of train_criteo.py.

    torchrec-pss report runs/demo runs/demo_full --output report.html

A RUN is a run's output folder, or its results.json. The page stands alone, plots inside: AUROC and loss, what the array did (runs with
``--watch``), bytes and collisions of each table, and what each contributes (runs with ``--ablation``).
"""

import base64
import html
import os
import sys
from pathlib import Path
from typing import Any

from torchrec_pss import json_fields as fields
from torchrec_pss.flags import command_parser
from torchrec_pss.whole_file import read_json, refuse_overwriting, write_text

try:
    from torchrec_pss.report import plots
except ImportError as error:
    print("error: the report needs matplotlib: pip install 'torchrec_pss[examples]'", file=sys.stderr)
    raise SystemExit(2) from error

_table = fields.fields(
    kind=fields.text,
    rows=fields.count,
    width=fields.count,
    own_bytes=fields.count,
    region_bytes=fields.count,
    rows_per_element=fields.amount,
    unresolved=fields.number,
)
_check = fields.fields(
    history=fields.history,
    auroc_test=fields.share,
    auroc_bayes=fields.optional(fields.share),
    embedding=fields.text,
    embedding_bytes=fields.count,
    compression=fields.amount,
    steps=fields.count,
)
# What runs of one kind or another do not have, and what the page does not show: a file that is wrong there is none of the script's.
_check_others = fields.present(
    collision_load=fields.optional(fields.values(_table)),
    ablation=fields.optional(fields.values(fields.number)),
    auroc_held_out=fields.share,
    auroc_val=fields.optional(fields.share),
    auroc_val_best=fields.optional(fields.share),
    auroc_dense_only=fields.optional(fields.share),
    auroc_test_half_interval=fields.optional(fields.amount),
    ne_test=fields.amount,
    logloss_test=fields.amount,
    calibration_test=fields.amount,
    grouped_by=fields.optional(fields.text),
    grouped_auroc_test=fields.optional(fields.share),
    grouped_groups=fields.optional(fields.count),
    grouped_rows_share=fields.optional(fields.share),
    of_pass=fields.optional(fields.count),
    target_reached=fields.truth,
    samples_per_second=fields.optional(fields.amount),
    train_seconds=fields.amount,
    layout=fields.optional(fields.mapping),
    full_embedding_bytes=fields.count,
    full_rows_counted=fields.text,
    world_size=fields.count,
    device=fields.text,
    bad_rows_read=fields.optional(fields.count),
    config=fields.mapping,
)
_STYLE = (
    "body{font-family:sans-serif;max-width:70em;margin:2em auto;padding:0 1em}img{max-width:100%}"
    "table{border-collapse:collapse;font-size:.85em}td,th{padding:.2em .7em;text-align:right;border-bottom:1px solid #ddd}"
    "td:first-child,th:first-child{text-align:left}"
)


def read_run(path: Path) -> dict[str, Any]:
    """A run's results.

    Raises:
        ValueError: there are none, or the file is not one that train_criteo.py writes; names it and the field, shown or not.
    """
    file = path / "results.json" if path.is_dir() else path
    name = printable(file)
    try:
        run = read_json(file)
        _check(run, "")
        _check_others(run, "")
    except FileNotFoundError as error:
        raise ValueError(f"{name} does not exist: the run has not ended, or has another folder") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} cannot be read as results of train_criteo.py: {printable(error)}") from error
    return run


def printable(name: object) -> str:
    """A path may hold bytes that are no text."""
    return os.fsencode(str(name)).decode(errors="replace")


def page(runs: dict[str, dict[str, Any]]) -> str:
    """The HTML of runs by name."""
    parts = [_summary(runs), _image(plots.curves(runs), "validation AUROC and training loss")]
    for name, run in runs.items():
        parts.append(f"<h2>{html.escape(name)}</h2>")
        watched, tables = plots.watched(run), plots.tables(run)
        if watched:
            parts += ["<h3>The array in training</h3>", _image(watched, "norms and shares")]
        if tables:
            parts += ["<h3>Its tables</h3>", _image(tables, "bytes, collisions and contributions"), _tables(run)]
        else:
            parts.append("<p>No shared array in this run.</p>")
    return f'<!doctype html><meta charset="utf-8"><title>Shared arrays</title><style>{_STYLE}</style>' + "\n".join(
        parts
    )


def _summary(runs: dict[str, dict[str, Any]]) -> str:
    rows = [
        [name, run["embedding"], f"{run['embedding_bytes']:,}", f"{run['compression']:,.1f}x", f"{run['auroc_test']:.5f}",
         "-" if run["auroc_bayes"] is None else f"{run['auroc_bayes']:.5f}", f"{run['steps']:,}"]
        for name, run in runs.items()
    ]  # fmt: skip
    return "<h1>Runs</h1>" + _html_table(
        ["run", "embedding", "bytes", "compression", "test AUROC", "Bayes", "steps"], rows
    )


def _tables(run: dict[str, Any]) -> str:
    ablation = run.get("ablation") or {}
    rows = [
        [name, load["kind"], f"{load['rows']:,}", str(load["width"]), f"{load['own_bytes']:,}", f"{load['region_bytes']:,}",
         f"{load['rows_per_element']:.3g}", f"{load['unresolved']:.3f}", f"{ablation[name]:+.5f}" if name in ablation else "-"]
        for name, load in run["collision_load"].items()
    ]  # fmt: skip
    head = ["table", "kind", "rows", "width", "own bytes", "hashed region", "coordinates an element", "hashing loses",
            "AUROC lost without it"]  # fmt: skip
    return _html_table(head, rows)


def _html_table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["".join(f"<th>{html.escape(cell)}</th>" for cell in head)]
    lines += ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _image(png: bytes, label: str) -> str:
    return f'<p><img alt="{label}" src="data:image/png;base64,{base64.b64encode(png).decode()}"></p>'


def main(argv: list[str] | None = None) -> None:
    parser = command_parser("report", __doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="output folder or results.json")
    parser.add_argument("--output", type=Path, default=Path("report.html"))
    args = parser.parse_args(argv)
    files = {f"RUN {printable(p)}": p / "results.json" if p.is_dir() else p for p in args.runs}
    try:
        refuse_overwriting({"--output": args.output}, files)
        runs = {printable(path): read_run(path) for path in args.runs}
    except ValueError as error:
        parser.error(str(error))
    try:
        write_text(args.output, page(runs))
    except OSError as error:
        parser.error(printable(f"--output {args.output} cannot be written: {error}"))
    print(f"{len(runs)} runs in {printable(args.output)}")


if __name__ == "__main__":
    main()
