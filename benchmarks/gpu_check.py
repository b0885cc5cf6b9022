"""Verifies the Triton kernels on a real GPU, and times them against FBGEMM's TBE and against a copy of as many bytes.

    python -m benchmarks.gpu_check [--configurations 500] [--processes 8] [--json FILE]

1. Random configurations against the reference on the CPU: output, every gradient, every fused update, and the same sums by sorting.
   Nearly each of them compiles kernels of its own, which is what takes the time: hence the processes.
2. Addresses, bit for bit: an array that holds its own indices is read by CPU and GPU.
3. A whole step captured in a CUDA graph and replayed equals the steps without one.
4. Times, medians, in turn, over batches that differ. ``copy`` copies what the output and the elements read take. Against FBGEMM (left
   out where it is not installed): how long the GPU is busy, on both sides; ours replayed as a CUDA graph; and both as Python runs
   them, where the host is what small batches wait for. Above 1: ours is faster.

Without a GPU, ``--interpret`` does 1 and 2 in Triton's interpreter (a test runs it), which shows that the script is sound, no more.
"""

import functools
import itertools
import multiprocessing
import os
import statistics
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
from tqdm import tqdm

ROOT = Path(__file__).parents[1]
_INTERPRET = "--interpret" in sys.argv
if _INTERPRET:
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
sys.path.insert(0, str(ROOT / "tests"))

from lookup_cases import of_backward, random_case  # noqa: E402
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor  # noqa: E402

from benchmarks.lookup_cases import MB, TABLE_SETS, Case, draw_ids  # noqa: E402
from benchmarks.shared_collection import batch_of, collection  # noqa: E402
from torchrec_pss import PSSEmbeddingBagCollection  # noqa: E402
from torchrec_pss.flags import Parser, add_number  # noqa: E402
from torchrec_pss.ops import FeatureColumn, PoolingMode, reference  # noqa: E402
from torchrec_pss.ops.update_kinds import UpdateKind, UpdateNumbers  # noqa: E402
from torchrec_pss.whole_file import write_json  # noqa: E402

NUMBERS = list(UpdateNumbers(0.1, 1e-3, 0.9, 0.99, 0.05, 0.4, 0.3))
_BATCHES = 4  # in turn, so that a batch's ids and rows are not in the cache from the last time
_TABLE = """
| array | batch | forward, us | step | copy | forward / copy | forward / FBGEMM | graph | eager | step / FBGEMM | graph | eager |
|---|---|---|---|---|---|---|---|---|---|---|---|"""
_EXACT = 1 << 24  # integers up to it are exact in fp32
CASES = [
    Case("kaggle", layout, size, dim, batch, bag, ids, 0)
    for layout in ("default", "plain")
    for size, dim, batch, bag, ids in (
        (2 * MB, 16, 16384, 1, "power_law"),
        (10 * MB, 64, 16384, 1, "power_law"),
        (10 * MB, 128, 65536, 1, "power_law"),
        (10 * MB, 64, 4096, 20, "power_law"),
        (100 * MB, 128, 16384, 1, "uniform"),
    )
]


def moved(value, device):
    return value.to(device) if isinstance(value, torch.Tensor) else value


def suitable(number: int, device: str, **fixed) -> list[int]:
    """Seeds of the first random cases that the kernels take, and that the interpreter gets through."""
    seeds = []
    for seed in itertools.count():
        if len(seeds) == number:
            return seeds
        case = random_case(seed, **fixed)
        if case["array"].dtype != torch.float64 and (device == "cuda" or case["indices"].numel() <= 300):
            seeds.append(seed)


def verify(number: int, device: str, processes: int) -> None:
    """Raises AssertionError at the first configuration that differs."""
    seeds = suitable(number, device)
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        found = pool.imap_unordered(functools.partial(verify_case, device=device), seeds)
        for _ in tqdm(found, "configurations", len(seeds), mininterval=5):
            pass


def verify_case(seed: int, device: str) -> None:
    from torchrec_pss.ops.triton import lookup as gpu

    case = random_case(seed)
    out, saved = reference.lookup(**case)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed))
    here = list(of_backward(case).values())[1:]
    there = [moved(v, device) for v in here]
    array = case["array"].to(device)
    found, found_saved = gpu.lookup(*(moved(v, device) for v in case.values()))
    pairs = [(found, out)]
    truth = reference.lookup_backward(grad, saved, case["array"], *here)
    for by_sorting in (False, True):
        torch.use_deterministic_algorithms(by_sorting)
        try:
            results = gpu.lookup_backward(grad.to(device), found_saved, array, *there)
        finally:
            torch.use_deterministic_algorithms(False)
        pairs += zip(results, truth, strict=True)
    for kind in UpdateKind:
        sides = []
        for function, kept, arguments, where in ((gpu, found_saved, there, device), (reference, saved, here, "cpu")):
            sink = torch.zeros(len(array), device=where)
            states = [torch.full_like(sink, 0.5), torch.full_like(sink, 0.3)]
            own = case["array"].clone().to(where)
            function.lookup_backward_update_(grad.to(where), kept, own, sink, *states, *arguments, int(kind), NUMBERS)
            sides.append([own.float(), sink, *states])
        pairs += zip(*sides, strict=True)
    low = case["array"].dtype != torch.float32
    tolerance = {"rtol": 3e-2, "atol": 3e-2} if low else {"rtol": 1e-3, "atol": 1e-3}
    for actual, expected in pairs:
        torch.testing.assert_close(actual.cpu(), expected, **tolerance, msg=lambda m: f"seed {seed}: {m}")


def verify_addresses(number: int, device: str) -> int:
    """Reads an array of its own indices by CPU and GPU; returns how many addresses were equal."""
    from torchrec_pss.ops.triton import lookup as gpu

    total = seed = 0
    while number:
        seed += 1
        case = random_case(seed, torch.float32)
        if case["pooling_mode"] != PoolingMode.NONE or (case["indices"].numel() > 300 and device == "cpu"):
            continue
        number -= 1
        case |= {"array": torch.arange(len(case["array"])).float(), "sign": False, "read_width": 0}
        case["features"][:, FeatureColumn.INNER] = 0
        case |= {"per_sample_weights": None, "total_width": int(case["features"][0, 2])}
        assert len(case["array"]) < _EXACT
        out, _ = torch.ops.torchrec_pss.lookup(*case.values())
        found, _ = gpu.lookup(*(moved(v, device) for v in case.values()))
        assert torch.equal(found.cpu(), out), f"seed {seed}: addresses differ"
        total += out.numel()
    return total


def case_ids(case: Case, rows: list[int], seed: int = 0) -> torch.Tensor:
    return draw_ids(rows, case.batch_size * case.ids_per_bag, case.ids, seed)


def step_of(module: PSSEmbeddingBagCollection, grad: torch.Tensor):
    """Forward, backward and SGD, of a batch."""
    module.step_in_backward(torch.optim.SGD([module.array], lr=0.01))

    def step(kjt: KeyedJaggedTensor):
        module(kjt).values().backward(grad)
        module.zero_grad()

    return step


def captured(function) -> torch.cuda.CUDAGraph:
    """``function`` as a CUDA graph; it has run twice before."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(2):  # compiles, and reads the metadata
            function()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph


def verify_graph() -> float:
    """Three steps by replaying a CUDA graph against three without; the largest difference of an element."""
    case = replace(CASES[0], batch_size=2048)
    rows = [min(n, 100_000) for n in TABLE_SETS[case.tables]]
    torch.manual_seed(0)
    plain = collection(case, rows, "cuda")
    graphed = collection(case, rows, "cuda")
    graphed.load_state_dict(plain.state_dict())
    kjt = batch_of(case, case_ids(case, rows), "cuda")
    grad = torch.randn(case.batch_size, len(rows) * case.embedding_dim, device="cuda")
    step, graphed_step = step_of(plain, grad), step_of(graphed, grad)
    graph = captured(lambda: graphed_step(kjt))
    for _ in range(3):
        graph.replay()
    for _ in range(5):
        step(kjt)
    torch.cuda.synchronize()
    difference = float((plain.array - graphed.array).abs().max())
    assert difference < 1e-4, f"a replayed graph differs by {difference}"
    return difference


def milliseconds(functions: dict, repeats: int) -> dict[str, float]:
    """Medians of a call's time, in turn, by CUDA events around a call for each batch; compiled and warm before."""
    times = {name: [] for name in functions}
    for repeat in range(repeats + 3):
        for name, function in functions.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            for batch in range(_BATCHES):
                function(batch)
            end.record()
            torch.cuda.synchronize()
            if repeat >= 3:
                times[name].append(start.elapsed_time(end) / _BATCHES)
    return {name: statistics.median(values) for name, values in times.items()}


def busy_milliseconds(functions: dict) -> dict[str, float]:
    """What a call keeps the GPU busy: its kernels' times, by the profiler."""
    times = {}
    for name, function in functions.items():
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiled:
            for batch in range(_BATCHES):
                function(batch)
            torch.cuda.synchronize()
        times[name] = sum(event.self_device_time_total for event in profiled.key_averages()) / _BATCHES / 1e3
    return times


def fbgemm_tables(case: Case, rows: list[int]):
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    tbe = SplitTableBatchedEmbeddingBagsCodegen(
        [(n, case.embedding_dim, EmbeddingLocation.DEVICE, ComputeDevice.CUDA) for n in rows],
        optimizer=EmbOptimType.EXACT_SGD,
        learning_rate=0.01,
    )
    tbe.init_embedding_weights_uniform(-0.05, 0.05)
    return tbe


def measure(case: Case, repeats: int) -> dict:
    """One case's medians and ratios (above 1: ours is faster)."""
    rows = list(TABLE_SETS[case.tables])
    module = collection(case, rows, "cuda")
    batches = [batch_of(case, case_ids(case, rows, seed), "cuda") for seed in range(_BATCHES)]
    grad = torch.randn(case.batch_size, len(rows) * case.embedding_dim, device="cuda")
    read = module.layout.tables
    moved_bytes = grad.numel() * 4 + 4 * case.batch_size * case.ids_per_bag * sum(t.width for t in read)
    source = torch.empty(moved_bytes // 2, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    step = step_of(module, grad)
    forward = torch.no_grad()(lambda kjt: module(kjt))
    graphs = captured(lambda: forward(batches[0])), captured(lambda: step(batches[0]))
    functions = {
        "forward": lambda batch: forward(batches[batch]),
        "step": lambda batch: step(batches[batch]),
        "graph forward": lambda _: graphs[0].replay(),
        "graph step": lambda _: graphs[1].replay(),
        "copy": lambda _: target.copy_(source),
    }
    try:
        tbe = fbgemm_tables(case, rows)
    except (ImportError, RuntimeError, OSError) as error:
        print(f"FBGEMM is left out: {error}", file=sys.stderr)
    else:
        inputs = [(kjt.values(), kjt.offsets().to(torch.int64)) for kjt in batches]
        functions["fbgemm forward"] = torch.no_grad()(lambda batch: tbe(*inputs[batch]))
        functions["fbgemm step"] = lambda batch: tbe(*inputs[batch]).backward(grad)
    times = milliseconds(functions, repeats)
    busy = busy_milliseconds({name: f for name, f in functions.items() if "graph" not in name})
    result = {**asdict(case), "moved_bytes": moved_bytes, "milliseconds": times, "busy_milliseconds": busy}
    result["ratio_vs_copy_forward"] = busy["copy"] / busy["forward"]
    result["graph_ratio_vs_copy_forward"] = times["copy"] / times["graph forward"]
    for kind in ("forward", "step"):
        if f"fbgemm {kind}" in times:
            result[f"ratio_vs_fbgemm_{kind}"] = times[f"fbgemm {kind}"] / times[kind]
            result[f"busy_ratio_vs_fbgemm_{kind}"] = busy[f"fbgemm {kind}"] / busy[kind]
            result[f"graph_ratio_vs_fbgemm_{kind}"] = times[f"fbgemm {kind}"] / times[f"graph {kind}"]
    return result


def row_of(result: dict) -> str:
    """A case's line of the table."""
    ours = [f"{result['busy_milliseconds'][kind] * 1e3:.0f}" for kind in ("forward", "step", "copy")]
    names = ["ratio_vs_copy_forward"]
    names += [f"{how}ratio_vs_fbgemm_{kind}" for kind in ("forward", "step") for how in ("busy_", "graph_", "")]
    ratios = [f"{result[name]:.2f}" if name in result else "" for name in names]
    size = f"{result['layout']}, {result['array_bytes'] // MB} MB, D {result['embedding_dim']}"
    batch = f"{result['batch_size']} x {result['ids_per_bag']}, {result['ids'].replace('_', '-')}"
    return "| " + " | ".join([size, batch, *ours, *ratios]) + " |"


def main() -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    add_number(parser, "--configurations", default=500)
    add_number(parser, "--processes", default=min(os.cpu_count(), 16), help="that compile and verify")
    add_number(parser, "--repeats", default=20)
    parser.add_argument("--interpret", action="store_true", help="verify in Triton's interpreter; time nothing")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if not args.interpret and not torch.cuda.is_available():
        parser.error("there is no GPU; --interpret verifies without one")
    import triton

    device = "cpu" if args.interpret else "cuda"
    name = "Triton's interpreter" if args.interpret else torch.cuda.get_device_name()
    print(f"{name}; torch {torch.__version__}, triton {triton.__version__}")
    report = {"device": name, "torch": torch.__version__, "triton": triton.__version__}
    report["configurations"] = args.configurations
    verify(args.configurations, device, args.processes)
    print(f"{report['configurations']} configurations equal the reference")
    report["addresses"] = verify_addresses(max(args.configurations // 10, 1), device)
    print(f"{report['addresses']} addresses equal the CPU's, bit for bit")
    if not args.interpret:
        report["graph_difference"] = verify_graph()
        print(f"CUDA graph: replayed steps equal, largest difference {report['graph_difference']:.1e}")
        report["cases"] = [measure(case, args.repeats) for case in tqdm(CASES, "cases")]
        print(_TABLE, *map(row_of, report["cases"]), sep="\n")
    if args.json:
        write_json(args.json, report)


if __name__ == "__main__":
    main()
