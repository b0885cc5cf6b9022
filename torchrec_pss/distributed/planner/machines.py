"""GPUs by name, as TorchRec's `Topology`: what they move a second, for the planner's dry run and `benchmarks/step_model.py`."""

from dataclasses import dataclass

from torchrec.distributed.planner import Topology

from torchrec_pss.ranges import checked

_REACHED = 0.8  # of published bandwidths, by copies and by ring all-reduces
_MS = 1000


@dataclass(frozen=True)
class Machine:
    """Published bytes a second of a GPU: its memory, and its NVLink in one direction (NVIDIA's data sheets, SXM)."""

    memory: float
    link: float


MACHINES = {"a100": Machine(2.0e12, 300e9), "h100": Machine(3.35e12, 450e9)}


def topology(
    machine: str,
    world_size: int,
    local_world_size: int | None = None,
    *,
    hbm: int | str | None = None,
    ddr: int | str | None = None,
) -> Topology:
    """Of hosts with so many of these GPUs.

    Args:
        machine: a name in `MACHINES`.
        local_world_size: GPUs a host; all on one by default. Between hosts, TorchRec's default bandwidth.
        hbm, ddr: bytes, or text such as "80GB", of a GPU's memory, and of its share of the host's; TorchRec's defaults.

    Raises:
        ValueError: a number that is none or out of range, or hosts that have not all the same number of GPUs.
    """
    figures = MACHINES[machine]
    world_size = checked("world_size", world_size)
    local_world_size = world_size if local_world_size is None else checked("local_world_size", local_world_size)
    if world_size % local_world_size:
        raise ValueError(f"world_size {world_size} is no multiple of local_world_size {local_world_size}")
    return Topology(
        world_size=world_size,
        local_world_size=local_world_size,
        compute_device="cuda",
        hbm_cap=None if hbm is None else checked("hbm", hbm),
        ddr_cap=None if ddr is None else checked("ddr", ddr),
        hbm_mem_bw=_REACHED * figures.memory / _MS,
        intra_host_bw=_REACHED * figures.link / _MS,
    )
