"""With this many bytes, what AUROC, how many steps, how fast a lookup?

    torchrec-pss advise --data_path train.txt --target_drop 0.001
    torchrec-pss advise --tables tables.csv

Prints a line for each compression: bytes, predicted loss of AUROC against full tables with a 90 % interval, steps to get there over
those of full tables, time of a lookup measured here, and the layout. Ends with a recommendation, which may be not to compress.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torchrec_pss.advise.lookup_time import step_milliseconds
from torchrec_pss.advise.prediction import Calibration
from torchrec_pss.advise.tables import Described, from_list, from_logs
from torchrec_pss.density import is_dense
from torchrec_pss.flags import add_number, command_parser, plot_path
from torchrec_pss.modules.allocation import allocate
from torchrec_pss.modules.array_layout import ArrayLayout
from torchrec_pss.modules.auto_bits import with_bits
from torchrec_pss.modules.auto_layout import choose
from torchrec_pss.modules.lost_share import lost_share
from torchrec_pss.modules.pss_config import AUTO_BITS, BITS, PSSConfig
from torchrec_pss.progress import told
from torchrec_pss.whole_file import refuse_overwriting, write_json

COMPRESSIONS = (4, 10, 30, 100, 300, 1000, 3000, 10_000)
_ITEMSIZE = 4


def advise(
    described: Described, calibration: Calibration, batch_size: int, measure: bool = True, bits: int | str = 32
) -> list[dict[str, Any]]:
    """A row for each compression that a layout exists for; stderr says how far it is."""
    with told("dividing the array and measuring lookups", "compression", len(COMPRESSIONS)) as step:
        return _rows(described, calibration, batch_size, measure, step, bits)


def _rows(
    described: Described,
    calibration: Calibration,
    batch_size: int,
    measure: bool,
    step: Callable[[], None],
    bits: int | str,
) -> list[dict[str, Any]]:
    full = sum(t.num_embeddings * t.embedding_dim for t in described.tables) * _ITEMSIZE
    rows = []
    for compression in COMPRESSIONS:
        config = PSSConfig(
            array_bytes=full // compression, counts=described.counts, exact="auto" if described.contiguous else (), bits=bits
        ) if full >= compression else None  # fmt: skip
        try:
            if config is None:
                break
            config = with_bits(described.tables, config)
            layout = allocate(described.tables, choose(described.tables, config, _ITEMSIZE), _ITEMSIZE)
        except ValueError:  # too small, or more elements than the format has slots for
            step()
            continue
        share = lost_share(layout, described.counts, described.reads_per_count)
        milliseconds = step_milliseconds(described.tables, config, described.counts, batch_size) if measure else None
        rows.append(
            {
                "compression": compression,
                "bytes": layout.embedding_bytes,
                "bits": layout.bits,
                "lost_share": share,
                "drop": asdict(calibration.drop(share)),
                "steps_ratio": asdict(calibration.steps_ratio(share)),
                "lookup_ms": milliseconds,
                "layout": _summary(layout),
            }
        )
        step()
    return rows


def recommend(rows: list[dict[str, Any]], target_drop: float) -> dict[str, Any] | None:
    """The smallest bytes whose interval ends at or below the target; None: do not compress."""
    fitting = [row for row in rows if row["drop"]["high"] <= target_drop]
    return min(fitting, key=lambda row: row["bytes"], default=None)


def _summary(layout: ArrayLayout) -> str:
    exact = sum(t.is_exact for t in layout.tables)
    hot = sum(t.num_hot for t in layout.tables)
    widths = sorted({t.width for t in layout.tables})
    prefix = max(t.prefix for t in layout.tables if not t.is_exact) if exact < len(layout.tables) else 0
    parts = [
        f"{layout.bits} bits",
        f"width {'/'.join(map(str, widths))}",
        f"{exact} exact",
        f"{len(layout.tables) - exact} shared",
    ]
    if prefix:
        parts.append(f"prefix {prefix}")
    if hot:
        parts.append(f"{hot:,} hot rows")
    return ", ".join(parts)


def main(argv: list[str] | None = None) -> None:
    parser = command_parser("advise", __doc__)
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--data_path", help="Criteo file or folder, or its URL; the counts are those of its first rows")
    data.add_argument("--tables", help="kaggle, mlperf, or a JSON/CSV list of name, rows, and optionally dim, skew")
    parser.add_argument(
        "--schema", help="of --data_path, if it is not Criteo's: a JSON or YAML file that names its columns"
    )
    add_number(parser, "--sample_rows", default=1_000_000, help="rows of --data_path to count")
    add_number(
        parser, "--train_rows", help="that will be trained on (default: all of --data_path; of --tables 10 million)"
    )
    add_number(parser, "--embedding_dim", help="where --tables has no dim: 128; kaggle and --data_path 16")
    add_number(parser, "--skew", default=1.1, help="of ids' power law, where --tables has none")
    add_number(parser, "--target_drop", default=0.001, help="AUROC that may be lost")
    add_number(parser, "--batch_size", default=4096, help="of the lookup's measurement")
    add_number(
        parser,
        "--bits",
        [AUTO_BITS],
        choices=(*BITS, AUTO_BITS),
        default=32,
        help="of a stored element (docs/how/bits.md)",
    )
    parser.add_argument("--json", type=Path, help="also write all of it here")
    parser.add_argument("--plot", type=plot_path, help="also draw it here (needs matplotlib)")
    args = parser.parse_args(argv)
    try:
        inputs = {"--data_path": args.data_path, "--tables": args.tables}
        refuse_overwriting({"--json": args.json, "--plot": args.plot}, inputs)
        if args.schema is not None and not args.data_path:
            raise ValueError("--schema makes no sense without --data_path")
        if args.data_path:
            described = from_logs(args.data_path, args.sample_rows, args.embedding_dim, args.train_rows, args.schema)
        else:
            described = from_list(args.tables, args.embedding_dim, args.skew, args.train_rows)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))

    calibration = Calibration.load()
    full = sum(t.num_embeddings * t.embedding_dim for t in described.tables) * _ITEMSIZE
    print(f"{described.source}: {len(described.tables)} tables, {full:,} bytes in full")
    reads = described.reads_per_count * max((c.total for c in described.counts.values()), default=0)
    dense = is_dense(reads, [t.num_embeddings for t in described.tables])
    if dense:
        print(
            "This is a dense log: few ids, each read often. train_criteo.py numbers them, and loses less than the table below says: measure (docs/results/quality.md)"
        )
    rows = advise(described, calibration, args.batch_size, bits=args.bits)
    print(f"{'compression':>11} {'bytes':>15} {'AUROC lost':>10} {'90 %':>18} {'steps':>6} {'lookup ms':>9}  layout")
    for row in rows:
        drop, steps = row["drop"], row["steps_ratio"]
        took = f"{row['lookup_ms']:.1f}" if row["lookup_ms"] is not None else "-"
        print(
            f"{row['compression']:>10,}x {row['bytes']:>15,} {drop['expected']:>10.4f} "
            f"{drop['low']:>8.4f} .. {drop['high']:.4f} {steps['expected']:>5.1f}x {took:>9}  {row['layout']}"
        )
    best = recommend(rows, args.target_drop)
    if best is None:
        nearest = min(rows, key=lambda row: row["drop"]["high"], default=None)
        instead = f"; {nearest['compression']:,}x does within {nearest['drop']['high']:.4f}" if nearest else ""
        print(f"do not compress: no budget keeps the loss within {args.target_drop} with 95 % confidence{instead}")
    else:
        print(
            f"compress {best['compression']:,}x, --bits {best['bits']}: {best['bytes']:,} bytes keep the loss within {args.target_drop}"
        )
    if args.plot and not rows:
        parser.error(f"--plot {args.plot} is not drawn: no compression has a layout for these tables")
    try:
        if args.json:
            found = {
                "full_bytes": full,
                "rows": rows,
                "recommended": best,
                "coverage": calibration.coverage(),
                "dense_log": dense,
            }
            write_json(args.json, found)
        if args.plot:
            from torchrec_pss.advise.plots import draw  # matplotlib, only where it is asked for

            draw(args.plot, rows, args.target_drop, best)
    except (OSError, ValueError) as error:
        flags = " or ".join(f"--{name} {value}" for name in ("json", "plot") if (value := getattr(args, name)))
        parser.error(f"{flags} cannot be written: {error}")


if __name__ == "__main__":
    main()
