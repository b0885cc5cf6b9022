"""Triton kernels compiled for GPUs that are not there, and what the compiled code takes. Not for processes in which Triton interprets."""

import re
import subprocess
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from torchrec_pss.ops.triton.launches import Launch
from torchrec_pss.ops.triton.rows import SIZES

_POINTERS = {
    "array": "*fp32", "group_scales": "*bf16", "codes": "*u8", "scales": "*i16", "metadata": "*i64", "hot_keys": "*i32", "projections": "*fp32", "indices": "*i64", "offsets": "*i64",
    "weights": "*fp32", "out": "*fp32", "read": "*fp32", "numbers": "*i32", "fine": "*i32", "grad": "*fp32", "grad_read": "*fp32", "grad_array": "*fp32",
    "places": "*fp32", "contributions": "*fp32", "partials": "*fp32", "grad_weights": "*fp32", "sink": "*fp32",
    "state": "*fp32", "second": "*fp32",
}  # fmt: skip
COMMON = {
    "VEC": 4, "UNITS": 4, "DIM": 16, "PROJECTED": True, "HASHED": True, "HOT": False, "CHECKED": False, "ALIGNED": True,
    "POOLING": 0, "WEIGHTED": False, "HASH": 0, "SIGN": True, "NARROW": True, "SORTED": False, "BITS": 32,
}  # fmt: skip
_TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
_REGISTERS, _SHARED, _WARPS = (
    65536,
    227 << 10,
    64,
)  # of a multiprocessor of sm_90 and sm_100; sm_80 has 164 kB of shared memory


def launch_of(constants: dict[str, Any]) -> Launch:
    """The launch that has these constants."""
    return Launch(**{f.name: constants.get(f.name.upper()) for f in fields(Launch)})


def compiled(
    kernel: Any,
    constants: dict[str, Any],
    warps: int,
    capability: int,
    array: str = "*fp32",
    registers: int | None = None,
) -> Any:
    """A kernel for ``sm_<capability>``, with pointers aligned to 16 bytes as PyTorch's allocator makes them.

    Args:
        constants: those that the kernel does not have are left out.
        array: Triton's type of the array.
        registers: at most so many a thread.
    """
    pointers = _POINTERS | {"array": array}
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    signature, attributes = {}, {}
    for position, name in enumerate(kernel.arg_names):
        plain = "i32" if name in (*SIZES, "numel") else "fp32"
        signature[name] = "constexpr" if name in constants else pointers.get(name, plain)
        if name in pointers:
            attributes[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    options = {"num_warps": warps} | ({} if registers is None else {"maxnreg": registers})
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def resources(result: Any) -> dict[str, int]:
    """Of a compiled kernel: registers and stack of a thread, bytes of local memory (what is spilled) and of shared memory."""
    text = _tool("cuobjdump", "--dump-resource-usage", result.asm["cubin"])
    found = {name: int(re.search(rf"\b{name}:(\d+)", text)[1]) for name in ("REG", "STACK", "LOCAL")}
    return found | {"SHARED": result.metadata.shared}


def instructions(result: Any) -> int:
    """Of the machine code, each counted once."""
    text = _tool("cuobjdump", "-sass", result.asm["cubin"])
    return len(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?!NOP)\S", text, re.MULTILINE))


def warps_at_once(registers: int, shared: int, warps: int) -> int:
    """How many warps a multiprocessor of sm_90 holds at once, of programs that take so much."""
    by_registers = _REGISTERS // (-(-registers // 8) * 8 * 32) // warps * warps
    by_memory = _SHARED // (shared + 1024) * warps
    return min(_WARPS // warps * warps, 32 * warps, by_registers, by_memory)


def widths(ptx: str, instruction: str) -> dict[str, int]:
    """How often an instruction on global memory occurs at each vector width (32-bit elements)."""
    found: dict[str, int] = {}
    for match in re.finditer(rf"\b{instruction}\.global\S*", ptx):
        width = re.search(r"\.v([248])\.", match[0] + ".")
        key = width[1] if width else "1"
        found[key] = found.get(key, 0) + 1
    return found


def _tool(name: str, flag: str, cubin: bytes) -> str:
    """What a tool that comes with Triton says of a kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(cubin)
        command = [_TOOLS / name, flag, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
