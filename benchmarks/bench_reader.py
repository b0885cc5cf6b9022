"""How fast rows are read: ``python -m benchmarks.bench_reader [--quick] [--data_path FILE] [--json FILE]``.

A Criteo file, plain and packed by gzip, by our reader, in batches of 2,048 rows: dense values and 64-bit ids, ready for a model. Beside it the same
lines by `criteo_lines` (Python, the reference), by pyarrow's and pandas' CSV parsers on one thread, which leave tokens as they are, the same columns in
Parquet, by ours and by pyarrow alone, prepared rows and their preparing by one process, and preprocessed arrays by TorchRec's reader and ours. Also what a pass costs that does nothing: all bytes read and line ends counted, and gzip's unpacking alone. All
in turn in one process, one thread; the median.
"""

import gzip
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torchrec.datasets.criteo import InMemoryBinaryCriteoIterDataPipe
from tqdm import tqdm

from torchrec_pss.datasets import criteo_files
from torchrec_pss.datasets.criteo_binary import BinaryCriteoReader
from torchrec_pss.datasets.criteo_files import CriteoFile, CriteoReader, open_files
from torchrec_pss.datasets.criteo_lines import NUM_FIELDS, parse_lines
from torchrec_pss.datasets.parquet_files import open_parquet
from torchrec_pss.datasets.parquet_rows import ParquetReader
from torchrec_pss.datasets.prepared_rows import PreparedReader, open_prepared
from torchrec_pss.datasets.preparing import prepare
from torchrec_pss.datasets.rows import DENSE_NAMES, KAGGLE_NUM_EMBEDDINGS, SPARSE_NAMES, RowSource
from torchrec_pss.datasets.schema import CRITEO_SCHEMA, Schema
from torchrec_pss.datasets.synthetic import ClickLogConfig, ClickLogGenerator
from torchrec_pss.flags import Parser, add_number
from torchrec_pss.whole_file import write_json

_BATCH = 2048
_CHUNK = 1 << 20
_REFERENCE_ROWS = 40_000  # it is slow


def write_text(path: Path, rows: int) -> None:
    """Generated rows as lines of Kaggle's form: counts, some of them missing, and tokens of eight hexadecimal digits."""
    generator = ClickLogGenerator(ClickLogConfig())
    with open(path, "w") as stream:
        for first in range(0, rows, 1 << 14):
            dense, ids, labels, _ = generator.rows(range(first, min(first + (1 << 14), rows)))
            counts = np.floor(np.expm1(np.abs(dense) * 2)).astype(np.int64)
            for row in range(len(labels)):
                numbers = ["" if dense[row, c] < -1 else str(counts[row, c]) for c in range(dense.shape[1])]
                tokens = [f"{(int(i) * 2654435761 + c) % (1 << 32):08x}" for c, i in enumerate(ids[:, row])]
                stream.write("\t".join([str(int(labels[row])), *numbers, *tokens]) + "\n")


def batches(source: RowSource, rows: int) -> int:
    windows = (range(first, min(first + _BATCH, rows)) for first in range(0, rows, _BATCH))
    return sum(len(block.batch().labels) for block in source.read(windows))


def with_reference(files: list[CriteoFile], rows: int) -> int:
    kernel = criteo_files.parse_text
    criteo_files.parse_text = lambda lines, *how: parse_lines(lines.split(), *how)
    try:
        return batches(CriteoReader(files), min(rows, _REFERENCE_ROWS))
    finally:
        criteo_files.parse_text = kernel


def line_ends(path: Path, opened: Callable) -> int:
    with opened(path, "rb") as stream:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: stream.read(_CHUNK), b""))


def by_pyarrow(path: Path) -> int:
    from pyarrow import csv

    names = [str(n) for n in range(NUM_FIELDS)]
    options = csv.ReadOptions(use_threads=False, column_names=names), csv.ParseOptions(delimiter="\t")
    return sum(b.num_rows for b in csv.open_csv(path, *options))


def write_parquet(path: Path, text: Path) -> Schema:
    """The lines' columns: numbers as whole ones, tokens as text."""
    from pyarrow import csv, parquet, string

    names = ["label", *DENSE_NAMES, *SPARSE_NAMES]
    options = csv.ReadOptions(column_names=names), csv.ParseOptions(delimiter="\t")
    kinds = csv.ConvertOptions(column_types=dict.fromkeys(SPARSE_NAMES, string()))
    parquet.write_table(csv.read_csv(text, *options, kinds), path, row_group_size=1 << 16)
    return CRITEO_SCHEMA


def parquet_by_pyarrow(path: Path) -> int:
    from pyarrow import parquet

    return sum(b.num_rows for b in parquet.ParquetFile(path).iter_batches(1 << 13, use_threads=False))


def by_pandas(path: Path) -> int:
    import pandas

    return sum(map(len, pandas.read_csv(path, sep="\t", header=None, chunksize=1 << 16)))


def write_arrays(folder: Path, files: list[CriteoFile], rows: int) -> None:
    (block,) = CriteoReader(files).read(iter([range(rows)]))
    moduli = np.array(KAGGLE_NUM_EMBEDDINGS)[:, None]
    for part, array in (
        ("dense", block.dense),
        ("sparse", (block.ids % moduli).T.astype(np.int32)),
        ("labels", block.labels[:, None].astype(np.int32)),
    ):
        np.save(folder / f"train_{part}.npy", array)


def by_torchrec(folder: Path) -> int:
    paths = [[str(folder / f"train_{part}.npy")] for part in ("dense", "sparse", "labels")]
    pipe = InMemoryBinaryCriteoIterDataPipe("train", *paths, batch_size=_BATCH, rank=0, world_size=1, hashes=list(KAGGLE_NUM_EMBEDDINGS))  # fmt: skip
    return sum(len(batch.labels) for batch in pipe)


def preparing(path: Path, output: Path) -> int:
    found = prepare(path, output, CRITEO_SCHEMA, workers=1)
    shutil.rmtree(output)
    return sum(part["rows"] for file in found["files"] for part in file["parts"])


def measure(path: Path, folder: Path, repetitions: int) -> dict:
    """Rows a second of each way."""
    torch.set_num_threads(1)
    packed, arrays = folder / "packed.tsv.gz", folder / "arrays"
    arrays.mkdir()
    with open(path, "rb") as text, gzip.open(packed, "wb", compresslevel=6) as to:
        while chunk := text.read(_CHUNK):
            to.write(chunk)
    files, packed_files = open_files(path), open_files(packed)
    rows = files[0].num_rows
    write_arrays(arrays, files, rows)
    schema = write_parquet(folder / "rows.parquet", path)
    parquet_files = open_parquet(folder / "rows.parquet", schema)
    prepare(path, folder / "prepared", CRITEO_SCHEMA, workers=1)
    prepared = open_prepared(folder / "prepared")
    ways: dict[str, Callable[[], int]] = {
        "text, ours": lambda: batches(CriteoReader(files), rows),
        "gzip, ours": lambda: batches(CriteoReader(packed_files), rows),
        "text, reference in Python": lambda: with_reference(files, rows),
        "text, bytes and line ends alone": lambda: line_ends(path, open),
        "gzip, unpacking and line ends alone": lambda: line_ends(packed, gzip.open),
        "text, pyarrow": lambda: by_pyarrow(path),
        "text, pandas": lambda: by_pandas(path),
        "Parquet, ours": lambda: batches(ParquetReader(parquet_files, schema), rows),
        "Parquet, pyarrow": lambda: parquet_by_pyarrow(folder / "rows.parquet"),
        "preparing text, a process": lambda: preparing(path, folder / "again"),
        "prepared, ours": lambda: batches(PreparedReader(prepared), rows),
        "arrays, ours": lambda: batches(BinaryCriteoReader(arrays, KAGGLE_NUM_EMBEDDINGS), rows),
        "arrays, TorchRec": lambda: by_torchrec(arrays),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for name in _in_turn(ways, repetitions):
        started = time.perf_counter()
        number = ways[name]()
        seconds[name].append((time.perf_counter() - started) / number)
    return {
        "rows": rows, "bytes": path.stat().st_size, "bytes_prepared": sum(p.size for f in prepared for p in f.parts), "bytes_packed": packed.stat().st_size,
        "rows_per_second": {name: 1 / statistics.median(taken) for name, taken in seconds.items()},
    }  # fmt: skip


def _in_turn(names: Iterable[str], repetitions: int) -> Iterator[str]:
    return iter(tqdm([name for _ in range(repetitions) for name in names], desc="reading"))


def markdown(found: dict) -> str:
    speeds = found["rows_per_second"]
    lines = ["| | rows/s | of ours |", "|---|---|---|"]
    lines += [f"| {name} | {speed:,.0f} | {speed / speeds['text, ours']:.2f} |" for name, speed in speeds.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = Parser(prog="python -m benchmarks.bench_reader", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="three times instead of seven")
    parser.add_argument("--data_path", type=Path, help="a tab-separated Criteo file, plain (default: generated rows)")
    add_number(parser, "--rows", default=200_000, help="that are generated")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/bench_reader.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = args.data_path
        if path is None:
            path = Path(folder) / "generated.tsv"
            write_text(path, args.rows)
        found = measure(path, Path(folder), 3 if args.quick else 7)
    print(markdown(found))
    write_json(args.json, json.loads(json.dumps(found)))


if __name__ == "__main__":
    main()
