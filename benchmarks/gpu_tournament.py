"""Times every variant of the GPU kernels on a device, and ranks them.

    python -m benchmarks.gpu_tournament --json runs/tournament.json [--seconds 300] [--choose]

For each case, each kernel (forward, backward, the projections' gradients) and each launch of the lookup, every candidate of
`torchrec_pss.ops.triton.candidates` takes the default's place, all other launches stay. A candidate's results must equal the default's.
Times are a replayed CUDA graph's, medians, in turn, so that the host is not in them: of a forward, or of a step (forward, backward, SGD).
Results are written as they come; a second call with the same file goes on where the first ended. Exit status: 1 where a candidate failed, 3
where time has run out.

``--choose`` writes the winners to ``torchrec_pss/ops/triton/chosen.json``, from which lookups take their kernels: of each kind of launch the
candidate with the best geometric mean over its cases, where that is faster than the rule's by 3 % or more.

``--dry-run`` does the same on the CPU in Triton's interpreter, with few rows and candidates; its times mean nothing.
"""

import contextlib
import functools
import json
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

if "--dry-run" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported

import torch
from tqdm import tqdm

from benchmarks.gpu_day.lines import is_lost
from benchmarks.gpu_day.timing import captured, milliseconds
from benchmarks.lookup_cases import MB, TABLE_SETS, Case, draw_ids
from benchmarks.shared_collection import batch_of, collection
from torchrec_pss.flags import Parser, add_number
from torchrec_pss.ops import PoolingMode
from torchrec_pss.ops.triton import candidates, tiling
from torchrec_pss.ops.triton import lookup as gpu
from torchrec_pss.ops.triton.launches import Launch, ProjectionLaunch, plan
from torchrec_pss.ops.update_kinds import UpdateKind, UpdateNumbers
from torchrec_pss.whole_file import write_json

KERNELS = ("forward", "backward", "projection")
CASES = [
    Case("kaggle", layout, size, dim, batch, bag, "power_law", 0)
    for size, dim, batch, bag in (
        (10 * MB, 64, 16384, 1), (10 * MB, 64, 4096, 20), (2 * MB, 16, 16384, 1), (10 * MB, 128, 65536, 1), (10 * MB, 64, 2048, 100),
        (10 * MB, 128, 4096, 20), (2 * MB, 16, 4096, 20),
    )
    for layout in ("default", "plain")
]  # fmt: skip
_DRY = Case("kaggle", "default", 40_000, 16, 8, 5, "power_law", 0)
_DRY_ROWS, _DRY_CANDIDATES = [50, 3000, 200_000], 2
_REPEATS, _CALLS = 15, 4  # of a graph, and in one
_UNFINISHED = 3  # exit status
_LEAST_GAIN = 1.03  # of a variant that is chosen
_SGD = (int(UpdateKind.SGD), list(UpdateNumbers(0.01)))


class Lookup(NamedTuple):
    """A case's calls of the kernels' functions."""

    forward: Callable[[], torch.Tensor]
    step: Callable[[], torch.Tensor]
    launches: list[Launch]
    projections: list[ProjectionLaunch]
    ids_a_bag: float


def lookup_of(case: Case, device: str) -> Lookup:
    rows = _DRY_ROWS if case is _DRY else list(TABLE_SETS[case.tables])
    torch.manual_seed(0)
    module = collection(case, rows, device)
    kjt = batch_of(case, draw_ids(rows, case.batch_size * case.ids_per_bag, case.ids), device)
    given = module._arguments(range(len(rows)), PoolingMode.SUM)
    kinds = (int(given["pooling_mode"]), int(given["hash_kind"]), bool(given["sign"]))
    widths = (given["total_width"], given["read_width"])
    projections = given["projections"].detach()
    tensors = (given["features"], given["hot_keys"], projections, kjt.values(), kjt.offsets(), None)
    array = module.array.detach()
    grad = torch.randn(case.batch_size, widths[0], generator=torch.Generator().manual_seed(0)).to(device)

    def forward() -> torch.Tensor:
        return gpu.lookup(array, *tensors, *widths, *kinds)[0]

    def step() -> torch.Tensor:
        _, saved = gpu.lookup(array, *tensors, *widths, *kinds)
        own, none = array.clone(), torch.empty(0, device=device)
        gradients, _ = gpu.lookup_backward_update_(grad, saved, own, none, None, None, *tensors, *kinds, *_SGD)
        return torch.cat([own, gradients])

    planned = plan(given["features"], array, given["hot_keys"], projections, kinds[0], kinds[1])
    return Lookup(forward, step, planned.launches, planned.projections, float(case.ids_per_bag))


def candidates_of(known: Lookup, kernel: str, number: int) -> list[Any]:
    """Of the launch ``number`` of a lookup; the default first."""
    if kernel == "projection":
        return candidates.projection_candidates(known.projections[number])
    of_kernel = candidates.forward_candidates if kernel == "forward" else candidates.backward_candidates
    return of_kernel(known.launches[number], known.ids_a_bag)


def chosen_for(known: Lookup, kernel: str, number: int, variant: Any) -> Any:
    """Lookups within take ``variant`` for that launch, and defaults for all others."""
    rules = {"forward": tiling.forward_rule, "backward": tiling.backward_rule, "projection": tiling.projection_rule}
    groups = known.projections if kernel == "projection" else known.launches

    def choose(group: Any, *ids_a_bag: float) -> Any:
        return variant if group is groups[number] else rules[kernel](group, *ids_a_bag)

    return tiling.using(**rules | {kernel: choose})


def microseconds(call: Callable[[], torch.Tensor], device: str) -> float:
    """Of a call, in a CUDA graph of several, where a launch's latency is not in its time; on the CPU as it is, once."""
    calls, repeats = (1, 1) if device == "cpu" else (_CALLS, _REPEATS)

    def several() -> None:
        for _ in range(calls):
            call()

    replay = captured(several, device)
    times = milliseconds({"calls": lambda _: replay()}, repeats, device, batches=1, warm=0 if device == "cpu" else 2)
    return times["calls"] * 1e3 / calls


_lost: list[bool] = []  # not empty: the device answers this process of the pool no more


@functools.lru_cache(maxsize=1)
def _lookup_of_worker(case: Case) -> Lookup:
    return lookup_of(case, "cuda")


def compile_one(task: tuple[Case, str, int, Any]) -> str | None:
    """In a process of a pool: compiles a candidate into Triton's cache; what failed."""
    case, kernel, number, variant = task
    if _lost:  # by an earlier candidate, which was told; this one is compiled where it is timed
        return None
    try:
        known = _lookup_of_worker(case)
        with chosen_for(known, kernel, number, variant):
            known.forward() if kernel == "forward" else known.step()
        torch.cuda.synchronize()
    except Exception as error:
        if is_lost(error):
            _lost.append(True)
        return f"{type(error).__name__}: {error}"[:300]
    return None


def tournament(cases: list[Case], device: str, until: float, path: Path, pool: Any) -> dict[str, Any]:
    """The report, written to ``path`` after each launch's candidates."""
    report = json.loads(path.read_text()) if path.exists() else {"device": _name(device), "rounds": []}
    done = {(json.dumps(r["case"]), r["kernel"], r["number"]) for r in report["rounds"]}
    for case in tqdm(cases, "cases", disable=None):
        known = lookup_of(case, device)
        for kernel in KERNELS:
            for number in range(len(known.projections if kernel == "projection" else known.launches)):
                if (json.dumps(asdict(case)), kernel, number) in done:
                    continue
                if time.monotonic() > until:
                    report["left"] = f"from {kernel} of {case} on: no time"
                    write_json(path, report)
                    return report
                found = race(case, known, kernel, number, device, pool)
                report["rounds"].append(found)
                write_json(path, report)
                if not found["ranked"]:
                    print(f"{kernel} {number} of {case}: the default failed: {found['failed']}", flush=True)
                    continue
                best = found["ranked"][0]
                print(f"{case.layout}, D {case.embedding_dim}, {case.batch_size} x {case.ids_per_bag}, {kernel} {number}: "
                      f"{best['variant']} {best['gain']:.2f} times the default", flush=True)  # fmt: skip
    report.pop("left", None)
    write_json(path, report)
    return report


def race(case: Case, known: Lookup, kernel: str, number: int, device: str, pool: Any) -> dict[str, Any]:
    """One launch's candidates, ranked."""
    variants = candidates_of(known, kernel, number)
    variants = variants[:: -(-len(variants) // _DRY_CANDIDATES)] if device == "cpu" else variants
    failed: dict[str, str] = {}
    if device == "cuda":
        errors = pool.map(compile_one, [(case, kernel, number, v) for v in variants], chunksize=1)
        failed = {str(v): error for v, error in zip(variants, errors, strict=True) if error}
    call = known.forward if kernel == "forward" else known.step
    times: dict[Any, list[float]] = {}
    truth: torch.Tensor | None = None
    for _ in range(1 if device == "cpu" else 2):
        for variant in variants:
            if str(variant) in failed:
                continue
            try:
                with chosen_for(known, kernel, number, variant):
                    if variant not in times:
                        found = call()
                        truth = found if truth is None else truth
                        if not torch.allclose(found, truth, rtol=1e-3, atol=1e-3):
                            failed[str(variant)] = f"differs by {float((found - truth).abs().max())}"
                            continue
                    times.setdefault(variant, []).append(microseconds(call, device))
            except Exception as error:  # Triton's have no common class
                if is_lost(error):
                    raise
                failed[str(variant)] = f"{type(error).__name__}: {error}"[:300]
    medians = {variant: statistics.median(spent) for variant, spent in times.items() if str(variant) not in failed}
    default = medians.get(variants[0])  # None: it failed, and nothing can be compared
    ranked = [
        {"variant": asdict(v), "microseconds": m, "gain": default / m}
        for v, m in sorted(medians.items(), key=lambda item: item[1])
        if default is not None
    ]
    group = known.projections[number] if kernel == "projection" else known.launches[number]
    kind = tiling.kind_of(group) if kernel == "projection" else tiling.kind_of(group, known.ids_a_bag)
    own = {"case": asdict(case), "kernel": kernel, "number": number, "kind": kind, "features": group.num_features}
    return own | {"default": asdict(variants[0]), "ranked": ranked, "failed": failed}


def winners(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """`chosen.json`: of each kernel and each kind of launch the variant with the best geometric mean, where it gains enough."""
    gains: dict[tuple[str, str], list[dict[str, float]]] = {}
    for found in report["rounds"]:
        if not found["ranked"]:
            continue
        own = {json.dumps(r["variant"]): r["gain"] for r in found["ranked"]}
        gains.setdefault((found["kernel"], found["kind"]), []).append(own)
    chosen: dict[str, dict[str, Any]] = {}
    for (kernel, kind), cases in gains.items():
        everywhere = set.intersection(*(set(case) for case in cases))
        means = {v: math.exp(statistics.fmean(math.log(case[v]) for case in cases)) for v in everywhere}
        best = max(means, key=means.__getitem__)
        if means[best] >= _LEAST_GAIN:
            chosen.setdefault(kernel, {})[kind] = json.loads(best)
    return chosen


def markdown(report: dict[str, Any]) -> str:
    """The three best of each launch."""
    lines = ["| case | kernel, launch | rank | variant | us | times the default |", "|---|---|---|---|---|---|"]
    for found in report["rounds"]:
        case = found["case"]
        name = f"{case['layout']}, D {case['embedding_dim']}, {case['batch_size']} x {case['ids_per_bag']}"
        for rank, entry in enumerate(found["ranked"][:3], 1):
            variant = ", ".join(f"{k} {v}" for k, v in entry["variant"].items() if v not in (None, False, ""))
            kernel = f"{found['kernel']}, {found['kind']}"
            lines.append(
                f"| {name} | {kernel} | {rank} | {variant} | {entry['microseconds']:.0f} | {entry['gain']:.2f} |"
            )
    return "\n".join(lines)


def _name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "Triton's interpreter: times mean nothing"


def main() -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, required=True, help="the results; what is there is not measured again")
    add_number(parser, "--seconds", default=300, help="after which no other launch is begun")
    add_number(parser, "--processes", default=min(os.cpu_count() or 1, 16), help="that compile")
    parser.add_argument("--choose", action="store_true", help="write the winners to chosen.json")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, in Triton's interpreter")
    args = parser.parse_args()
    if not args.dry_run and not torch.cuda.is_available():
        parser.error("there is no GPU; --dry-run runs without one")
    if args.dry_run and args.choose:
        parser.error("--choose: the times of --dry-run mean nothing")
    device, cases = ("cpu", [_DRY]) if args.dry_run else ("cuda", CASES)
    until = time.monotonic() + args.seconds
    pools: Any = multiprocessing.get_context("spawn")
    with contextlib.nullcontext() if args.dry_run else pools.Pool(args.processes) as pool:
        report = tournament(cases, device, until, args.json, pool)
    print(markdown(report))
    failed = [f"{r['kernel']}, {r['kind']}: {v}: {error}" for r in report["rounds"] for v, error in r["failed"].items()]
    if args.choose:
        write_json(tiling.CHOSEN, winners(report))
    if failed:
        sys.exit("\n".join(["candidates that failed:", *failed]))
    if "left" in report:
        print(report["left"], file=sys.stderr)
        sys.exit(_UNFINISHED)


if __name__ == "__main__":
    main()
