"""The cost model of a step: the whole step on the loopback, and what the cable takes beyond what its exchanges took there.

    seconds = whole step on the loopback + max(0, bytes that a rank sends / bandwidth - exchanges on the loopback)

The exchanges are the parts that do nothing else: of ids, and the all-reduces. What they copy and sum on the loopback they do on a cable
too, while it sends. That none of it is hidden behind the dense layers' backward is the model's assumption, and its error says how well it
holds.

For GPUs nothing can be measured here. `predictions` are the planner's own (`torchrec-pss plan`): lookups, exchanges and updates;
the dense layers, the same on both sides, are left out, and so are the latencies of collectives.
"""

from collections.abc import Sequence

from torchrec_pss.datasets.table_list import read_table_list
from torchrec_pss.distributed.planner.machines import MACHINES, topology
from torchrec_pss.plan.dry_run import dry_run

_GPUS = 8
_ARRAYS = ("10MB", "100MB")
_BATCHES = (256, 2048, 8192)
_EXCHANGES = ("input exchange", "all-reduce dense", "all-reduce array")


def errors(cases: list[dict]) -> list[dict]:
    """Predicted and measured whole steps on the limited networks."""
    base = {(case["batch_size"], side): case[side] for case in cases if case["gbit"] is None for side in _sides(case)}
    found = []
    for case in cases:
        if case["gbit"] is None:
            continue
        for side in _sides(case):
            start = base[case["batch_size"], side]
            sent = sum(part["bytes_sent"] for part in start["parts"].values())
            exchanges = sum(start["parts"][name]["seconds"] for name in _EXCHANGES)
            predicted = start["seconds"] + max(0.0, sent / (case["gbit"] * 1e9 / 8) - exchanges)
            measured = case[side]["seconds"]
            found.append(
                {
                    "batch_size": case["batch_size"], "gbit": case["gbit"], "side": side, "predicted": predicted,
                    "measured": measured, "error": predicted / measured - 1,
                }
            )  # fmt: skip
    return found


def _sides(case: dict) -> list[str]:
    return [side for side, found in case.items() if isinstance(found, dict)]


def predictions(
    machines: Sequence[str] = tuple(MACHINES), batches: Sequence[int] = _BATCHES, arrays: Sequence[str] = _ARRAYS
) -> list[dict]:
    """Seconds a step of the slowest of 8 GPUs, of MLPerf's 26 tables (D 128, one id a bag) in full and in one array."""
    tables, found = read_table_list("mlperf"), []
    for machine in machines:
        gpus = topology(machine, _GPUS, hbm=80 * 10**9)
        for batch_size in batches:
            full = dry_run(tables, gpus, "never", batch_size).total_milliseconds / 1e3
            for array_bytes in arrays:
                array = dry_run(tables, gpus, "always", batch_size, array_bytes).total_milliseconds / 1e3
                name = {"machine": f"{_GPUS} x {machine.upper()}", "array_bytes": array_bytes, "batch_size": batch_size}
                found.append(name | {"full": full, "shared array": array})
    return found
