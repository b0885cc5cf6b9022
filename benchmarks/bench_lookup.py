"""The lookup against the full tables that it replaces: forward, and a whole step with SGD.

    python -m benchmarks.bench_lookup [--quick] [--json FILE]

Prints, for each case, how many times as fast the shared array is as each rival: both sides run in turn in one process,
and the figure is the ratio of the medians. Rivals hold Kaggle's 26 tables, fp32, with `--rows_scale` of their rows.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from tqdm import tqdm

from torchrec_pss import PSSConfig
from torchrec_pss.datasets.rows import KAGGLE_NUM_EMBEDDINGS, SPARSE_NAMES
from torchrec_pss.modules.allocation import allocate
from torchrec_pss.ops import HAS_CPU_KERNEL, feature_matrix, lookup, reference

LEARNING_RATE = 0.01


@dataclass(frozen=True)
class Case:
    """One problem: D, bags a feature, ids a bag, elements of the array, exponent of the ids' power law (0: uniform)."""

    embedding_dim: int
    batch_size: int
    bag: int
    numel: int
    skew: float


QUICK = [Case(16, 4096, 1, 540_000, 1.1), Case(64, 4096, 1, 2_500_000, 1.1)]
ALL = [
    *QUICK,
    Case(16, 16384, 1, 540_000, 1.1),
    Case(64, 4096, 1, 2_500_000, 0.0),
    Case(64, 4096, 1, 25_000_000, 0.0),
    Case(64, 2048, 10, 2_500_000, 1.1),
]


def ids_of(case: Case, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """int64 indices and offsets in FBGEMM's order."""
    rng = np.random.default_rng(0)
    parts = []
    for n in rows:
        uniforms = rng.random(case.batch_size * case.bag)
        if case.skew:
            a = 1 - case.skew
            ranks = np.power(1 + uniforms * ((n + 1.0) ** a - 1), 1 / a) - 1
            ids = (ranks.astype(np.int64) * 2_654_435_761 + 12_345) % n  # frequent rows do not lie side by side
        else:
            ids = (uniforms * n).astype(np.int64)
        parts.append(np.clip(ids, 0, n - 1))
    indices = torch.from_numpy(np.concatenate(parts))
    return indices, torch.arange(0, len(indices) + 1, case.bag)


Contestant = tuple[Callable[[], torch.Tensor], Callable[[], object]]  # forward; forward, backward and SGD


def shared_array(case: Case, rows: list[int], function: Callable, indices, offsets, grad) -> Contestant:
    tables = [EmbeddingBagConfig(num_embeddings=n, embedding_dim=case.embedding_dim, name=name)
              for n, name in zip(rows, SPARSE_NAMES, strict=True)]  # fmt: skip
    layout = allocate(tables, PSSConfig(array_bytes=case.numel * 4, layout="plain"), 4)
    array = torch.nn.Parameter(torch.rand(layout.numel) - 0.5)
    features = feature_matrix([t.feature_row() for t in layout.tables], array.device)
    optimizer = torch.optim.SGD([array], lr=LEARNING_RATE)
    arguments = dict(features=features, hot_keys=layout.hot_keys, indices=indices, offsets=offsets, per_sample_weights=None,
                     total_width=len(rows) * case.embedding_dim, pooling_mode=0, hash_kind=0, sign=True)  # fmt: skip

    def forward():
        return function(array, **arguments)

    def step():
        optimizer.zero_grad()
        forward().backward(grad)
        optimizer.step()

    return forward, step


def fbgemm_tbe(case: Case, rows: list[int], indices, offsets, grad) -> Contestant:
    tbe = SplitTableBatchedEmbeddingBagsCodegen(
        [(n, case.embedding_dim, EmbeddingLocation.HOST, ComputeDevice.CPU) for n in rows],
        optimizer=EmbOptimType.EXACT_SGD,
        learning_rate=LEARNING_RATE,
    )
    tbe.init_embedding_weights_uniform(-0.05, 0.05)
    return lambda: tbe(indices, offsets), lambda: tbe(indices, offsets).backward(grad)


def embedding_bags(case: Case, rows: list[int], indices, offsets, grad) -> Contestant:
    tables = torch.nn.ModuleList([torch.nn.EmbeddingBag(n, case.embedding_dim, mode="sum", sparse=True) for n in rows])
    optimizer = torch.optim.SGD(tables.parameters(), lr=LEARNING_RATE)
    per_feature = indices.view(len(rows), -1)
    starts = offsets[: case.batch_size]

    def forward():
        return torch.cat([t(i, starts) for t, i in zip(tables, per_feature, strict=True)], dim=1)

    def step():
        optimizer.zero_grad()
        forward().backward(grad)
        optimizer.step()

    return forward, step


def measure(case: Case, scale: float, repeats: int) -> dict:
    """Seconds (median) of every contestant's forward and step, measured in turn."""
    rows = [max(2, round(n * scale)) for n in KAGGLE_NUM_EMBEDDINGS]
    indices, offsets = ids_of(case, rows)
    common = (indices, offsets, torch.randn(case.batch_size, len(rows) * case.embedding_dim))
    contestants = {
        "shared array": shared_array(case, rows, lookup, *common),
        "its PyTorch reference": shared_array(case, rows, reference.lookup, *common),
        "FBGEMM TBE": fbgemm_tbe(case, rows, *common),
        "nn.EmbeddingBag": embedding_bags(case, rows, *common),
    }
    times: dict = {name: {"forward": [], "step": []} for name in contestants}
    for repeat in tqdm(range(repeats + 1), desc=str(case), leave=False):
        for name, (forward, step) in contestants.items():
            for kind, function in (("forward", torch.no_grad()(forward)), ("step", step)):
                started = time.perf_counter()
                function()
                if repeat:  # the first round warms up
                    times[name][kind].append(time.perf_counter() - started)
    medians = {n: {kind: statistics.median(v) for kind, v in kinds.items()} for n, kinds in times.items()}
    return {"case": asdict(case), "table_rows": sum(rows), "seconds": medians}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two cases instead of six")
    parser.add_argument("--rows_scale", type=float, default=0.3, help="share of Kaggle's 33.8M rows in the full tables")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if not HAS_CPU_KERNEL:
        parser.error("the C++ kernel was not built; there is nothing to measure")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}; times as fast as the rival, forward / step")
    results = []
    for case in QUICK if args.quick else ALL:
        results.append(measure(case, args.rows_scale, args.repeats))
        seconds = results[-1]["seconds"]
        ours = seconds["shared array"]
        ratios = ", ".join(
            f"{name} {s['forward'] / ours['forward']:.2f} / {s['step'] / ours['step']:.2f}"
            for name, s in seconds.items()
            if name != "shared array"
        )
        print(f"{case}: {ratios}", flush=True)
        if args.json:
            aside = args.json.with_suffix(".tmp")
            aside.write_text(json.dumps(results, indent=2) + "\n")
            aside.replace(args.json)


if __name__ == "__main__":
    main()
