"""A whole DLRM step on two processes: full tables, sharded by TorchRec's planner, against the shared array.

    python -m benchmarks.bench_step [--quick] [--gbit 1 10] [--json FILE]

For each batch size and network it prints the step taken apart (input exchange, lookup, dense layers, all-reduces, optimizer), the bytes
that a rank sent (counted by the kernel, on the loopback or the cable), the whole step as users train it, and what the cost model of
`benchmarks.step_model` makes of the parts, with its error. Networks of limited bandwidth are made of namespaces, where that is allowed.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from benchmarks.limited_network import ADDRESSES, two_namespaces
from benchmarks.step_model import errors, predictions
from benchmarks.step_worker import SIDES
from torchrec_pss.flags import Parser, add_number
from torchrec_pss.whole_file import write_json

ROOT = Path(__file__).parents[1]
_PORT = 29611


@contextmanager
def network(gbit: float | None):
    """Commands' beginnings and interfaces of the two ranks, and the first one's address."""
    if gbit is None:
        yield [([], "lo"), ([], "lo")], "127.0.0.1"
    else:
        with two_namespaces(gbit) as ranks:
            yield ranks, ADDRESSES[0]


def run(ranks, address: str, settings: dict) -> dict:
    """Starts both ranks; what the first reports.

    Raises:
        RuntimeError: a rank failed, with the end of what it printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        processes = []
        for rank, (prefix, interface) in enumerate(ranks):
            flags = [f"--{name}={value}" for name, value in settings.items()]
            command = [*prefix, sys.executable, "-W", "ignore", "-m", "benchmarks.step_worker", *flags]
            command += [f"--interface={interface}", f"--json={report}"]
            environment = os.environ | {
                "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2",
                "MASTER_ADDR": address, "MASTER_PORT": str(_PORT), "GLOO_SOCKET_IFNAME": interface, "OMP_NUM_THREADS": "1",
            }  # fmt: skip
            log = open(Path(folder) / f"{rank}.log", "w")  # noqa: SIM115
            processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log))
        codes = [process.wait() for process in processes]
        if any(codes):
            logs = [(Path(folder) / f"{rank}.log").read_text()[-2000:] for rank in range(2)]
            raise RuntimeError(f"a rank failed, exit codes {codes}:\n" + "\n".join(logs))
        return json.loads(report.read_text())


def print_case(case: dict) -> None:
    where = "loopback" if case["gbit"] is None else f"{case['gbit']:g} Gbit/s"
    tqdm.write(f"\nbatch {case['batch_size']} a rank, {where}")
    names = list(case["shared array"]["parts"])
    tqdm.write(f"{'':18}" + "".join(f"{side + ', ms':>18}{'sent, kB':>12}" for side in SIDES))
    for name in names:
        cells = [case[side]["parts"][name] for side in SIDES]
        tqdm.write(f"{name:18}" + "".join(f"{c['seconds'] * 1e3:18.2f}{c['bytes_sent'] / 1e3:12.1f}" for c in cells))
    tqdm.write(f"{'whole step':18}" + "".join(f"{case[side]['seconds'] * 1e3:18.2f}{'':12}" for side in SIDES))
    ratios = [f"{side} {case['full']['seconds'] / case[side]['seconds']:.2f}" for side in list(SIDES)[1:]]
    tqdm.write(f"times as fast as full tables: {', '.join(ratios)}")


def main() -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one batch size, fewer turns")
    add_number(parser, "--gbit", nargs="*", default=[1.0, 10.0], help="limited networks besides the loopback")
    add_number(parser, "--embedding_dim", default=16)
    add_number(parser, "--array_bytes", default=2_000_000)
    add_number(parser, "--rows_share", default=0.5, help="of Kaggle's rows in the full tables")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    batches = [2048] if args.quick else [128, 2048, 8192]
    turns = 8 if args.quick else 16
    cases = []
    for gbit, batch_size in tqdm(list(itertools.product([None, *args.gbit], batches)), "cases"):
        case = {
            "gbit": gbit,
            "batch_size": batch_size,
            "array_bytes": args.array_bytes,
            "embedding_dim": args.embedding_dim,
        }
        try:
            with network(gbit) as (ranks, address):
                settings = {
                    "batch_size": batch_size, "turns": turns, "embedding_dim": args.embedding_dim,
                    "array_bytes": args.array_bytes, "rows_share": args.rows_share,
                }  # fmt: skip
                case |= run(ranks, address, settings)
        except RuntimeError as error:
            if "no network of limited bandwidth" not in str(error):
                raise
            tqdm.write(f"{gbit:g} Gbit/s left out: {error}")
            continue
        cases.append(case)
        print_case(case)
    report = {"cases": cases, "model_errors": errors(cases), "predictions": predictions()}
    for error in report["model_errors"]:
        print(
            f"cost model, batch {error['batch_size']}, {error['gbit']:g} Gbit/s, {error['side']}: predicted "
            f"{error['predicted'] * 1e3:.1f} ms, measured {error['measured'] * 1e3:.1f} ms ({error['error']:+.0%})"
        )
    for p in report["predictions"]:
        print(
            f"{p['machine']}, {p['array_bytes']}, batch {p['batch_size']} a GPU: full {p['full'] * 1e3:.2f} ms, "
            f"array {p['shared array'] * 1e3:.2f} ms of lookups and exchanges a step"
        )
    if args.json:
        write_json(args.json, report)


if __name__ == "__main__":
    main()
