"""Where train_criteo.py's rows come from, and how many rows the full tables would have."""

import argparse
import copy
import hashlib
import json
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

import criteo_flags
import numpy as np
import torch.distributed as dist
from click_metrics import OneClassError
from process_group import patient_group
from torchrec.datasets.utils import Batch
from tqdm import tqdm

from torchrec_pss.datasets.bad_rows import BadRows
from torchrec_pss.datasets.cache_folder import check_writable, is_cached, locked
from torchrec_pss.datasets.column_checks import odd_columns
from torchrec_pss.datasets.counted_ids import CountedIds
from torchrec_pss.datasets.criteo_binary import BinaryCriteoReader
from torchrec_pss.datasets.criteo_files import CriteoReader
from torchrec_pss.datasets.errors import DataError
from torchrec_pss.datasets.file_signature import check_same_files
from torchrec_pss.datasets.frequent import FrequentIds
from torchrec_pss.datasets.numbering import Numbering
from torchrec_pss.datasets.open_rows import DataFile, FileReader, find_rows_files, reader_of, schema_of, texts_of
from torchrec_pss.datasets.parquet_rows import ParquetReader
from torchrec_pss.datasets.prepared_rows import PreparedReader, is_prepared
from torchrec_pss.datasets.preparing import prepare
from torchrec_pss.datasets.read_ahead import ReadAhead
from torchrec_pss.datasets.rows import (
    KAGGLE_NUM_EMBEDDINGS,
    MLPERF_NUM_EMBEDDINGS,
    RowBlock,
    RowsOf,
    RowSource,
    empty_block,
    join_blocks,
    num_steps,
    rank_windows,
)
from torchrec_pss.datasets.schema import CRITEO_SCHEMA, Schema
from torchrec_pss.datasets.splits import Splits, describe, split_files, uses_fraction
from torchrec_pss.datasets.synthetic import ClickLogConfig, ClickLogGenerator
from torchrec_pss.datasets.vocabulary import Vocabulary
from torchrec_pss.modules.density import is_dense
from torchrec_pss.modules.id_counts import IdCounts

T = TypeVar("T")
logger: logging.Logger = logging.getLogger(__name__)

_DEFAULT_FRACTION = criteo_flags.parser().get_default("train_fraction")
_PASS_ROWS = 1 << 14
_CHECKED_ROWS = 1 << 10
_LOOKED_AT = 1 << 16  # first training rows, whose columns are looked at
_COUNTED_ROWS = 1 << 21  # training rows, evenly spread, whose ids are counted where none must be read anyway
_KINDS = {CriteoReader: "text", ParquetReader: "parquet", PreparedReader: "prepared"}
_COUNTED = "distinct ids of the training rows, counted exactly, and one row for others"


@dataclass
class ClickData:
    """Rows in three parts, and the tables they need.

    Attributes:
        source: of the rows.
        splits: their positions.
        signature: what the rows are, as JSON, for checkpoints: a run does not go on with others.
        num_embeddings: rows of each full table.
        counted: how `num_embeddings` was had, for the results.
        contiguous: whether ids lie in [0, num_embeddings), so that tables of the array may be exact.
        counts: how often ids occur in the training rows, or a sample of them, per feature; for the array only.
        rows_of: ids to rows of full tables, where they are not so already.
        schema: the columns that are read.
    """

    source: RowSource
    splits: Splits
    signature: dict
    num_embeddings: list[int]
    counted: str
    contiguous: bool
    counts: list[IdCounts] | None = None
    rows_of: RowsOf | None = None
    error: DataError | None = None  # of this rank, until all raise it
    numbering: Numbering | None = None  # of the ids, where the array's tables have their rows
    waited: float = 0.0  # seconds that `batches` were waited for
    schema: Schema = CRITEO_SCHEMA

    @property
    def names(self) -> list[str]:
        """Of the features, in their order."""
        return list(self.schema.features)

    @property
    def texts(self) -> list[str]:
        """The features whose ids are those of tokens; the others' are whole numbers."""
        return list(texts_of(self.source.files, self.schema)) if isinstance(self.source, FileReader) else []

    @property
    def separators(self) -> dict[str, str]:
        """Of bags that are text, what divides their tokens."""
        return {bag.name: bag.separator for bag in self.schema.bags} if isinstance(self.source, CriteoReader) else {}

    @property
    def num_dense(self) -> int:
        """Of a batch: one that is 0 where there is none."""
        return max(len(self.schema.dense), 1)

    def batches(
        self,
        rows: range,
        batch_size: int,
        first_step: int = 0,
        limit: int | None = None,
        shuffle_seed: int | None = None,
        pin_memory: bool = False,
        groups: deque[np.ndarray] | None = None,
    ) -> Iterator[Batch]:
        """This rank's batches of ``rows``, as many as every other rank's, made while others are in use (`ReadAhead`). To ``groups`` the
        ids of the schema's group are appended, int64 ``[n]`` of each batch, as they are read: rows of a numbering are shared by several.
        """
        made = self._batches(rows, batch_size, first_step, limit, shuffle_seed, groups)
        ahead = ReadAhead((batch.pin_memory() for batch in made) if pin_memory else made)
        try:
            for batch in ahead:
                self.waited += ahead.waited
                ahead.waited = 0.0
                yield batch
        finally:
            ahead.close()

    def _batches(
        self,
        rows: range,
        batch_size: int,
        first_step: int,
        limit: int | None,
        shuffle_seed: int | None,
        groups: deque[np.ndarray] | None,
    ) -> Iterator[Batch]:
        for step, block in enumerate(self.blocks(rows, batch_size, first_step, limit), start=first_step):
            if shuffle_seed is not None:
                order = np.random.default_rng([shuffle_seed, step, dist.get_rank()]).permutation(len(block))
                block = block.take(order)
            if groups is not None:
                groups.append(self._groups(block))
            if self.rows_of is not None:
                block = block.mapped(self.rows_of)
            yield block.batch(self.names)

    def blocks(self, rows: range, batch_size: int, first_step: int = 0, limit: int | None = None) -> Iterator[RowBlock]:
        """This rank's rows of each step, with the ids that they have in the source; none where they do not go round."""
        limited = self.limited(rows, batch_size, limit)
        yield from self._read(rank_windows(limited, batch_size, dist.get_rank(), dist.get_world_size(), first_step))

    def _groups(self, block: RowBlock) -> np.ndarray:
        """Of the batch's rows; an empty block's is one row of padding."""
        found = block.ids_by_feature()[self.names.index(self.schema.group)]
        return found if len(block) else np.zeros(1, np.int64)

    def _read(self, windows: Iterator[range]) -> Iterator[RowBlock]:
        """Blocks of the source. Of several ranks one that cannot read on hands out empty blocks, so that the others do not wait for it,
        until `raise_error`."""
        try:
            yield from self.source.read(windows)
        except DataError as error:
            if dist.get_world_size() == 1:
                raise
            self.error = error
            schema = self.schema
            nothing = empty_block(len(schema.dense), len(schema.features), bool(schema.bags), schema.weighted)
            yield nothing  # for the window that was not read
            yield from (nothing for _ in windows)

    def raise_error(self) -> None:
        """Raises on every rank the error that one of them has met. Collective."""
        if dist.get_world_size() == 1:
            return
        errors: list[DataError | None] = [None] * dist.get_world_size()
        dist.all_gather_object(errors, self.error)
        for error in errors:
            if error is not None:
                raise error

    def check_same(self, then: object) -> None:
        """Refuses to go on from a checkpoint that was trained on other rows; ``then`` is its `signature`.

        Raises:
            ValueError: naming the file or the part, and what differs.
        """
        if then is None:
            if dist.get_rank() == 0:
                logger.warning("--resume: an earlier version's checkpoint: nobody can tell whether its data are these")
            return
        if not isinstance(then, dict) or then.get("kind") != self.signature["kind"]:
            found = then.get("kind") if isinstance(then, dict) else then
            raise ValueError(f"--resume: the checkpoint's rows were {found!r} and are {self.signature['kind']!r} now")
        if "files" in self.signature:
            check_same_files(then.get("files"), self.source.signatures)
        for name, now in self.signature.items():
            if name != "files" and then.get(name) != now:
                was = str(then.get(name))[:200]
                raise ValueError(
                    f"--resume: {name} of the data was {was} in the checkpoint and is now {str(now)[:200]}"
                )

    def limited(self, rows: range, batch_size: int, limit: int | None) -> range:
        """Those of ``rows`` that ``limit`` batches a process hold."""
        return rows[: (limit or len(rows)) * batch_size * dist.get_world_size()]

    def check_classes(self, args: argparse.Namespace) -> None:
        """That there will be an AUROC, before anything is trained: reads each part of the rows until it has seen both classes.
        Collective.

        Raises:
            OneClassError: a part has no rows, or rows of one class only; names it.
        """
        splits, size = self.splits, args.test_batch_size
        parts = {
            "training": splits.train,
            "validation": self.limited(splits.val, size, args.limit_val_batches),
            "test": self.limited(splits.test, size, args.limit_test_batches),
        }

        def check() -> None:
            for name, rows in parts.items():
                windows = (rows[i : i + _CHECKED_ROWS] for i in range(0, len(rows), _CHECKED_ROWS))
                labels: set[float] = set()
                for block in copy.copy(self.source).read(windows):  # a copy: it counts malformed lines
                    labels |= set(block.labels.tolist())
                    if len(labels) == 2:
                        break
                else:
                    found = f"labelled {labels.pop():g}" if labels else "malformed"
                    raise OneClassError(f"AUROC needs both classes: all {len(rows)} {name} rows are {found}")

        _first_rank_first(check)
        self.share_logged()

    def warn_of_columns(self) -> None:
        """Logs, once, which columns of files say nothing or say the label (`odd_columns`), by the first training rows. Collective."""
        if not isinstance(self.source, ClickLogGenerator):
            _first_rank_first(self._look_at_columns)
            self.share_logged()

    def _look_at_columns(self) -> None:
        rows, blocks = self.splits.train[:_LOOKED_AT], []
        windows = [rows[i : i + _PASS_ROWS] for i in range(0, len(rows), _PASS_ROWS)]
        with suppress(DataError):  # whoever trains on those rows says what is wrong with them
            for block in copy.copy(self.source).read(windows):  # a copy: it counts malformed lines
                blocks.append(block)
        if not blocks:
            return
        block = join_blocks(blocks)
        dense = dict(zip(self.schema.dense, block.dense.T, strict=True))
        sparse = dict(zip(self.schema.sparse, block.ids_by_feature(), strict=False))  # bags are behind them
        for odd in odd_columns(block.labels, dense, sparse):
            logger.warning("column %r, first %s training rows: %s", odd.name, f"{len(block):,}", odd)
        if block.times is not None:
            self._look_at_times(block.times)

    def _look_at_times(self, training: np.ndarray) -> None:
        """Of the first training rows, and of the first ones of the other parts: whether they ascend."""
        name, back = self.schema.time, np.flatnonzero(np.diff(training) < 0)
        if len(back):
            logger.warning(
                "time %r: training row %s is later than the one behind it: rows are divided by their order, not by time (split: {val_from, test_from} does that)",
                name, f"{back[0] + 1:,}",
            )  # fmt: skip
            return
        parts = {"validation": self.splits.val[:_CHECKED_ROWS], "test": self.splits.test[:_CHECKED_ROWS]}
        with suppress(DataError):
            blocks = copy.copy(self.source).read(iter(parts.values()))
            for part, block in zip(parts, blocks, strict=False):
                if len(block) and block.times.min() < training[-1]:
                    logger.warning(
                        "time %r: the first %s rows begin at %s, before training row %s, %s: later rows are trained on",
                        name, part, f"{block.times.min():g}", f"{len(training):,}", f"{training[-1]:g}",
                    )  # fmt: skip

    def share_logged(self) -> None:
        """No rank logs a malformed line again that rank 0 has logged. Collective."""
        if isinstance(self.source, BadRows):
            self.source.logged |= _first_rank_first(lambda: self.source.logged)

    def fold_ids(self, num_rows: list[int]) -> None:
        """From now on ids are taken modulo ``num_rows`` of their table."""
        before, fold = self.rows_of, _modulo(num_rows)
        self.rows_of = fold if before is None else lambda ids: fold(before(ids))

    def number(self, numbering: Numbering) -> None:
        """From now on ids are rows of that."""
        self.numbering, self.rows_of = numbering, numbering.rows_of

    def share_rows(self, num_rows: list[int]) -> None:
        """From now on the ids that are read least share rows, where a table has fewer rows than ids."""
        self.number(replace(self.numbering, num_rows=num_rows))

    def unresolved(self) -> dict[str, float]:
        """By feature, where ids share rows of a numbering, what that leaves unresolved."""
        given = zip(self.names, self.counts, self.numbering.ids, self.numbering.num_rows, strict=True)
        return {
            name: self.numbering.unresolved(feature, counts.counts)
            for feature, (name, counts, ids, rows) in enumerate(given)
            if rows <= len(ids)
        }

    def copied(self) -> "ClickData":
        """Another one, which counts malformed lines anew and whose ids may share rows otherwise."""
        return replace(self, source=copy.copy(self.source))

    def steps(self, rows: range, batch_size: int, limit: int | None) -> int:
        steps = num_steps(rows, batch_size, dist.get_world_size())
        return min(steps, limit) if limit else steps


def load(args: argparse.Namespace) -> ClickData:
    """The data that the flags name. Collective: rank 0 counts, the others wait for its result."""
    schema = CRITEO_SCHEMA
    if args.data_path:
        schema = _first_rank_first(lambda: schema_of(args.data_path, args.schema))
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

    return _first_rank_first(count)


def _load_files(args: argparse.Namespace, declared: list[int] | None, schema: Schema) -> ClickData:
    path = args.data_path
    if schema.split is not None:
        path = _first_rank_first(lambda: _prepared(args, schema))
        schema = schema.written()
    files = _first_rank_first(lambda: find_rows_files(path, schema, args.cache_dir))
    reader = reader_of(files, schema, args.max_bad_rows)
    number = len(schema.features)
    splits, signature = _divide(args, _KINDS[type(reader)], [f.signature.name for f in files], reader)
    if schema is not CRITEO_SCHEMA:
        signature["schema"] = _columns_read(schema)

    def training_rows() -> Iterator[RowBlock]:
        starts = tqdm(range(0, len(splits.train), _PASS_ROWS), desc="counting ids", delay=5)
        windows = (splits.train[start : start + _PASS_ROWS] for start in starts)
        return copy.copy(reader).read(windows)  # a copy: it counts malformed lines

    if args.embedding == "pss" and not args.planner_pss:
        # The array takes ids as they are; the tables' sizes say what it is compared with, and the slices' sizes.
        counted = _first_rank_first(
            lambda: _kept(args, CountedIds, files, splits.train, lambda: CountedIds.of(training_rows(), number), schema)
        )
        distinct, counts = counted.distinct, counted.counts
        how = "declared" if declared else "distinct ids of the training rows, by HyperLogLog sketch (0.8 %)"
        asked = args.vocabulary is not None
        if args.vocabulary is None:
            args.vocabulary = not declared and is_dense(len(splits.train), distinct)
        if args.vocabulary:
            return _numbered(args, files, reader, splits, signature, counts, training_rows, schema, asked)
        return ClickData(reader, splits, signature, declared or distinct, how, False, counts, schema=schema)
    if declared:
        return ClickData(
            reader, splits, signature, declared, "declared", True, rows_of=_modulo(declared), schema=schema
        )

    def known() -> Vocabulary:
        return _kept(args, Vocabulary, files, splits.train, lambda: Vocabulary.build(training_rows(), number), schema)

    _first_rank_first(lambda: len(known().ids))  # the others read what it has written: it may be large
    vocabulary = known()
    # One more row for ids not seen in training.
    rows = [n + 1 for n in vocabulary.num_distinct]
    return ClickData(reader, splits, signature, rows, _COUNTED, True, rows_of=vocabulary.rows_of, schema=schema)


def _prepared(args: argparse.Namespace, schema: Schema) -> Path:
    """The folder in the cache of rows that a schema divides, made if it is not there."""
    read = replace(schema, split=None)
    files = [f.signature.as_json() for f in find_rows_files(args.data_path, read, args.cache_dir)]
    key = json.dumps([str(args.data_path), files, schema.as_json()])
    folder = Path(args.cache_dir) / f"prepared-{hashlib.sha256(key.encode(errors='surrogatepass')).hexdigest()[:16]}"
    with locked(folder.with_suffix(".lock"), wait=True):  # another run may be at the same
        if not is_prepared(folder):
            logger.info("the schema divides the rows: they are prepared in %s", folder)
            prepare(args.data_path, folder, schema, max_bad_rows=args.max_bad_rows, cache_dir=args.cache_dir)
    return folder


def _columns_read(schema: Schema) -> str:
    """As text, which has an order. The group changes nothing of what is trained: a run may go on with another."""
    return json.dumps(replace(schema, group=None).as_json())


def _numbered(
    args: argparse.Namespace,
    files: list[DataFile],
    reader: FileReader,
    splits: Splits,
    signature: dict,
    counts: list[IdCounts],
    training_rows: Callable[[], Iterator[RowBlock]],
    schema: Schema,
    asked: bool,
) -> ClickData:
    """For an array whose tables have their ids' rows. Collective."""

    def make() -> Numbering:
        vocabulary = _kept(
            args,
            Vocabulary,
            files,
            splits.train,
            lambda: Vocabulary.build(training_rows(), len(schema.features)),
            schema,
        )
        return Numbering.of(vocabulary, [c.ids for c in counts])

    numbering = _first_rank_first(make)
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
    """What is counted of the training rows: as it lies in the cache's folder, by path and signature of the files, or made and put there. Of
    rank 0 alone."""
    cache, features = Path(args.cache_dir), len(schema.features)
    key = repr([(str(f.path.resolve()), f.signature) for f in files]) + str(train)
    if schema is not CRITEO_SCHEMA:
        key += _columns_read(schema)
    name = {Vocabulary: "vocabulary", CountedIds: "counts"}[what]
    path = cache / f"{name}-{hashlib.sha256(key.encode(errors='surrogatepass')).hexdigest()[:16]}.npz"
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


def _modulo(num_rows: Sequence[int]) -> RowsOf:
    """Of each feature's ids the rest by its table's rows."""
    return lambda ids: [of % rows for of, rows in zip(ids, num_rows, strict=True)]


def _first_rank_first(work: Callable):
    """What ``work`` returns on rank 0, on every rank; its exception too, so that no rank waits for ever."""
    result: list = [None, None]
    if dist.get_rank() == 0:
        try:
            result[0] = work()
        except Exception as error:
            result[1] = error
    dist.broadcast_object_list(result, src=0, group=patient_group())
    if result[1] is not None:
        raise result[1]
    return result[0]
