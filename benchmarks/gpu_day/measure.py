"""A problem's times: ours in eager mode, as a CUDA graph and as the GPU is busy; FBGEMM's; and a copy of as many bytes."""

import torch

from benchmarks.gpu_day import fbgemm
from benchmarks.gpu_day.problems import Problem
from benchmarks.gpu_day.steps import step_of
from benchmarks.gpu_day.timing import BATCHES, busy_milliseconds, captured, kernel_milliseconds, milliseconds
from benchmarks.lookup_cases import MB, Case

_MOST_KERNELS = 8  # that are named
TABLE_HEAD = """
| array | batch | forward, us | step | copy | forward / copy | forward / FBGEMM | graph | eager | step / FBGEMM | graph | eager |
|---|---|---|---|---|---|---|---|---|---|---|---|"""


def measure(problem: Problem | Case, repeats: int, device: str = "cuda") -> dict:
    """Medians and ratios (above 1: ours is faster)."""
    problem = Problem(problem) if isinstance(problem, Case) else problem
    case, rows = problem.case, problem.rows
    module = problem.collection(device)
    batches = [problem.batch(seed, device) for seed in range(BATCHES)]
    grad = torch.randn(case.batch_size, len(rows) * case.embedding_dim, device=device)
    step = step_of(module, grad)
    forward = torch.no_grad()(lambda kjt: module(kjt))
    graphs = captured(lambda: forward(batches[0]), device), captured(lambda: step(batches[0]), device)
    moved_bytes = _moved_bytes(problem, module, grad)
    source = torch.empty(moved_bytes // 2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    functions = {
        "forward": lambda batch: forward(batches[batch]),
        "step": lambda batch: step(batches[batch]),
        "graph forward": lambda _: graphs[0](),
        "graph step": lambda _: graphs[1](),
        "copy": lambda _: target.copy_(source),
    }
    sides, notes = _fbgemm(problem, batches, grad, device)
    functions |= sides
    times = milliseconds(functions, repeats, device)
    busy = busy_milliseconds({name: f for name, f in functions.items() if "graph" not in name}, device)
    kernels = kernel_milliseconds(functions["step"], device)
    result = {**problem.described(), "moved_bytes": moved_bytes, "milliseconds": times, "busy_milliseconds": busy}
    result["step_kernels"] = dict(sorted(kernels.items(), key=lambda item: -item[1])[:_MOST_KERNELS])
    return result | _ratios(times, busy) | {"notes": notes}


def _moved_bytes(problem: Problem, module, grad: torch.Tensor) -> int:
    """Of a forward that reads each element once and writes the output: what `copy` copies, half read and half written."""
    case = problem.case
    element = min(torch.finfo(module.array.dtype).bits, problem.bits) / 8
    read = sum(t.width for t in module.layout.tables)
    return int(grad.numel() * 4 + element * case.batch_size * case.ids_per_bag * read) // 2 * 2


def _fbgemm(problem: Problem, batches: list, grad: torch.Tensor, device: str) -> tuple[dict, list[str]]:
    """FBGEMM's functions by name, and why some are left out."""
    case, notes, functions = problem.case, [], {}
    is_plain = problem == Problem(case, most_rows=problem.most_rows)
    try:
        half = problem.array_dtype != "float32"
        tbe = fbgemm.tables(problem.rows, case.embedding_dim, device, half=half)
        if half:
            notes.append("FBGEMM's tables in fp16")
        if problem.bits != 32:
            notes.append("FBGEMM's tables in fp32")
        inputs = [_inputs(kjt, problem.weighted) for kjt in batches]
        forward, step = fbgemm.steps_of(tbe, inputs, grad)
        step(0)
        functions |= {"fbgemm forward": forward, "fbgemm step": step}
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        notes.append(f"FBGEMM is left out: {error}"[:300])
        return functions, notes
    try:
        other = fbgemm.triton_tables(problem.rows, case.embedding_dim) if is_plain else None
        if other is not None:
            forward, step = fbgemm.steps_of(other, inputs, grad)
            step(0)
            functions |= {"triton tbe forward": forward, "triton tbe step": step}
        elif is_plain:
            notes.append(fbgemm.NO_TRITON_TBE)
    except Exception as error:  # somebody else's code, whatever it raises
        notes.append(f"the Triton TBE is left out: {error}"[:300])
    return functions, notes


def _inputs(kjt, weighted: bool) -> tuple:
    inputs = kjt.values(), kjt.offsets().to(kjt.values().dtype)
    return (*inputs, kjt.weights()) if weighted else inputs


def _ratios(times: dict[str, float], busy: dict[str, float]) -> dict[str, float]:
    found = {
        "ratio_vs_copy_forward": busy["copy"] / busy["forward"],
        "graph_ratio_vs_copy_forward": times["copy"] / times["graph forward"],
    }
    for kind in ("forward", "step"):
        if f"fbgemm {kind}" in times:
            found[f"ratio_vs_fbgemm_{kind}"] = times[f"fbgemm {kind}"] / times[kind]
            found[f"busy_ratio_vs_fbgemm_{kind}"] = busy[f"fbgemm {kind}"] / busy[kind]
            found[f"graph_ratio_vs_fbgemm_{kind}"] = times[f"fbgemm {kind}"] / times[f"graph {kind}"]
        if f"triton tbe {kind}" in times:
            found[f"busy_ratio_vs_triton_tbe_{kind}"] = busy[f"triton tbe {kind}"] / busy[kind]
    return found


def row_of(result: dict) -> str:
    """A case's line of the table."""
    ours = [f"{result['busy_milliseconds'][kind] * 1e3:.0f}" for kind in ("forward", "step", "copy")]
    names = ["ratio_vs_copy_forward"]
    names += [f"{how}ratio_vs_fbgemm_{kind}" for kind in ("forward", "step") for how in ("busy_", "graph_", "")]
    ratios = [f"{result[name]:.2f}" if name in result else "" for name in names]
    size = f"{result['layout']}, {result['array_bytes'] // MB} MB, D {result['embedding_dim']}"
    batch = f"{result['batch_size']} x {result['ids_per_bag']}, {result['ids'].replace('_', '-')}"
    return "| " + " | ".join([size, batch, *ours, *ratios]) + " |"
