"""The cost model of a step: the whole step on the loopback, and what the cable takes beyond what its exchanges took there.

    seconds = whole step on the loopback + max(0, bytes that a rank sends / bandwidth - exchanges on the loopback)

The exchanges are the parts that do nothing else: of ids, and the all-reduces. What they copy and sum on the loopback they do on a cable
too, while it sends. That none of it is hidden behind the dense layers' backward is the model's assumption, and its error says how well it
holds.

For GPUs nothing can be measured here. `predictions` takes published figures and counts only lookups, exchanges and the array's
optimizer; the dense layers, the same on both sides, are left out.
"""

from torchrec_pss.distributed.planner.step_time import array_step_time

# Published: HBM bytes/s and, a direction, NVLink bytes/s a GPU (NVIDIA A100 80GB and H100 SXM data sheets), cut to what copies and
# ring all-reduces reach of them.
_MACHINES = {
    "8 x A100": {"memory": 2.0e12, "link": 300e9},
    "8 x H100": {"memory": 3.35e12, "link": 450e9},
}
_REACHED = 0.8
_LATENCY = 20e-6  # seconds a collective
_GPUS, _FEATURES, _DIM = 8, 26, 128
_BYTES = 4
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


def predictions() -> list[dict]:
    """Seconds a step of lookups and their exchanges, 26 features of D = 128, one id a bag, 8 GPUs."""
    found = []
    for machine, figures in _MACHINES.items():
        memory, link = figures["memory"] * _REACHED, figures["link"] * _REACHED
        for array_bytes in (10e6, 100e6):
            for batch_size in (256, 2048, 8192):
                output = batch_size * _FEATURES * _DIM * _BYTES
                others = (_GPUS - 1) / _GPUS
                # Ids out, embeddings back and their gradients out; rows read, rows and SGD's update written.
                exchange = (batch_size * _FEATURES * 8 + 2 * output) * others / link + 3 * _LATENCY
                full = exchange + 4 * output / memory
                # The array itself stays in the L2 cache while it fits; its ids, few beside the output, are left out.
                array = array_step_time(
                    input_bytes=0, output_bytes=output, array_bytes=array_bytes, world_size=_GPUS,
                    memory_bandwidth=memory, link_bandwidth=link, latency=_LATENCY,
                )  # fmt: skip
                found.append(
                    {
                        "machine": machine, "array_bytes": array_bytes, "batch_size": batch_size, "full": full,
                        "shared array": array.total,
                    }
                )  # fmt: skip
    return found
