"""`parse_text`: rows of a log's lines, by the C++ kernel; lines that are not plain by `criteo_lines`, which says what is meant."""

from itertools import pairwise

import numpy as np

from torchrec_pss.datasets.bags import Bags
from torchrec_pss.datasets.columns import CRITEO, BagPlace, Columns
from torchrec_pss.datasets.criteo_lines import BadLine, parse_lines, token_ids
from torchrec_pss.datasets.kernels import kernel
from torchrec_pss.datasets.line_stream import Lines
from torchrec_pss.datasets.rows import RowBlock, join_blocks
from torchrec_pss.ops.library import HAS_CPU_KERNEL


def parse_text(lines: Lines, delimiter: bytes, columns: Columns = CRITEO) -> tuple[RowBlock, list[BadLine]]:
    """As `parse_lines` of those lines, to the bit."""
    if not HAS_CPU_KERNEL or lines.cut is not None:
        return parse_lines(lines.split(), delimiter, columns)
    number, num_dense, kinds = len(lines), len(columns.numbers), columns.kinds
    raw, labels = np.empty((number, num_dense)), np.empty(number, np.float32)
    ids, odd = np.empty((len(columns.sparse), number), np.int64), np.empty(number, bool)
    spans = np.empty((len(columns.spans), number, 2), np.int64)
    ends = np.ascontiguousarray(lines.ends)
    num_odd = kernel("parse_rows")(
        lines.text, lines.first, ends.ctypes.data, number, delimiter, kinds.ctypes.data, len(kinds), num_dense,
        raw.ctypes.data, ids.ctypes.data, labels.ctypes.data, spans.ctypes.data, odd.ctypes.data,
    )  # fmt: skip
    if columns.dense_order is not None:
        raw = raw[:, columns.dense_order]
    if columns.sparse_order is not None:
        ids = ids[columns.sparse_order]
    if num_odd:
        raw[odd], spans[:, odd] = 0, 0
    bags = [_bags(lines.text, spans, bag, columns, odd) for bag in columns.bags]
    block = columns.block(raw, ids, bags, labels)
    if columns.plain:
        odd |= ~np.isfinite(block.dense).all(axis=1)
    places = np.flatnonzero(odd)
    if not len(places):
        return block, []
    rest, bad = parse_lines([lines[place] for place in places.tolist()], delimiter, columns)
    good = np.delete(places, [line.position for line in bad])
    order = np.argsort(np.concatenate([np.flatnonzero(~odd), good]), kind="stable")
    reported = [BadLine(int(places[line.position]), line.reason) for line in bad]
    return join_blocks([block.take(~odd), rest]).take(order), reported


def _bags(text: bytes, spans: np.ndarray, bag: BagPlace, columns: Columns, odd: np.ndarray) -> Bags:
    """Of fields that lie in ``text`` at int64 ``[fields, n, 2]``; rows whose weights are not plain become odd."""
    at = spans[columns.spans.index(bag.ids)]
    ids, lengths = _split(text, at, bag.separator, np.int64, odd)
    if bag.weights is None:
        return Bags(ids, lengths)
    found, numbers = _split(text, spans[columns.spans.index(bag.weights)], bag.separator, np.float32, odd)
    same = lengths == numbers
    if not same.all():  # nothing is kept of the others
        odd |= ~same
        ids, found = Bags(ids, lengths).take(same).ids, Bags(found, numbers).take(same).ids
        lengths = np.where(same, lengths, 0).astype(np.int32)
    return Bags(ids, lengths, found)


def _split(
    text: bytes, spans: np.ndarray, separator: bytes, kind: type, odd: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Ids or numbers ``[V]`` of fields int64 ``[n, 2]``, and how many each has, int32 ``[n]``. A row with what is no plain number becomes odd."""
    most = int(((spans[:, 1] - spans[:, 0] + 1) // 2).sum())
    found: np.ndarray = np.empty(most, kind)
    lengths = np.empty(len(spans), np.int32)
    spans = np.ascontiguousarray(spans)
    number = kernel("split_ids" if kind is np.int64 else "split_numbers")(
        text, spans.ctypes.data, len(spans), separator, found.ctypes.data, lengths.ctypes.data, odd.ctypes.data
    )
    return found[:number].copy(), lengths


def ids_in(text: bytes | memoryview, offsets: np.ndarray) -> np.ndarray:
    """`token_ids` of tokens that lie in a text, the i-th from ``offsets[i]`` to ``offsets[i + 1]``; int64 ``[n]`` of int64 ``[n + 1]``."""
    if not HAS_CPU_KERNEL:
        return token_ids([bytes(text[a:b]) for a, b in pairwise(offsets.tolist())])
    ids = np.empty(len(offsets) - 1, np.int64)
    whole = np.frombuffer(text, np.uint8)  # which keeps it, and knows where it is
    kernel("token_ids")(whole.ctypes.data, np.ascontiguousarray(offsets).ctypes.data, len(ids), ids.ctypes.data)
    return ids
