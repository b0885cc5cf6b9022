"""What answering costs: ``python -m benchmarks.bench_serving [--quick] [--json FILE]``.

``lookup``: Kaggle's 26 tables, D = 16, or MLPerf's, D = 128, of which as many rows as memory holds; one id a bag, ids of a power law: our array in 32, 8 and 4 bits, by `torchrec_pss.quant`'s lookup, against
FBGEMM's `IntNBitTableBatchedEmbeddingBagsCodegen` on full tables in int8 and int4, and its fp32 tables. ``model``: a DLRM with those, ours
exported, compiled and not, theirs TorchRec's quantized collection in eager mode. All in turn in one process, one thread; p50 and p99 of a call.

``process``: a fresh process that opens what it serves from a file and answers one row: seconds from the open to the answer, and its resident
memory, less that of the imports. Full tables are loaded with `torch.load`, from a file that was read just before.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from fbgemm_gpu.split_embedding_configs import SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_inference import IntNBitTableBatchedEmbeddingBagsCodegen
from torch import nn
from torchrec.models.dlrm import DLRM
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor
from tqdm import tqdm

from benchmarks.lookup_cases import MB, Case, draw_ids
from benchmarks.shared_collection import collection
from torchrec_pss.datasets.rows import KAGGLE_NUM_EMBEDDINGS, MLPERF_NUM_EMBEDDINGS
from torchrec_pss.export import Served, export
from torchrec_pss.export.runs import Probability
from torchrec_pss.flags import Parser, add_number
from torchrec_pss.quant import PSSEmbeddingBagCollection
from torchrec_pss.whole_file import write_json

NUM_DENSE = 13
BATCHES = (1, 16, 256, 4096)
_DRAWN = 32  # batches that take turns: no side finds its rows in the cache because it has just read the same ids
_FULL = {"fbgemm fp32": SparseType.FP32, "fbgemm int8": SparseType.INT8, "fbgemm int4": SparseType.INT4}
_BITS = (32, 8, 4)
NAMES = [f"f{i}" for i in range(len(KAGGLE_NUM_EMBEDDINGS))]


@dataclass(frozen=True)
class Shape:
    """What full tables are served, and the array in their place.

    Attributes:
        rows: of each table.
        dim: D.
        array_bytes: of the array in fp32.
        dense: sizes of the dense arch's layers.
        kinds: of full tables that are measured.
    """

    rows: tuple[int, ...]
    dim: int
    array_bytes: int
    dense: tuple[int, ...]
    kinds: tuple[str, ...] = tuple(_FULL)

    def scaled(self, number: int) -> "Shape":
        """As many rows in all as ``number``, or fewer."""
        share = min(1.0, number / sum(self.rows))
        return replace(self, rows=tuple(max(2, int(n * share)) for n in self.rows))


SHAPES = {
    "kaggle": Shape(KAGGLE_NUM_EMBEDDINGS, 16, 2 * MB, (64, 16)),
    # A quarter of MLPerf's rows: 7 GB in int8. In fp32 it would be 26.
    "mlperf": Shape(MLPERF_NUM_EMBEDDINGS, 128, 10 * MB, (64, 128), ("fbgemm int8", "fbgemm int4")).scaled(51_000_000),
}


def tables_of(shape: Shape, kind: SparseType) -> IntNBitTableBatchedEmbeddingBagsCodegen:
    """Full tables of random rows, as FBGEMM serves them."""
    specs = [(f"t{i}", n, shape.dim, kind, EmbeddingLocation.HOST) for i, n in enumerate(shape.rows)]
    tbe = IntNBitTableBatchedEmbeddingBagsCodegen(specs, device="cpu", output_dtype=SparseType.FP32)
    tbe.fill_random_weights()
    return tbe


class Tables(EmbeddingBagCollectionInterface):
    """Those as a collection, for a DLRM."""

    def __init__(self, tbe: IntNBitTableBatchedEmbeddingBagsCodegen, configs: list[EmbeddingBagConfig]) -> None:
        super().__init__()
        self.tbe, self._configs = tbe, configs

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        dims = [config.embedding_dim for config in self._configs]
        return KeyedTensor(NAMES, dims, self.tbe(features.values().int(), features.offsets().int()))

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        return self._configs

    def is_weighted(self) -> bool:
        return False


def batches_of(rows: tuple[int, ...], size: int) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Dense values, ids and lengths."""
    lengths = torch.ones(len(rows), size, dtype=torch.int64)
    return [
        (torch.rand(size, NUM_DENSE), draw_ids(rows, size, "power_law", seed).flatten(), lengths)
        for seed in range(_DRAWN)
    ]


def in_turn(calls: dict[str, Callable[[int], object]], seconds: float) -> dict[str, dict[str, float]]:
    """Microseconds of a call, p50 and p99, each side called so long."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for number in range(20):
            call(number % _DRAWN)
    started, number = time.perf_counter(), 0
    while time.perf_counter() - started < seconds * len(calls) or number < 100:
        for name, call in calls.items():
            before = time.perf_counter()
            call(number % _DRAWN)
            found[name].append(time.perf_counter() - before)
        number += 1
    return {
        name: {
            "p50": 1e6 * statistics.median(taken),
            "p99": 1e6 * sorted(taken)[int(0.99 * len(taken))],
            "calls": len(taken),
        }
        for name, taken in found.items()
    }


def kjt(values: torch.Tensor, lengths: torch.Tensor) -> KeyedJaggedTensor:
    offsets = torch.cat([lengths.new_zeros(1), lengths.flatten().cumsum(0)])
    return KeyedJaggedTensor(NAMES, values, lengths=lengths.flatten(), offsets=offsets, stride=lengths.shape[1])


@torch.inference_mode()
def lookups(size: int, ours: dict, theirs: dict, rows: tuple[int, ...], seconds: float) -> dict[str, dict[str, float]]:
    """Of ids and offsets that are there."""
    batches = batches_of(rows, size)
    offsets = torch.arange(len(rows) * size + 1)
    narrow = [(ids.int(), offsets.int()) for _, ids, _ in batches]
    calls: dict[str, Callable[[int], object]] = {}
    for name, ebc in ours.items():
        calls[name] = lambda n, ebc=ebc: ebc.lookup(ebc.array, batches[n][1], offsets, None)
    for name, tbe in theirs.items():
        calls[name] = lambda n, tbe=tbe: tbe(*narrow[n])
    return in_turn(calls, seconds)


@torch.inference_mode()
def models(
    size: int, files: dict[str, Served], theirs: dict[str, nn.Module], rows: tuple[int, ...], seconds: float
) -> dict:
    """Probabilities of rows."""
    batches = batches_of(rows, size)
    calls: dict[str, Callable[[int], object]] = {n: (lambda i, f=f: f(*batches[i])) for n, f in files.items()}
    calls |= {n: (lambda i, m=m: m(batches[i][0], kjt(*batches[i][1:]))) for n, m in theirs.items()}
    return in_turn(calls, seconds)


def dlrm(ebc: nn.Module, dense: Sequence[int]) -> nn.Module:
    """As `train_criteo.py` trains it."""
    torch.manual_seed(0)
    return Probability(DLRM(ebc, NUM_DENSE, list(dense), [256, 128, 1])).eval()


_PROCESS = """
import sys, time, warnings; warnings.simplefilter("ignore")
import torch
from benchmarks import bench_serving as b
def resident():
    return next(int(l.split()[1]) * 1024 for l in open("/proc/self/status") if l.startswith("VmRSS"))
torch.set_num_threads(1)
kind, path, shape = sys.argv[1:]
shape = b.SHAPES[shape]
before, started = resident(), time.perf_counter()
dense, ids, lengths = torch.rand(1, b.NUM_DENSE), torch.ones(26, dtype=torch.int64), torch.ones(26, 1, dtype=torch.int64)
with torch.inference_mode():
    if kind == "file":
        model = b.Served(path); model(dense, ids, lengths)
    else:
        tbe = torch.load(path, weights_only=False, mmap=False)
        model = b.dlrm(b.Tables(tbe, b.configs_of(shape)), shape.dense); model(dense, b.kjt(ids, lengths))
print(time.perf_counter() - started, resident() - before)
"""


def process(kind: str, path: Path, shape: str) -> dict[str, float]:
    """Of a process of its own."""
    with open(path, "rb") as stream:  # into the page cache
        while stream.read(1 << 24):
            pass
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _PROCESS, kind, str(path), shape],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, resident = map(float, done.stdout.split()[-2:])
    return {"seconds": seconds, "resident_bytes": resident, "file_bytes": path.stat().st_size}


def configs_of(shape: Shape) -> list[EmbeddingBagConfig]:
    return [
        EmbeddingBagConfig(name=f"t{i}", num_embeddings=n, embedding_dim=shape.dim, feature_names=[f"f{i}"])
        for i, n in enumerate(shape.rows)
    ]


def measure(
    seconds: float,
    name: str,
    shape: Shape,
    folder: Path,
    batch_sizes: Sequence[int] = BATCHES,
    exported: Sequence[int] = (32, 4),
) -> dict:
    """Of `SHAPES`' ``name``, or less of it. ``exported``: bits of the files."""
    torch.set_num_threads(1)
    rows = shape.rows
    trained = collection(Case(name, "default", shape.array_bytes, shape.dim, 1, 1, "power_law", 1), list(rows))
    ours = {f"array {bits} bits": PSSEmbeddingBagCollection(trained, bits) for bits in _BITS}
    theirs = {kind: tables_of(shape, _FULL[kind]) for kind in tqdm(shape.kinds, desc="full tables")}
    dense, ids, lengths = batches_of(rows, 2)[0]
    files = {}
    for bits in tqdm(exported, desc="exporting"):
        for aoti in (True, False):
            kind = f"array {bits} bits, {'compiled' if aoti else 'exported'}"
            export(
                dlrm(trained, shape.dense),
                [dense, kjt(ids, lengths)],
                folder / f"{bits}{aoti}.pt2",
                bits=bits,
                aoti=aoti,
            )
            files[kind] = Served(folder / f"{bits}{aoti}.pt2")
    eager = {kind: dlrm(Tables(tbe, configs_of(shape)), shape.dense) for kind, tbe in theirs.items()}
    eager["array 4 bits, eager"] = dlrm(ours["array 4 bits"], shape.dense)
    found = {"rows": sum(rows), "lookup": {}, "model": {}, "process": {}}
    for size in tqdm(batch_sizes, desc="calls"):
        found["lookup"][size] = lookups(size, ours, theirs, rows, seconds)
        found["model"][size] = models(size, files, eager, rows, seconds)
    for kind, file in files.items():
        found["process"][kind] = process("file", file.path, name)
    eager.clear()
    for kind in list(theirs):
        torch.save(theirs.pop(kind), folder / "tables.pt")  # not twice in memory
        found["process"][kind] = process("tables", folder / "tables.pt", name)
    return found


def markdown(found: dict) -> str:
    lines = []
    for part in ("lookup", "model"):
        sizes = list(found[part])
        lines += [
            f"| {part}, p50 (p99) us | " + " | ".join(f"batch {s}" for s in sizes) + " |",
            "|---" * (len(sizes) + 1) + "|",
        ]
        lines += [
            f"| {name} | "
            + " | ".join(f"{found[part][s][name]['p50']:.0f} ({found[part][s][name]['p99']:.0f})" for s in sizes)
            + " |"
            for name in found[part][sizes[0]]
        ] + [""]
    lines += ["| a fresh process | file | memory | to the first answer |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {p['file_bytes'] / 1e6:.1f} MB | {p['resident_bytes'] / 1e6:.0f} MB | {p['seconds']:.2f} s |"
        for name, p in found["process"].items()
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = Parser(prog="python -m benchmarks.bench_serving", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="half a second a side and batch instead of three")
    parser.add_argument("--shape", choices=SHAPES, default="kaggle")
    add_number(parser, "--table_rows", help="of full tables, all together, at most (default: what the shape says)")
    parser.add_argument(
        "--json", type=Path, help="default benchmarks/results/bench_serving.json, or bench_serving_mlperf.json"
    )
    args = parser.parse_args()
    shape = SHAPES[args.shape].scaled(args.table_rows or sum(SHAPES[args.shape].rows))
    with tempfile.TemporaryDirectory() as folder:
        found = measure(0.5 if args.quick else 3.0, args.shape, shape, Path(folder))
    print(markdown(found))
    of_shape = "" if args.shape == "kaggle" else f"_{args.shape}"
    write_json(args.json or Path(f"benchmarks/results/bench_serving{of_shape}.json"), json.loads(json.dumps(found)))


if __name__ == "__main__":
    main()
