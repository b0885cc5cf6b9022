"""Compiles every variant of the GPU kernels for GPUs that are not there: registers, spills, instructions, bytes.

    python -m benchmarks.gpu_offline [--processes 2] [--json benchmarks/results/gpu_offline.json]

For each launch that stands for a layout, few ids a bag and many, every candidate of `torchrec_pss.ops.triton.candidates` is compiled for
sm_80, sm_90 and sm_100. What is fast only a device can tell (`benchmarks.gpu_tournament`); what spills, or leaves a multiprocessor few
warps, can be told here. ``stack`` above 0 are spills; ``warps`` are those that a multiprocessor of sm_90 holds at once;
``instructions a byte`` are those that a warp issues for a byte of output in bags of one id, loops counted once. Kernels that the file has
already are not compiled again.
"""

import ast
import hashlib
import itertools
import json
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from torchrec_pss.flags import Parser, add_number
from torchrec_pss.ops.triton import candidates
from torchrec_pss.ops.triton.choices import (
    backward_constants,
    forward_constants,
    product_constants,
    projection_constants,
)
from torchrec_pss.ops.triton.launches import Launch, ProjectionLaunch
from torchrec_pss.ops.triton.tiling import backward_rule, forward_rule, kind_of, projection_rule
from torchrec_pss.ops.triton.variants import Backward, Forward, Product, Projection
from torchrec_pss.whole_file import write_json

CAPABILITIES = (80, 90, 100)
RESULTS = Path(__file__).parent / "results/gpu_offline.json"
_KERNELS = Path(candidates.__file__).parent
_SOURCES = ("addresses", "backward", "columns", "elements", "forward", "product", "reads", "rows")
# The default layout's reads of single elements, and plain rows in blocks of 4.
LAUNCHES = [
    Launch(vec, units, dim, projected, True, projected, not projected, True, None)
    for vec, units, dim, projected in (
        (1, 8, 16, True), (1, 8, 64, True), (1, 8, 128, True), (4, 4, 16, False), (4, 16, 64, False), (4, 32, 128, False)
    )
]  # fmt: skip
BAGS = (1.0, 20.0)
_WRITTEN_EVERY = 50  # kernels


class Task(NamedTuple):
    """A kernel to be compiled; ``rows`` of ``dim`` columns are what a program gives."""

    kernel: str
    kind: str
    variant: Forward | Backward | Projection | Product
    constants: dict[str, Any]
    rows: int
    dim: int
    capability: int


def tasks() -> Iterator[Task]:
    """All, each kernel of a variant once."""
    seen = set()
    for capability in CAPABILITIES:
        for group in LAUNCHES:
            for bag in BAGS:
                for task in _of_launch(group, bag, capability):
                    if _key(task) not in seen:
                        seen.add(_key(task))
                        yield task


def _key(task: Task) -> str:
    return json.dumps([task.kernel, task.kind, asdict(task.variant), task.capability])


def _known(path: Path) -> dict[str, dict[str, Any]]:
    """Rows of an earlier table of the same kernels."""
    table = json.loads(path.read_text()) if path.exists() else {}
    rows = table["kernels"] if table.get("sources") == sources() else []
    return {json.dumps([r["kernel"], r["launch"], r["variant"], r["capability"]]): r for r in rows}


def _of_launch(group: Launch, bag: float, capability: int) -> Iterator[Task]:
    kind = kind_of(group, bag)
    for v in candidates.forward_candidates(group, bag):
        yield Task("forward_kernel", kind, v, forward_constants(group, v), v.rows, group.dim, capability)
        if group.projected and v.product is not None:
            p = v.product
            constants = product_constants(group, p)
            yield Task("product_kernel", f"dim {group.dim}", p, constants, p.rows, group.dim, capability)
    for v in candidates.backward_candidates(group, bag):
        constants = backward_constants(group, v, group.projected)
        yield Task("backward_kernel", kind, v, constants, v.rows, group.dim, capability)
        if group.projected:
            name, constants = "backward_kernel after read_gradient_kernel", backward_constants(group, v, False)
            yield Task(name, kind, v, constants, v.rows, group.dim, capability)
    launch = _projection_of(group)
    for v in candidates.projection_candidates(launch) if group.projected else ():
        name = "read_gradient_kernel" if v.reads else "projection_kernel"
        constants = projection_constants(launch, v, v.adds)
        yield Task(name, kind_of(launch), v, constants, v.rows, group.dim, capability)


def describe(task: Task) -> dict[str, Any]:
    """A row of the table."""
    from benchmarks import compiled_kernels as compiling
    from torchrec_pss.ops.triton import backward, forward, product

    name = task.kernel.split()[0]
    kernel = next(getattr(module, name) for module in (forward, backward, product) if hasattr(module, name))
    own = {"kernel": task.kernel, "launch": task.kind, "variant": asdict(task.variant), "capability": task.capability}
    registers = getattr(task.variant, "registers", None)
    warps = task.variant.warps
    constants = compiling.COMMON | task.constants
    result = compiling.compiled(kernel, constants, warps, task.capability, registers=registers)
    found, issued = compiling.resources(result), compiling.instructions(result)
    return own | {
        "registers": found["REG"],
        "stack": found["STACK"],
        "local": found["LOCAL"],
        "shared": found["SHARED"],
        "instructions": issued,
        "bytes": len(result.asm["cubin"]),
        "warps": compiling.warps_at_once(found["REG"], found["SHARED"], warps),
        "instructions a byte": round(issued * warps / (task.rows * task.dim * 4), 3),
    }


def sources() -> str:
    """SHA-256 of the kernels' code, comments aside: a table of other code is not this one's."""
    trees = [ast.dump(ast.parse((_KERNELS / f"{name}.py").read_text())) for name in _SOURCES]
    return hashlib.sha256("".join(trees).encode()).hexdigest()


def defaults(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of a table's rows those of the kernels that lookups take by rule."""
    by_rule = {("projection_kernel", kind_of(g)): asdict(projection_rule(g)) for g in map(_projection_of, LAUNCHES)}
    for group, bag in itertools.product(LAUNCHES, BAGS):
        by_rule["forward_kernel", kind_of(group, bag)] = asdict(forward_rule(group, bag))
        by_rule["backward_kernel", kind_of(group, bag)] = asdict(backward_rule(group, bag))
    return [row for row in rows if by_rule.get((row["kernel"], row["launch"])) == row["variant"]]


def _projection_of(group: Launch) -> ProjectionLaunch:
    return ProjectionLaunch(group.vec * group.units, group.dim, True, None)


def summary(rows: list[dict[str, Any]], capability: int) -> str:
    """Of each kernel and launch on one architecture: the default, and how many of the others spill."""
    lines = ["| kernel, launch | variants, of which spill | registers | warps at once | instructions a byte | fewest |"]
    lines.append("|---|---|---|---|---|---|")
    for default in defaults([row for row in rows if row["capability"] == capability]):
        same = [r for r in rows if all(r[k] == default[k] for k in ("kernel", "launch", "capability"))]
        fewest = min(row["instructions a byte"] for row in same if not row["stack"])
        lines.append(
            f"| {default['kernel']}, {default['launch']} | {len(same)}, {sum(r['stack'] > 0 for r in same)} | "
            f"{default['registers']} | {default['warps']} | {default['instructions a byte']:.2f} | {fewest:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    add_number(parser, "--processes", default=os.cpu_count() or 1, help="that compile")
    parser.add_argument("--json", type=Path, default=RESULTS)
    args = parser.parse_args()
    import triton

    known = _known(args.json)
    wanted = [task for task in tasks() if _key(task) not in known]
    head = {"triton": triton.__version__, "sources": sources()}
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        made = tqdm(pool.imap(describe, wanted, chunksize=4), "kernels", len(wanted), mininterval=5)
        for number, (task, row) in enumerate(zip(wanted, made, strict=True), 1):
            known[_key(task)] = row
            if number % _WRITTEN_EVERY == 0:
                write_json(args.json, head | {"kernels": list(known.values())})
    rows = [known[_key(task)] for task in tasks()]
    write_json(args.json, head | {"kernels": rows})
    print(summary(rows, 90))
    spilling = sum(row["stack"] > 0 for row in rows)
    print(f"{len(rows)} kernels compiled for {', '.join(f'sm_{c}' for c in CAPABILITIES)}; {spilling} spill registers")


if __name__ == "__main__":
    main()
