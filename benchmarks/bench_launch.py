"""How long the host is busy with a lookup on a GPU: ``python -m benchmarks.bench_launch [--repeats 100] [--json FILE]``.

Kaggle's 26 tables, one id a bag, a batch so small that a GPU would wait for the host. Of the default layout and of the plain one:
the lookup alone, the module's forward without and with gradients, and a step (forward, backward, SGD in backward). Beside them the step of an
operator in Python that does nothing, of as many tensors: what PyTorch's autograd takes of a step.

On a GPU the time until the calls return is measured, with real launches; nobody waits for the GPU within it. Elsewhere the functions that serve
a GPU take the place of the CPU's in this process, and launching a compiled kernel does nothing: the launch path alone. What is missing then
is CUDA's allocator, Triton's own launcher and ``cuLaunchKernel``, so that a machine with a GPU needs longer.

Medians of ``--repeats`` calls in microseconds, in turn; the fastest of a few such medians, for others may use the machine.
"""

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.gpu_day.steps import case_ids, step_of
from benchmarks.lookup_cases import MB, TABLE_SETS, Case
from benchmarks.shared_collection import batch_of, collection
from torchrec_pss.flags import Parser, add_number
from torchrec_pss.ops import PoolingMode, lookup
from torchrec_pss.whole_file import write_json

CASES = [
    Case("kaggle", layout, size * MB, dim, 128, 1, "power_law", 1)
    for layout, size, dim in (("default", 2, 16), ("plain", 2, 16), ("default", 10, 64))
]
PARTS = ("lookup", "forward", "forward with gradients", "step", "autograd alone")
_WARM_UP = 5  # calls, which compile
_MEDIANS = 25


class _Nothing:
    """A compiled kernel, as Triton's: ``kernel[grid](*arguments)``."""

    def __getitem__(self, grid: tuple[int, int, int]) -> Callable[..., None]:
        return self._launch

    def _launch(self, *arguments: Any, stream: int | None = None) -> None:
        pass


@contextmanager
def stubbed_launches() -> Iterator[None]:
    """Within it lookups on the CPU are those of a GPU, whose kernels do nothing; modules made within it are not used after it."""
    from torchrec_pss.ops import eager
    from torchrec_pss.ops.triton import launch
    from torchrec_pss.ops.triton import lookup as gpu

    nothing, cpu, first_launch = _Nothing(), torch.device("cpu"), launch.first_launch
    launch.first_launch = lambda *_: nothing
    eager.KERNELS["cpu"] = gpu
    gpu._fine[cpu] = torch.ones(1, dtype=torch.int32)  # kept, as a GPU's
    try:
        yield
    finally:
        launch.first_launch = first_launch
        del eager.KERNELS["cpu"], gpu._fine[cpu]


class _Idle(torch.autograd.Function):
    """Does nothing; saves as many tensors as a lookup."""

    @staticmethod
    def forward(ctx: Any, leaf: torch.Tensor, out: torch.Tensor, *saved: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(*saved)
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[None, ...]:
        return (None,) * (2 + len(ctx.saved_tensors))


def calls_of(case: Case, device: str, rows: list[int]) -> dict[str, Callable[[], object]]:
    """The parts of one case."""
    module = collection(case, rows, device)
    stepped = copy.deepcopy(module)
    kjt = batch_of(case, case_ids(case, rows), device)
    grad = torch.randn(case.batch_size, len(rows) * case.embedding_dim, device=device)
    given = module._arguments(range(len(rows)), PoolingMode.SUM)
    step = step_of(stepped, grad)
    tensors = (kjt.values(), kjt.offsets(), given["features"], given["hot_keys"], *[torch.empty_like(grad)] * 3)

    def idle_step() -> None:
        _Idle.apply(module.array, tensors[-1], *tensors).backward(grad)
        module.zero_grad()

    return {
        "lookup": torch.no_grad()(lambda: lookup(module.array, indices=kjt.values(), offsets=kjt.offsets(), **given)),
        "forward": torch.no_grad()(lambda: module(kjt)),
        "forward with gradients": lambda: module(kjt),
        "step": lambda: step(kjt),
        "autograd alone": idle_step,
    }


def microseconds(calls: dict[str, Callable[[], object]], repeats: int, settle: Callable[[], None]) -> dict[str, float]:
    """Of each call the fastest of `_MEDIANS` medians; ``settle`` is called between two calls."""
    medians: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(_WARM_UP):
            call()
    for _ in range(_MEDIANS):
        for name, call in calls.items():
            spent = []
            for _ in range(repeats):
                settle()
                start = time.perf_counter_ns()
                call()
                spent.append(time.perf_counter_ns() - start)
            medians[name].append(statistics.median(spent) / 1e3)
    return {name: min(found) for name, found in medians.items()}


def measure(repeats: int, device: str, rows: list[int]) -> list[dict]:
    """Of every case its parts."""
    settle = torch.cuda.synchronize if device == "cuda" else lambda: None
    return [
        {name: getattr(case, name) for name in ("layout", "array_bytes", "embedding_dim", "batch_size")}
        | {"microseconds": microseconds(calls_of(case, device, rows), repeats, settle)}
        for case in tqdm(CASES, "layouts", disable=None)
    ]


def markdown(lines: list[dict]) -> str:
    head = ["| layout, embedding_dim | " + " | ".join(PARTS) + " |", "|---|" + "---|" * len(PARTS)]
    rows = [
        [f"{line['layout']}, D {line['embedding_dim']}", *(f"{line['microseconds'][part]:.0f}" for part in PARTS)]
        for line in lines
    ]
    return "\n".join([*head, *("| " + " | ".join(row) + " |" for row in rows)])


def main() -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    add_number(parser, "--repeats", default=100, help="calls a median")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    with nullcontext() if on_gpu else stubbed_launches():
        lines = measure(args.repeats, device, list(TABLE_SETS["kaggle"]))
    name = torch.cuda.get_device_name() if on_gpu else "none, launches do nothing"
    print(f"GPU: {name}; torch {torch.__version__}. Microseconds of the host.", markdown(lines), sep="\n")
    if args.json:
        write_json(args.json, {"device": name, "torch": torch.__version__, "repeats": args.repeats, "cases": lines})


if __name__ == "__main__":
    main()
