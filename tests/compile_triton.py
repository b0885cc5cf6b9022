"""Compiles the Triton kernels that lookups take by rule for GPUs that are not there, and prints what the compiled code does, as JSON.

Runs in a process of its own: in the suite's Triton only interprets. All variants are in benchmarks/results/gpu_offline.json.

    python tests/compile_triton.py 80 90
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.compiled_kernels import COMMON, compiled, launch_of, resources, widths
from torchrec_pss.ops.triton.backward import backward_kernel, projection_kernel
from torchrec_pss.ops.triton.choices import backward_constants, forward_constants, projection_constants
from torchrec_pss.ops.triton.forward import forward_kernel
from torchrec_pss.ops.triton.launches import ProjectionLaunch
from torchrec_pss.ops.triton.pack import pack_kernel
from torchrec_pss.ops.triton.tiling import backward_rule, forward_rule, projection_rule
from torchrec_pss.ops.triton.update import update_kernel
from torchrec_pss.ops.update_kinds import UpdateKind

# What a layout makes of the kernels: blocks of 4 elements, the default layout's single ones, and reads at full width.
LAYOUTS = {
    "blocks": {},
    "default": {"VEC": 1, "UNITS": 8, "HOT": True},
    "wide": {"UNITS": 32, "DIM": 128, "PROJECTED": False},
    "projected to 128": {"UNITS": 4, "DIM": 128},
}


def of_lookup(changes: dict, capability: int, layout: str, array: str) -> list[dict]:
    """Forward and backward kernel of a launch."""
    constants = COMMON | changes
    launch = launch_of(constants)
    forward, backward = forward_rule(launch, 1.0), backward_rule(launch, 1.0)
    own, other = forward_constants(launch, forward), backward_constants(launch, backward, launch.projected)
    return [
        describe(forward_kernel, constants | own, forward.warps, capability, layout, array),
        describe(backward_kernel, constants | other, backward.warps, capability, layout, array),
    ]


def main() -> None:
    report = []
    for capability in map(int, sys.argv[1:]):
        for layout, changes in LAYOUTS.items():
            report += of_lookup(changes, capability, layout, "*fp32")
            launch = launch_of(COMMON | changes)
            if launch.projected:
                projection = ProjectionLaunch(launch.vec * launch.units, launch.dim, True, None)
                v = projection_rule(projection)
                own = projection_constants(projection, v, v.adds)
                report.append(describe(projection_kernel, COMMON | changes | own, v.warps, capability, layout))
        for bits in (4, 3):
            report += of_lookup({"BITS": bits, "WEIGHTED": True}, capability, f"{bits} bits", "*u8")
            constants = {"FACTOR": 1 / (2 ** (bits - 1) - 0.5), "BITS": bits, "G": 32}
            report.append(describe(pack_kernel, constants, 4, capability, f"{bits} bits"))
        for kind in UpdateKind:
            for array in ("*fp32", "*bf16"):
                constants = {"KIND": kind.value, "ALIGNED": True, "BLOCK": 1024}
                report.append(describe(update_kernel, constants, 4, capability, kind.name, array))
    print(json.dumps(report, indent=1))


def describe(kernel: Any, constants: dict, warps: int, capability: int, layout: str, array: str = "*fp32") -> dict:
    result = compiled(kernel, constants, warps, capability, array)
    ptx = result.asm["ptx"]
    return {
        "kernel": kernel.fn.__name__,
        "layout": layout,
        "array": array,
        "capability": capability,
        "loads": widths(ptx, "ld"),
        "stores": widths(ptx, "st"),
        "reductions": widths(ptx, "red") | widths(ptx, "atom"),
        "waits before it writes": "barrier" in result.asm["ttgir"].partition("tt.store")[0],
        **resources(result),
    }


if __name__ == "__main__":
    main()
