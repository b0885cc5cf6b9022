"""What each kind of row costs: exact, hot and hashed rows of one read width, all projected, in turn in one process.

    python -m benchmarks.bench_row_kinds [--threads 2] [--json FILE]

26 tables of 8,000 rows, of which a batch reads few twice (rows that repeat are read once), D 16, read at 6 coordinates and a bias, one id a
bag, SGD in backward. Exact rows are the floor of every projected layout: ids are not hashed and nothing is searched.
"""

import statistics
import time
from pathlib import Path

import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from benchmarks.bench_lookup import keep_freed_memory, trained
from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection
from torchrec_pss.flags import Parser, add_number
from torchrec_pss.whole_file import write_json

_TABLES, _ROWS, _DIM, _WIDTH = 26, 8000, 16, 6
_BATCHES, _REPEATS = 4, 41


def configs(names: list[str]) -> dict[str, PSSConfig]:
    common = {"array_bytes": 7_500_000, "layout": "plain", "bias": True, "block_size": 1}
    return {
        "exact": PSSConfig(**common, width=dict.fromkeys(names, _WIDTH), exact=names),
        "hot": PSSConfig(**common, width=_WIDTH, exact=[], segments=True, hot={n: list(range(_ROWS)) for n in names}),
        "hashed": PSSConfig(**common, width=_WIDTH, exact=[], segments=True),
    }


def main() -> None:
    keep_freed_memory("benchmarks.bench_row_kinds")
    parser = Parser(description=__doc__.split("\n")[0])
    add_number(parser, "--threads", default=2)
    add_number(parser, "--batch_size", default=2048)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tables = [
        EmbeddingBagConfig(num_embeddings=_ROWS, embedding_dim=_DIM, name=f"t{i}", feature_names=[f"f{i}"])
        for i in range(_TABLES)
    ]
    generator = torch.Generator().manual_seed(0)
    number = _TABLES * args.batch_size
    lengths = torch.ones(number, dtype=torch.int32)
    batches = [
        KeyedJaggedTensor(
            [f"f{i}" for i in range(_TABLES)], torch.randint(_ROWS, (number,), generator=generator), lengths=lengths
        )
        for _ in range(_BATCHES)
    ]
    for batch in batches:
        batch.offsets()
    grad = torch.randn(args.batch_size, _TABLES * _DIM)
    kinds = {}
    for name, config in configs([t.name for t in tables]).items():
        forward, step = trained(PSSEmbeddingBagCollection(tables, config=config), batches, grad)
        kinds[name] = {"forward": torch.no_grad()(forward), "step": step}
    times: dict[str, dict[str, list[float]]] = {name: {"forward": [], "step": []} for name in kinds}
    for repeat in range(_REPEATS):
        for name, functions in kinds.items():
            for what, function in functions.items():
                function(repeat % _BATCHES)
                started = time.perf_counter()
                function((repeat + 1) % _BATCHES)
                times[name][what].append(time.perf_counter() - started)
    found = {n: {what: statistics.median(t) / number * 1e9 for what, t in of.items()} for n, of in times.items()}
    print(f"nanoseconds an id, {args.threads} threads")
    for name, of in found.items():
        print(f"{name:8} forward {of['forward']:6.1f}   step {of['step']:6.1f}")
    if args.json:
        write_json(args.json, {"threads": args.threads, "batch_size": args.batch_size, "nanoseconds_an_id": found})


if __name__ == "__main__":
    main()
