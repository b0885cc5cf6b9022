"""What few bits cost: ``python -m benchmarks.bench_bits [--json FILE]``.

To train: Kaggle's 26 tables at the default layout, one id a bag; arrays of as many elements in 32 and in 8, 4 and 2 bits, on one thread:

- forward;
- step: forward, backward and torch's fused Adam, of the collection alone;
- in backward: the same with the array's Adam in the lookup's backward;
- model step: of a DLRM with the layers of ``train_criteo.py``, by torch's fused Adam.

To read: the lookup alone, in each case of ``bench_lookup --quick``, on the case's threads: in codes and scales that are there already, and
in a collection that `load_packed` has given 4 bits.

All in turn, a case in processes of its own; medians, and the ratio to 32 bits. With ``--busy``, where others use the machine: all on one
thread, in time of the processor.
"""

import copy
import itertools
import multiprocessing as mp
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torchrec.models.dlrm import DLRM
from tqdm import tqdm

from benchmarks.bench_lookup import keep_freed_memory, rows_of
from benchmarks.lookup_cases import MB, QUICK, Case, draw_ids
from benchmarks.shared_collection import batch_of, collection
from torchrec_pss import PSSEmbeddingBagCollection, load_packed, packed
from torchrec_pss.datasets.rows import KAGGLE_NUM_EMBEDDINGS, NUM_DENSE
from torchrec_pss.flags import Parser, add_number
from torchrec_pss.ops import PoolingMode, lookup
from torchrec_pss.ops.packed import lookup_packed, pack
from torchrec_pss.whole_file import write_json

BITS = (32, 8, 4, 2)
# Bytes in fp32. 16 MB are Kaggle's tables in 4 bits at 1,000x; of more than 32 MiB glibc maps a gradient anew each time.
ARRAYS = (MB, 10 * MB, 16 * MB, 30 * MB)
CASE = Case("kaggle", "default", MB, 16, 4096, 1, "power_law", 1)
_WARM_UP = 3  # calls, or turns
_TURN = 0.01  # seconds that a side reads for when it is its turn
_BATCHES = 4
_TABLE_GIB = 2.5  # to which bench_lookup scales its tables down

Calls = dict[tuple[int, str], Callable[[int], object]]  # by bits and part; of the batch with that number


def of_bits(like: PSSEmbeddingBagCollection, bits: int) -> PSSEmbeddingBagCollection:
    """The same elements and places, read in other bits. A layout of as many bytes would have other hot rows, which change the work."""
    made = copy.deepcopy(like)
    made._layout, made._config = replace(like.layout, bits=bits), replace(like.config, bits=bits)
    return made


def steps_of(ebc: PSSEmbeddingBagCollection, batch, grad: torch.Tensor) -> dict[str, Callable[[int], object]]:
    stepped = copy.deepcopy(ebc)
    stepped.step_in_backward(torch.optim.Adam([stepped.array]))
    model = DLRM(copy.deepcopy(ebc), NUM_DENSE, [64, CASE.embedding_dim], [256, 128, 1])
    dense, labels = torch.rand(CASE.batch_size, NUM_DENSE), torch.randint(0, 2, (CASE.batch_size, 1)).float()

    def forward(_: int) -> None:
        with torch.no_grad():
            ebc(batch)

    def learn(parameters, backward: Callable[[], None]) -> Callable[[int], None]:
        optimizer = torch.optim.Adam(parameters, fused=True)

        def step(_: int) -> None:
            optimizer.zero_grad()
            backward()
            optimizer.step()

        return step

    loss = torch.nn.functional.binary_cross_entropy_with_logits
    return {
        "forward": forward,
        "step": learn(ebc.parameters(), lambda: ebc(batch).values().backward(grad)),
        "in backward": learn([stepped.projections], lambda: stepped(batch).values().backward(grad)),
        "model step": learn(model.parameters(), lambda: loss(model(dense, batch), labels).backward()),
    }


def read_of(ebc: PSSEmbeddingBagCollection, batches) -> Callable[[int], object]:
    """The lookup of a collection's features and nothing beside it, of elements as they are stored."""
    bits, numel = ebc._read_bits, ebc.layout.numel
    given = ebc._arguments(range(len(ebc.layout.tables)), PoolingMode.SUM)
    if "projections" in given:
        given["projections"] = given["projections"].detach()
    array = ebc.array.detach()
    codes, scales = (None, None) if bits == 32 else pack(array, bits)

    def read(number: int) -> torch.Tensor:
        ids = {"indices": batches[number].values(), "offsets": batches[number].offsets()}
        if bits == 32:
            return lookup(array, **ids, **given)
        return lookup_packed(codes, scales, numel=numel, bits=bits, **ids, **given)

    return read


def loaded(ebc: PSSEmbeddingBagCollection) -> PSSEmbeddingBagCollection:
    """Another collection, for reading alone, with what this one stores."""
    reads = copy.deepcopy(ebc)
    load_packed(reads, packed(ebc))
    return reads


def medians(calls: Calls, repeats: int, turn: float, busy: bool) -> dict[tuple[int, str], float]:
    """Seconds of each call, in turn; of a turn of that many seconds, the mean, after one call that leaves its own in the caches."""
    seconds: dict[tuple[int, str], list[float]] = {key: [] for key in calls}
    number_of = dict.fromkeys(calls, 1)
    clock = time.process_time if busy else time.perf_counter
    for repeat in range(repeats + _WARM_UP):
        for key, call in calls.items():
            if turn:
                call(0)
            start = clock()
            for number in range(number_of[key]):
                call((number + 1) % _BATCHES)
            spent = (clock() - start) / number_of[key]
            number_of[key] = max(1, int(turn / spent))
            if repeat >= _WARM_UP:
                seconds[key].append(spent)
    return {key: statistics.median(values) for key, values in seconds.items()}


def _rival_of(part: str) -> str:
    """That of 32 bits."""
    return "read" if part == "loaded" else part


def _lines(median: dict[tuple[int, str], float], **of_all) -> list[dict]:
    return [
        of_all | {"bits": bits, "part": part, "milliseconds": 1e3 * spent, "ratio": spent / median[32, _rival_of(part)]}
        for (bits, part), spent in median.items()
    ]


def measure(array_bytes: int, repeats: int, busy: bool = False) -> list[dict]:
    """To train."""
    torch.set_num_threads(CASE.threads)
    case = replace(CASE, array_bytes=array_bytes)
    rows = list(KAGGLE_NUM_EMBEDDINGS)
    batch = batch_of(case, draw_ids(rows, case.batch_size, case.ids))
    grad = torch.randn(case.batch_size, len(rows) * case.embedding_dim)
    wide = collection(case, rows)
    made = {bits: of_bits(wide, bits) for bits in BITS}
    calls = {(bits, part): call for bits, ebc in made.items() for part, call in steps_of(ebc, batch, grad).items()}
    return [line | {"elements": made[line["bits"]].layout.numel} for line in _lines(medians(calls, repeats, 0, busy))]


@torch.no_grad()
def measure_read(case: Case, repeats: int, busy: bool = False, table_gib: float = _TABLE_GIB) -> list[dict]:
    """To read."""
    case = replace(case, threads=1) if busy else case
    torch.set_num_threads(case.threads)
    rows = rows_of(case, table_gib)
    number = case.batch_size * case.ids_per_bag
    batches = [batch_of(case, draw_ids(rows, number, case.ids, seed)) for seed in range(2, 2 + _BATCHES)]
    wide = collection(case, rows)
    made = {bits: of_bits(wide, bits) for bits in BITS}
    calls = {(bits, "read"): read_of(ebc, batches) for bits, ebc in made.items()}
    calls[4, "loaded"] = read_of(loaded(made[4]), batches)
    return _lines(medians(calls, repeats, _TURN, busy), elements=wide.layout.numel, **asdict(case))


def each_apart(measured: Callable[..., list[dict]], of: Sequence, runs: int, *arguments) -> list[dict]:
    """The lines of all, each measured in so many processes of its own: in memory that others have left in pieces, what lies there is slower
    to read. Medians of the processes, and all their ratios."""
    with ProcessPoolExecutor(1, mp.get_context("spawn"), max_tasks_per_child=1) as pool:
        every = [one for one in of for _ in range(runs)]
        lines = list(tqdm(pool.map(measured, every, *map(itertools.repeat, arguments)), total=len(every)))
    found = []
    for first in range(0, len(lines), runs):
        for same in zip(*lines[first : first + runs], strict=True):
            ratios = [line["ratio"] for line in same]
            milliseconds = statistics.median(line["milliseconds"] for line in same)
            found.append(same[0] | {"milliseconds": milliseconds, "ratio": statistics.median(ratios), "ratios": ratios})
    return found


def _spread(line: dict) -> str:
    return f"{line['ratio']:.2f} ({min(line['ratios']):.2f} to {max(line['ratios']):.2f})"


def main() -> None:
    keep_freed_memory("benchmarks.bench_bits")
    parser = Parser(prog="python -m benchmarks.bench_bits", description=__doc__.split("\n")[0])
    add_number(parser, "--repeats", default=30, help="of each call")
    add_number(parser, "--runs", default=3, help="processes that measure a case")
    parser.add_argument("--busy", action="store_true", help="others use the machine: one thread, time of the processor")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/bench_bits.json"))
    args = parser.parse_args()
    cases = [c for c in QUICK if not args.busy or replace(c, threads=1) not in QUICK or c.threads == 1]
    found = {
        "busy": args.busy,
        "train": each_apart(measure, ARRAYS, args.runs, args.repeats, args.busy),
    }
    print("| elements | bits | part | ms | of 32 bits |\n|---|---|---|---|---|")
    for line in found["train"]:
        print("| {elements:,} | {bits} | {part} | {milliseconds:.2f} | {spread} |".format(**line, spread=_spread(line)))
    found["read"] = each_apart(measure_read, cases, args.runs, args.repeats, args.busy)
    print("| case | elements | bits | part | ms | of 32 bits |\n|---|---|---|---|---|---|")
    for line in found["read"]:
        print(
            "| {tables} {layout}, D {embedding_dim}, B {batch_size} x {ids_per_bag}, {ids}, {threads} thr. | {elements:,} | {bits} | {part} | "
            "{milliseconds:.2f} | {spread} |".format(**line, spread=_spread(line))
        )
    write_json(args.json, found)


if __name__ == "__main__":
    main()
