"""What would the planner do with these tables on that cluster? No GPU, no cluster, no model.

    torchrec-pss plan --tables mlperf --world_size 8 --machine a100 --hbm 80GB --array_bytes 10MB --batch_size 2048
    torchrec-pss plan --tables tables.csv --world_size 16 --local_world_size 8 --array_bytes 100MB

Prints where each table goes, the parts of a step that the cost model predicts, and the same without the array and with all tables in it.
TorchRec looks at every shard of hundreds of proposals, and so thousands of tables or ranks take minutes: stderr says how far it is.
"""

import argparse
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torchrec.distributed.planner import Topology
from torchrec.distributed.planner.types import PlannerError

from torchrec_pss.advise.tables import from_logs
from torchrec_pss.datasets.table_list import ListedTable, read_table_list
from torchrec_pss.distributed.mixed_collection import EXACT, SHARED
from torchrec_pss.distributed.planner.machines import MACHINES, topology
from torchrec_pss.distributed.planner.report import PlanReport
from torchrec_pss.distributed.planner.types import MODES
from torchrec_pss.flags import add_number, command_parser, plot_path
from torchrec_pss.modules.pss_config import BITS
from torchrec_pss.plan.dry_run import dry_run
from torchrec_pss.progress import told
from torchrec_pss.whole_file import refuse_overwriting, write_json

_AMPLE = 1 << 50  # bytes of a rank
_ROOM = 1.3  # over what a plan's tables take: TorchRec keeps 15 % back, and room for ids


def _topology(args: argparse.Namespace) -> Topology:
    if args.compute_device == "cuda":
        return topology(args.machine, args.world_size, args.local_world_size, hbm=args.hbm, ddr=args.ddr)
    local = args.local_world_size or args.world_size
    return Topology(world_size=args.world_size, local_world_size=local, compute_device="cpu", ddr_cap=args.ddr)


def planned(args: argparse.Namespace, tables: list[ListedTable], mode: str) -> PlanReport:
    """Raises:
    PlannerError, ValueError: see `PSSShardingPlanner.plan`."""
    limits = {"max_compression": args.max_compression, "min_speedup": args.min_speedup, "bits": args.bits}
    with told(f"planning --pss {mode}", "proposal") as step:
        return dry_run(tables, _topology(args), mode, args.batch_size, args.array_bytes, **limits, step=step)


def _why_none(args: argparse.Namespace, tables: list[ListedTable], mode: str, error: PlannerError) -> str:
    """One line for TorchRec's many: of the mode that is asked for, which flag is too small, and what would do."""
    flag = "hbm" if args.compute_device == "cuda" else "ddr"
    enough = _enough(args, tables, mode, flag) if mode == args.pss else None  # more plans: it takes its time
    if enough is None:
        return f"no plan: {' '.join(str(error).split())}"
    return f"no plan: --{flag} {getattr(args, flag)}, bytes of a rank, is too small; a plan fits in {enough / 1e9:g}GB"


def _enough(args: argparse.Namespace, tables: list[ListedTable], mode: str, flag: str) -> int | None:
    """Bytes of a rank's memory that a plan was found for; None where memory is not what is lacking."""
    if mode == "auto" and args.max_compression is None:
        mode = "always"  # what "auto" comes to in the least memory
    try:
        wanted = planned(argparse.Namespace(**vars(args) | {flag: _AMPLE}), tables, mode).rank_bytes
        while wanted < _AMPLE:
            wanted = _rounded_up(wanted * _ROOM)
            try:
                planned(argparse.Namespace(**vars(args) | {flag: wanted}), tables, mode)
                return wanted
            except PlannerError:
                continue
    except PlannerError:
        pass
    return None


def _rounded_up(number: float) -> int:
    """To two digits."""
    unit = 10 ** max(len(str(int(number))) - 2, 0)
    return -int(-number // unit) * unit


@contextmanager
def _errors_only() -> Iterator[None]:
    """TorchRec warns of every array that it is "no sharding spec"."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _summary(report: PlanReport | str) -> str:
    if isinstance(report, str):
        return " no plan"
    shared = sum(t.kind in (EXACT, SHARED) for t in report.tables)
    return f"{shared:15}{report.rank_bytes / 1e9:18.3f}{report.total_milliseconds:12.3f}  {report.parts}"


def main(argv: list[str] | None = None) -> int:
    parser = command_parser("plan", __doc__)
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--tables", help="kaggle, mlperf, or a JSON/CSV list of name, rows, and optionally dim, pooling")
    data.add_argument("--data_path", help="instead, click logs whose ids are counted, as torchrec_pss.advise does")
    parser.add_argument("--schema", help="of --data_path, where it is not Criteo's text")
    add_number(parser, "--sample_rows", default=1_000_000, help="rows of --data_path to count")
    add_number(parser, "--embedding_dim", help="where a list has no dim: 128; kaggle and --data_path 16")
    add_number(parser, "--world_size", default=8)
    add_number(parser, "--local_world_size", help="ranks a host (default: all on one)")
    parser.add_argument("--compute_device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument(
        "--machine", choices=MACHINES, default="a100", help="whose bandwidths to take (of cpu: TorchRec's defaults)"
    )
    add_number(parser, "--hbm", default="80GB", help="a GPU's memory; TorchRec keeps 15 %% of it back")
    add_number(parser, "--ddr", default="128GB", help="a rank's share of its host's memory")
    add_number(parser, "--batch_size", default=2048, help="of a rank")
    add_number(parser, "--array_bytes", default="10MB")
    add_number(parser, "--bits", choices=BITS, default=32, help="of a stored element (docs/how/bits.md)")
    parser.add_argument("--pss", choices=MODES, default="auto")
    add_number(parser, "--max_compression", help="full tables' bytes over the array's, at most")
    add_number(parser, "--min_speedup", default=1.1, help='of "auto": what sharing tables that fit must be worth')
    parser.add_argument("--json", type=Path, help="writes the plans of all three modes")
    parser.add_argument(
        "--plot", type=plot_path, help="draws bytes of each rank and parts of a step of all three (needs matplotlib)"
    )
    args = parser.parse_args(argv)
    if args.world_size % (args.local_world_size or args.world_size):
        parser.error(f"--world_size {args.world_size} is no multiple of --local_world_size {args.local_world_size}")
    found: dict[str, PlanReport | str] = {}
    try:
        refuse_overwriting(
            {"--json": args.json, "--plot": args.plot}, {"--tables": args.tables, "--data_path": args.data_path}
        )
        if args.schema is not None and not args.data_path:
            raise ValueError("--schema makes no sense without --data_path")
        if args.data_path:
            tables = from_logs(args.data_path, args.sample_rows, args.embedding_dim, schema=args.schema).listed()
        else:
            tables = read_table_list(args.tables, args.embedding_dim)
        with _errors_only():
            for mode in dict.fromkeys([args.pss, *MODES]):
                try:
                    found[mode] = planned(args, tables, mode)
                except PlannerError as error:
                    found[mode] = _why_none(args, tables, mode, error)
                except ValueError as error:  # as "always" refuses a --max_compression that "auto" keeps to
                    if mode == args.pss:
                        raise
                    found[mode] = f"no plan: {error}"
                if mode == args.pss:  # the others are for comparison, and may take longer
                    print(
                        f"--pss {mode}: {args.world_size} ranks, {args.batch_size} rows a rank\n\n{found[mode]}\n",
                        flush=True,
                    )
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    print(f"{'--pss':8}{'tables shared':>15}{'largest rank, GB':>18}{'ms a step':>12}  parts")
    for mode, report in sorted(found.items()):
        print(f"{mode:8}{_summary(report)}")
    if args.json:
        plans = {mode: r if isinstance(r, str) else r.as_json() for mode, r in found.items()}
        try:
            write_json(args.json, plans)
        except (OSError, ValueError) as error:
            parser.error(f"--json {args.json} cannot be written: {error}")
    if args.plot:
        from torchrec_pss.plan.plots import draw  # matplotlib, only where it is asked for

        try:
            draw(args.plot, found)
        except (OSError, ValueError) as error:
            parser.error(f"--plot {args.plot} cannot be written: {error}")
    return 0 if isinstance(found[args.pss], PlanReport) else 1


if __name__ == "__main__":
    raise SystemExit(main())
