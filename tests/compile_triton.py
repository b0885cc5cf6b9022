"""Compiles the Triton kernels for GPUs that are not there, and prints what the compiled code does, as JSON.

Runs in a process of its own: in the suite's Triton only interprets.

    python tests/compile_triton.py 80 90
"""

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import fields
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from torchrec_pss.ops.triton.backward import backward_kernel, projection_kernel
from torchrec_pss.ops.triton.forward import forward_kernel
from torchrec_pss.ops.triton.launches import Launch, ProjectionLaunch
from torchrec_pss.ops.triton.pack import pack_kernel
from torchrec_pss.ops.triton.rows import SIZES
from torchrec_pss.ops.triton.tiling import Tiling, backward_tiling, forward_tiling, projection_tiling
from torchrec_pss.ops.triton.update import update_kernel
from torchrec_pss.ops.update_kinds import UpdateKind

_POINTERS = {
    "array": "*fp32", "group_scales": "*bf16", "codes": "*u8", "scales": "*i16", "metadata": "*i64", "hot_keys": "*i32", "projections": "*fp32", "indices": "*i64", "offsets": "*i64",
    "weights": "*fp32", "out": "*fp32", "read": "*fp32", "numbers": "*i32", "fine": "*i32", "grad": "*fp32", "grad_array": "*fp32",
    "places": "*fp32", "contributions": "*fp32", "partials": "*fp32", "grad_weights": "*fp32", "sink": "*fp32",
    "state": "*fp32", "second": "*fp32",
}  # fmt: skip
_COMMON = {
    "VEC": 4, "UNITS": 4, "DIM": 16, "PROJECTED": True, "HASHED": True, "HOT": False, "CHECKED": False, "ALIGNED": True,
    "POOLING": 0, "WEIGHTED": False, "HASH": 0, "SIGN": True, "NARROW": True, "SORTED": False,
    "BITS": 32,
}  # fmt: skip
# What a layout makes of the kernels: blocks of 4 elements, the default layout's single ones, and reads at full width.
LAYOUTS = {
    "blocks": {},
    "default": {"VEC": 1, "UNITS": 8, "HOT": True},
    "wide": {"UNITS": 32, "DIM": 128, "PROJECTED": False},
    "projected to 128": {"UNITS": 4, "DIM": 128},
}


def compiled(kernel, constants: dict, warps: int, capability: int, array: str):
    """A kernel for ``sm_<capability>``, with pointers aligned to 16 bytes as PyTorch's allocator makes them."""
    pointers = _POINTERS | {"array": array}
    signature, attributes = {}, {}
    for position, name in enumerate(kernel.arg_names):
        plain = "i32" if name in (*SIZES, "numel") else "fp32"
        signature[name] = "constexpr" if name in constants else pointers.get(name, plain)
        if name in pointers:
            attributes[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})


def resources(cubin: bytes) -> dict[str, int]:
    """Registers, stack and local memory of a kernel, in Triton's own `cuobjdump`."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(cubin)
        text = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    return {name: int(re.search(rf"\b{name}:(\d+)", text)[1]) for name in ("REG", "STACK", "LOCAL")}


def widths(ptx: str, instruction: str) -> dict[str, int]:
    """How often an instruction on global memory occurs at each vector width (32-bit elements)."""
    found: dict[str, int] = {}
    for match in re.finditer(rf"\b{instruction}\.global\S*", ptx):
        width = re.search(r"\.v([248])\.", match[0] + ".")
        key = width[1] if width else "1"
        found[key] = found.get(key, 0) + 1
    return found


def main() -> None:
    report = []
    for capability in map(int, sys.argv[1:]):
        for layout, changes in LAYOUTS.items():
            constants = _COMMON | changes
            launch = Launch(**{f.name: constants.get(f.name.upper()) for f in fields(Launch)})
            report.append(describe(forward_kernel, constants, forward_tiling(launch), capability, layout))
            report.append(describe(backward_kernel, constants, backward_tiling(launch), capability, layout))
            if launch.projected:
                launch = ProjectionLaunch(launch.vec * launch.units, launch.dim, True, None)
                own = constants | {"WIDTH": launch.width}
                report.append(describe(projection_kernel, own, projection_tiling(launch), capability, layout))
        for bits in (4, 3):
            constants = _COMMON | {"BITS": bits, "WEIGHTED": True}
            launch = Launch(**{f.name: constants.get(f.name.upper()) for f in fields(Launch)})
            report.append(
                describe(forward_kernel, constants, forward_tiling(launch), capability, f"{bits} bits", "*u8")
            )
            report.append(
                describe(backward_kernel, constants, backward_tiling(launch), capability, f"{bits} bits", "*u8")
            )
            constants = {"FACTOR": 1 / (2 ** (bits - 1) - 0.5), "BITS": bits, "G": 32}
            report.append(describe(pack_kernel, constants, None, capability, f"{bits} bits"))
        for kind in UpdateKind:
            for array in ("*fp32", "*bf16"):
                constants = {"KIND": kind.value, "ALIGNED": True, "BLOCK": 1024}
                report.append(describe(update_kernel, constants, None, capability, kind.name, array))
    print(json.dumps(report, indent=1))


def describe(kernel, constants: dict, tiling: Tiling | None, capability: int, layout: str, array="*fp32"):
    if tiling:
        constants = constants | {"T": tiling.rows, "CHUNK": tiling.columns}
        constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    result = compiled(kernel, constants, tiling.warps if tiling else 4, capability, array)
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
        **resources(result.asm["cubin"]),
    }


if __name__ == "__main__":
    main()
