"""What few bits cost: ``python -m benchmarks.bench_bits [--json FILE]``.

Kaggle's 26 tables at the default layout, one id a bag; arrays of as many elements in 32 and in 8, 4 and 2 bits. A forward, and a step of
forward, backward and Adam (torch's fused one) on array and projections, in turn; medians, and the ratio to 32 bits. One thread.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from tqdm import tqdm

from benchmarks.lookup_cases import MB, Case, draw_ids
from benchmarks.shared_collection import batch_of, collection
from torchrec_pss import PSSEmbeddingBagCollection
from torchrec_pss.datasets.rows import KAGGLE_NUM_EMBEDDINGS
from torchrec_pss.flags import Parser, add_number
from torchrec_pss.whole_file import write_json

BITS = (32, 8, 4, 2)
ARRAYS = (MB, 10 * MB, 40 * MB)  # bytes in fp32
CASE = Case("kaggle", "default", MB, 16, 4096, 1, "power_law", 1)


def of_bits(like: PSSEmbeddingBagCollection, bits: int) -> PSSEmbeddingBagCollection:
    """The same layout, in elements of other bits: as many of them, or some bytes' more."""
    config, layout = like.config, replace(like.layout, bits=bits)
    tables: list[EmbeddingBagConfig] = like.embedding_bag_configs()
    return PSSEmbeddingBagCollection(tables, config=replace(config, bits=bits, array_bytes=layout.embedding_bytes))


def steps_of(ebc: PSSEmbeddingBagCollection, batch, grad: torch.Tensor) -> dict[str, Callable[[], None]]:
    optimizer = torch.optim.Adam(ebc.parameters(), fused=True)

    def forward() -> None:
        with torch.no_grad():
            ebc(batch)

    def step() -> None:
        optimizer.zero_grad()
        ebc(batch).values().backward(grad)
        optimizer.step()

    return {"forward": forward, "step": step}


def measure(array_bytes: int, repeats: int) -> list[dict]:
    case = replace(CASE, array_bytes=array_bytes)
    rows = list(KAGGLE_NUM_EMBEDDINGS)
    batch = batch_of(case, draw_ids(rows, case.batch_size, case.ids))
    grad = torch.randn(case.batch_size, len(rows) * case.embedding_dim)
    wide = collection(case, rows)
    made = {bits: wide if bits == 32 else of_bits(wide, bits) for bits in BITS}
    calls = {(bits, part): call for bits, ebc in made.items() for part, call in steps_of(ebc, batch, grad).items()}
    seconds: dict[tuple, list[float]] = {key: [] for key in calls}
    for number in range(repeats + 3):
        for key, call in calls.items():
            start = time.perf_counter()
            call()
            if number >= 3:
                seconds[key].append(time.perf_counter() - start)
    median = {key: statistics.median(values) for key, values in seconds.items()}
    return [
        {
            "elements": made[bits].layout.numel, "bits": bits, "part": part, "milliseconds": 1e3 * median[bits, part],
            "ratio": median[bits, part] / median[32, part],
        }
        for bits, part in calls
    ]  # fmt: skip


def main() -> None:
    parser = Parser(prog="python -m benchmarks.bench_bits", description=__doc__.split("\n")[0])
    add_number(parser, "--repeats", default=30, help="of each call")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/bench_bits.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = [line for array_bytes in tqdm(ARRAYS) for line in measure(array_bytes, args.repeats)]
    print("| elements | bits | part | ms | of 32 bits |\n|---|---|---|---|---|")
    for line in found:
        print("| {elements:,} | {bits} | {part} | {milliseconds:.2f} | {ratio:.2f} |".format(**line))
    write_json(args.json, found)


if __name__ == "__main__":
    main()
