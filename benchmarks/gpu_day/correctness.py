"""Part `correctness`: random configurations, addresses, bounds, the same bits, races, few bits, and a step as a CUDA graph."""

import os
from functools import partial

import torch

from benchmarks.gpu_day import part_flags, repeats, workers
from benchmarks.gpu_day.bounds import verify_bounds
from benchmarks.gpu_day.configurations import address_seeds, suitable, verify_addresses, verify_case
from benchmarks.gpu_day.packed_checks import verify_pack, verify_packed_read
from benchmarks.gpu_day.steps import verify_graph
from torchrec_pss.ops.few_bits import FEW_BITS

_MOST_PROCESSES = 14  # of 16 cores; each has a context of its own on the device


def _addresses(seed: int, device: str) -> dict:
    return {"addresses": verify_addresses(seed, device)}


def _graph(device: str) -> dict:
    small = {"batch_size": 32, "most_rows": 300} if device == "cpu" else {}
    return {"largest_difference": verify_graph(device, **small)}


def jobs(device: str, dry_run: bool) -> list[workers.Job]:
    """In the order of their value: some of every kind, then the many."""
    few, some, many = (1, 2, 3) if dry_run else (8, 24, 120)
    seeds = suitable(many, device)
    fp32_seeds = suitable(some, device, dtype=torch.float32)
    found: list[workers.Job] = [(f"configuration {s}", partial(verify_case, s, device)) for s in seeds[:some]]
    found += [(f"addresses {s}", partial(_addresses, s, device)) for s in address_seeds(some, device)]
    found += [(f"bounds {s}", partial(verify_bounds, s, device)) for s in seeds[:some]]
    found += [("graph", partial(_graph, device))]
    found += [(f"pack {bits} bits", partial(verify_pack, bits, device)) for bits in FEW_BITS]
    found += [(f"packed read {s}", partial(verify_packed_read, s, device)) for s in fp32_seeds]
    found += [(f"same bits {s}", partial(repeats.verify_bits, s, device, 2 if dry_run else 20)) for s in seeds[-few:]]
    found += [
        (f"races {repeats.named(p)}", partial(repeats.verify_races, p, device, 3 if dry_run else 50))
        for p in repeats.problems(device)
    ]
    return found + [(f"configuration {s}", partial(verify_case, s, device)) for s in seeds[some:]]


def main() -> int:
    args = part_flags.parse(__doc__)
    left = [job for job in jobs(args.device, args.dry_run) if not args.done.is_done(job[0])]
    processes = 1 if args.dry_run else min(_MOST_PROCESSES, os.cpu_count() or 1)
    print(f"{len(left)} checks by {processes} processes", flush=True)
    for name, result in workers.done_by(left, processes, "fork" if args.dry_run else "spawn"):
        args.done.add(name, **result)
        print(f"{name}: {result.get('error', 'passed')}", flush=True)
    return int(args.done.failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
