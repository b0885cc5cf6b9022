"""A page about one or more runs of train_criteo.py.

    torchrec-pss report runs/demo runs/demo_full --output report.html

A RUN is a run's output folder, or its results.json. The page stands alone, plots inside: AUROC and loss, what the array did (runs with
``--watch``), where each table is in it, bytes, collisions and hot rows of each, and what each contributes (runs with ``--ablation``).
"""

import os
import sys
from pathlib import Path
from typing import Any

from torchrec_pss import json_fields as fields
from torchrec_pss.flags import command_parser
from torchrec_pss.report import layout_bar
from torchrec_pss.whole_file import read_json, refuse_overwriting, write_text

try:
    from torchrec_pss.report.page import page
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
    layout=fields.optional(layout_bar.check),
    schema=fields.optional(fields.mapping),
    full_embedding_bytes=fields.count,
    full_rows_counted=fields.text,
    world_size=fields.count,
    device=fields.text,
    bad_rows_read=fields.optional(fields.count),
    config=fields.mapping,
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
