"""Where train_criteo.py's rows come from, and how many rows the full tables would have."""

import argparse
import copy
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

import criteo_flags
import process_group
import torch.distributed as dist
from click_data import ClickData, modulo
from tqdm import tqdm

from torchrec_pss.datasets.cache_folder import check_writable, is_cached, locked
from torchrec_pss.datasets.counted_ids import CountedIds
from torchrec_pss.datasets.criteo_binary import BinaryCriteoReader
from torchrec_pss.datasets.criteo_files import CriteoReader
from torchrec_pss.datasets.frequent import FrequentIds
from torchrec_pss.datasets.numbering import Numbering
from torchrec_pss.datasets.open_rows import DataFile, FileReader, find_rows_files, reader_of, schema_of
from torchrec_pss.datasets.parquet_rows import ParquetReader
from torchrec_pss.datasets.prepared_rows import PreparedReader, is_prepared
from torchrec_pss.datasets.preparing import prepare
from torchrec_pss.datasets.rows import (
    KAGGLE_NUM_EMBEDDINGS,
    MLPERF_NUM_EMBEDDINGS,
    RowBlock,
    RowSource,
)
from torchrec_pss.datasets.schema import CRITEO_SCHEMA, Schema
from torchrec_pss.datasets.splits import Splits, describe, split_files, uses_fraction
from torchrec_pss.datasets.synthetic import ClickLogConfig, ClickLogGenerator
from torchrec_pss.datasets.vocabulary import Vocabulary
from torchrec_pss.density import is_dense
from torchrec_pss.modules.id_counts import IdCounts

T = TypeVar("T")
logger: logging.Logger = logging.getLogger(__name__)

_DEFAULT_FRACTION = criteo_flags.parser().get_default("train_fraction")
_PASS_ROWS = 1 << 14
_COUNTED_ROWS = 1 << 21  # training rows, evenly spread, whose ids are counted where none must be read anyway
_KINDS = {CriteoReader: "text", ParquetReader: "parquet", PreparedReader: "prepared"}
_COUNTED = "distinct ids of the training rows, counted exactly, and one row for others"


def load(args: argparse.Namespace) -> ClickData:
    """The data that the flags name. Collective: rank 0 counts, the others wait for its result."""
    schema = CRITEO_SCHEMA
    if args.data_path:
        schema = process_group.first_rank_first(lambda: schema_of(args.data_path, args.schema))
    number = len(schema.features)
    declared = args.num_embeddings_per_feature or ([args.num_embeddings] * number if args.num_embeddings else None)
    if declared and len(declared) != number:
        raise ValueError(f"--num_embeddings_per_feature needs {number} numbers, got {len(declared)}")
    defaults = MLPERF_NUM_EMBEDDINGS if args.dataset_name == "criteo_1t" else KAGGLE_NUM_EMBEDDINGS
    if args.in_memory_binary_criteo_path:
        rows = list(declared or defaults)
        reader = BinaryCriteoReader(args.in_memory_binary_criteo_path, rows)
        splits, signature = _divide(args, "preprocessed", reader.names, reader)
        return ClickData(reader, splits, signature, rows, "declared", True, _sampled_counts(args, reader, splits.train))
    if args.data_path:
        data = _load_files(args, declared, schema)
        data.share_logged()
        return data
    rows = declared or [max(2, round(n * args.synthetic_scale)) for n in defaults]
    config = ClickLogConfig(seed=args.seed, num_embeddings=tuple(rows), skew=args.synthetic_skew)
    train, held_out = args.synthetic_rows, max(args.synthetic_rows // 10, 1)
    splits = Splits(range(train), range(train, train + held_out), range(train + held_out, train + 2 * held_out))
    _warn_of_fraction(args, "rows are generated")
    generator = ClickLogGenerator(config)
    # As JSON has it: lists, not tuples.
    signature = {
        "kind": "generated",
        "splits": splits.as_json(),
        "log": asdict(config) | {"num_embeddings": list(rows)},
    }
    return ClickData(
        generator, splits, signature, rows, "declared", True, _sampled_counts(args, generator, splits.train)
    )


def _divide(
    args: argparse.Namespace, kind: str, names: list[str], reader: FileReader | BinaryCriteoReader
) -> tuple[Splits, dict]:
    """The parts of files' rows, which it logs, and what checkpoints say of the files."""
    splits = split_files(reader.rows_per_file, args.train_fraction, reader.roles)
    if not uses_fraction(reader.roles):
        _warn_of_fraction(args, "the files say which rows are for what")
    for line in describe(splits, names, reader.rows_per_file):
        logger.info("%s", line)
    files = [signature.as_json() for signature in reader.signatures]
    return splits, {"kind": kind, "splits": splits.as_json(), "files": files}


def _warn_of_fraction(args: argparse.Namespace, why: str) -> None:
    if args.train_fraction != _DEFAULT_FRACTION and dist.get_rank() == 0:
        logger.warning("--train_fraction %g is not used: %s", args.train_fraction, why)


def _sampled_counts(args: argparse.Namespace, source: RowSource, train: range) -> list[IdCounts] | None:
    """Counts of the ids of some training rows, for the array. Collective."""
    if args.embedding != "pss":
        return None
    blocks = range(train.start, train.stop, _PASS_ROWS)
    blocks = blocks[:: max(1, len(blocks) * _PASS_ROWS // _COUNTED_ROWS)]

    def count() -> list[IdCounts]:
        frequent = FrequentIds(len(CRITEO_SCHEMA.sparse))
        windows = (range(start, min(start + _PASS_ROWS, train.stop)) for start in tqdm(blocks, "counting ids", delay=5))
        for block in source.read(windows):
            frequent.add(block.ids_by_feature())
        return frequent.counts()

    return process_group.first_rank_first(count)


def _load_files(args: argparse.Namespace, declared: list[int] | None, schema: Schema) -> ClickData:
    path = args.data_path
    if schema.split is not None:
        path = process_group.first_rank_first(lambda: _prepared(args, schema))
        schema = schema.written()
    files = process_group.first_rank_first(lambda: find_rows_files(path, schema, args.cache_dir))
    reader = reader_of(files, schema, args.max_bad_rows)
    number = len(schema.features)
    splits, signature = _divide(args, _KINDS[type(reader)], [f.signature.name for f in files], reader)
    if schema is not CRITEO_SCHEMA:
        signature["schema"] = _columns_read(schema)

    def training_rows() -> Iterator[RowBlock]:
        starts = tqdm(range(0, len(splits.train), _PASS_ROWS), desc="counting ids", delay=5)
        windows = (splits.train[start : start + _PASS_ROWS] for start in starts)
        return copy.copy(reader).read(windows)  # a copy: it counts malformed lines

    def known() -> Vocabulary:
        return _kept(args, Vocabulary, files, splits.train, lambda: Vocabulary.build(training_rows(), number), schema)

    if args.embedding == "pss" and not args.planner_pss:
        # The array takes ids as they are; the tables' sizes say what it is compared with, and the slices' sizes.
        counted = process_group.first_rank_first(
            lambda: _kept(args, CountedIds, files, splits.train, lambda: CountedIds.of(training_rows(), number), schema)
        )
        distinct, counts = counted.distinct, counted.counts
        how = "declared" if declared else "distinct ids of the training rows, by HyperLogLog sketch (0.8 %)"
        asked = args.vocabulary is not None
        if args.vocabulary is None:
            args.vocabulary = not declared and is_dense(len(splits.train), distinct)
        if args.vocabulary:
            return _numbered(reader, splits, signature, counts, known, schema, asked)
        return ClickData(reader, splits, signature, declared or distinct, how, False, counts, schema=schema)
    if declared:
        return ClickData(reader, splits, signature, declared, "declared", True, rows_of=modulo(declared), schema=schema)

    made: list[Vocabulary] = []
    process_group.first_rank_first(lambda: made.append(known()))
    vocabulary = (
        made[0] if made else known()
    )  # what the first rank has written: to send it would take as much memory again
    # One more row for ids not seen in training.
    rows = [n + 1 for n in vocabulary.num_distinct]
    return ClickData(reader, splits, signature, rows, _COUNTED, True, rows_of=vocabulary.rows_of, schema=schema)


def _prepared(args: argparse.Namespace, schema: Schema) -> Path:
    """The folder in the cache of rows that a schema divides, made if it is not there."""
    read = replace(schema, split=None)
    files = [f.signature.as_json() for f in find_rows_files(args.data_path, read, args.cache_dir)]
    key = json.dumps([str(args.data_path), files, schema.as_json()])
    folder = Path(args.cache_dir) / f"prepared-{_short_hash(key)}"
    with locked(folder.with_suffix(".lock"), wait=True):  # another run may be at the same
        if not is_prepared(folder):
            logger.info("the schema divides the rows: they are prepared in %s", folder)
            prepare(args.data_path, folder, schema, max_bad_rows=args.max_bad_rows, cache_dir=args.cache_dir)
    return folder


def _short_hash(key: str) -> str:
    """Of what names of files in the cache stand for."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:16]


def _columns_read(schema: Schema) -> str:
    """As text, which has an order. The group changes nothing of what is trained: a run may go on with another."""
    return json.dumps(replace(schema, group=None).as_json())


def _numbered(
    reader: FileReader,
    splits: Splits,
    signature: dict,
    counts: list[IdCounts],
    known: Callable[[], Vocabulary],
    schema: Schema,
    asked: bool,
) -> ClickData:
    """For an array whose tables have their ids' rows. Collective."""

    numbering = process_group.first_rank_first(lambda: Numbering.of(known(), [c.ids for c in counts]))
    counts = [replace(c, ids=numbering.first_rows(feature, len(c.ids))) for feature, c in enumerate(counts)]
    signature = signature | {"ids": numbering.digest}
    data = ClickData(reader, splits, signature, numbering.num_rows, _COUNTED, True, counts, schema=schema)
    data.number(numbering)
    if dist.get_rank() == 0:
        logger.info(
            "the ids of the training rows are numbered, %s of them, 8 bytes each beside the array: %s",
            f"{sum(map(len, numbering.ids)):,}", "--vocabulary" if asked else "a dense log, few ids that are read often (--no-vocabulary hashes them)",
        )  # fmt: skip
    return data


def _kept(
    args: argparse.Namespace, what: type[T], files: list[DataFile], train: range, make: Callable[[], T], schema: Schema
) -> T:
    """What is counted of the training rows: as it lies in the cache's folder, by path and signature of the files, or made and put there: by
    one rank at a time."""
    cache, features = Path(args.cache_dir), len(schema.features)
    key = repr([(str(f.path.resolve()), f.signature) for f in files]) + str(train)
    if schema is not CRITEO_SCHEMA:
        key += _columns_read(schema)
    name = {Vocabulary: "vocabulary", CountedIds: "counts"}[what]
    path = cache / f"{name}-{_short_hash(key)}.npz"
    if is_cached(path):
        try:
            return what.load(path, key, features)
        except ValueError as error:
            logger.warning("%s: it is built again", error)
    check_writable(cache)
    logger.info("counting the ids of %d training rows", len(train))
    found = make()
    try:
        found.save(path, key)
    except OSError as error:
        raise ValueError(f"--cache_dir {cache}: {path.name} cannot be written: {error}") from error
    return found
