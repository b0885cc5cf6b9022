"""Part `update`: the optimizer's pass as a share of a step, and what elements that many ids add to cost the backward."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from benchmarks.gpu_day import part_flags
from benchmarks.gpu_day.problems import Problem
from benchmarks.gpu_day.timing import BATCHES, captured, kernel_milliseconds, milliseconds
from benchmarks.lookup_cases import MB, Case

_OPTIMIZERS = {"sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad, "adam": torch.optim.Adam}
_IDS = ("uniform", "power_law", "equal")
_REPEATS = 15
# Kernels whose names say that they are the optimizer's pass; on a CPU it is no kernel of its own.
_PASS = "update"


def _problem(size: int, layout: str, ids: str = "power_law", bag: int = 1, batch: int = 16384) -> Problem:
    return Problem(Case("kaggle", layout, size * MB, 64, batch, bag, ids, 0))


def _stepping(problem: Problem, optimizer: str | None, device: str) -> Callable[[int], None]:
    """Forward and backward of a batch by number, with an optimizer's pass in backward; None: the gradient alone."""
    module = problem.collection(device)
    batches = [problem.batch(seed, device) for seed in range(BATCHES)]
    grad = torch.randn(problem.case.batch_size, len(problem.rows) * problem.case.embedding_dim, device=device)
    if optimizer is not None:
        module.step_in_backward(_OPTIMIZERS[optimizer]([module.array], lr=0.01))

    def step(batch: int) -> None:
        module(batches[batch]).values().backward(grad)
        module.zero_grad()

    return step


def optimizers_pass(problem: Problem, optimizer: str, device: str, repeats: int) -> dict:
    """Milliseconds of a step, and how much of it the GPU is busy with the optimizer's pass."""
    step = _stepping(problem, optimizer, device)
    for _ in range(3):
        step(0)
    kernels = kernel_milliseconds(step, device)
    in_pass = sum(time for name, time in kernels.items() if name.startswith(_PASS))
    result = {"busy_step": sum(kernels.values()), "busy_pass": in_pass, "array_bytes": problem.case.array_bytes}
    result["pass_share"] = in_pass / result["busy_step"]
    result["step"] = milliseconds({"step": step}, repeats, device)["step"]
    result["kernels"] = dict(sorted(kernels.items(), key=lambda item: -item[1])[:8])
    if optimizer != "adam":  # whose step is counted on the host
        replay = captured(lambda: step(0), device)
        result["graph_step"] = milliseconds({"step": lambda _: replay()}, repeats, device)["step"]
    return result


def hot_elements(problem: Problem, device: str, repeats: int) -> dict:
    """Milliseconds of forward and backward, and of the backward's kernels, where many ids may add to one element."""
    step = _stepping(problem, None, device)
    for _ in range(3):
        step(0)
    kernels = kernel_milliseconds(step, device)
    backward = sum(time for name, time in kernels.items() if "backward" in name.lower())
    result = {"ids": problem.case.ids, "busy_step": sum(kernels.values()), "busy_backward": backward}
    result["step"] = milliseconds({"step": step}, repeats, device)["step"]
    return result | {"kernels": dict(sorted(kernels.items(), key=lambda item: -item[1])[:8])}


def main() -> int:
    args = part_flags.parse(__doc__)
    repeats = 1 if args.dry_run else _REPEATS
    for size in (2, 10, 100):
        for optimizer in _OPTIMIZERS:
            problem = _problem(size, "default")
            problem = problem.shrunk() if args.dry_run else problem
            run = partial(optimizers_pass, problem, optimizer, args.device, repeats)
            args.done.run(f"pass of {optimizer}, {size} MB", run)
            if args.dry_run and size != 2:
                break
    for layout in ("default", "plain"):
        for ids in _IDS:
            for bag, batch in ((1, 16384), (20, 4096)):
                problem = _problem(10, layout, ids, bag, batch)
                name = replace(problem, most_rows=None).name
                problem = problem.shrunk() if args.dry_run else problem
                args.done.run(f"gradient, {name}", partial(hot_elements, problem, args.device, repeats))
                if args.dry_run:
                    break
    return int(args.done.failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
