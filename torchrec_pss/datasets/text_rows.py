"""`parse_text`: rows of a log's lines, by the C++ kernel; lines that are not plain by `criteo_lines`, which says what is meant.

The kernel is called by ctypes: Python's lock is free meanwhile, and other threads go on.
"""

import ctypes
from functools import cache
from itertools import pairwise

import numpy as np

from torchrec_pss.datasets.columns import CRITEO, Columns
from torchrec_pss.datasets.criteo_lines import BadLine, dense_values, parse_lines, token_ids
from torchrec_pss.datasets.line_stream import Lines
from torchrec_pss.datasets.rows import RowBlock
from torchrec_pss.ops.lookup import HAS_CPU_KERNEL, LIBRARY


def parse_text(lines: Lines, delimiter: bytes, columns: Columns = CRITEO) -> tuple[RowBlock, list[BadLine]]:
    """As `parse_lines` of those lines, to the bit."""
    if not HAS_CPU_KERNEL or lines.cut is not None:
        return parse_lines(lines.split(), delimiter, columns)
    number, num_dense, kinds = len(lines), len(columns.dense), columns.kinds
    raw, labels = np.empty((number, num_dense)), np.empty(number, np.float32)
    ids, odd = np.empty((len(columns.sparse), number), np.int64), np.empty(number, bool)
    ends = np.ascontiguousarray(lines.ends)
    num_odd = _kernel()(
        lines.text, lines.first, ends.ctypes.data, number, delimiter, kinds.ctypes.data, len(kinds), num_dense,
        raw.ctypes.data, ids.ctypes.data, labels.ctypes.data, odd.ctypes.data,
    )  # fmt: skip
    if columns.dense_order is not None:
        raw = raw[:, columns.dense_order]
    if columns.sparse_order is not None:
        ids = ids[columns.sparse_order]
    if num_odd:
        raw[odd] = 0
    dense = dense_values(raw, columns)
    if columns.plain:
        odd |= ~np.isfinite(dense).all(axis=1)
    places = np.flatnonzero(odd)
    if not len(places):
        return RowBlock(dense, ids, labels), []
    block, bad = parse_lines([lines[place] for place in places], delimiter, columns)
    left_out = places[[line.position for line in bad]] if bad else places[:0]
    good = np.setdiff1d(places, left_out)
    dense[good], ids[:, good], labels[good] = block.dense, block.ids, block.labels
    kept = np.ones(number, bool)
    kept[left_out] = False
    reported = [BadLine(int(places[line.position]), line.reason) for line in bad]
    return RowBlock(dense[kept], ids[:, kept], labels[kept]), reported


def ids_in(text: bytes | memoryview, offsets: np.ndarray) -> np.ndarray:
    """`token_ids` of tokens that lie in a text, the i-th from ``offsets[i]`` to ``offsets[i + 1]``; int64 ``[n]`` of int64 ``[n + 1]``."""
    if not HAS_CPU_KERNEL:
        return token_ids([bytes(text[a:b]) for a, b in pairwise(offsets.tolist())])
    ids = np.empty(len(offsets) - 1, np.int64)
    whole = np.frombuffer(text, np.uint8)  # which keeps it, and knows where it is
    _token_kernel()(whole.ctypes.data, np.ascontiguousarray(offsets).ctypes.data, len(ids), ids.ctypes.data)
    return ids


@cache
def _token_kernel() -> ctypes._CFuncPtr:
    found = ctypes.CDLL(str(LIBRARY)).torchrec_pss_token_ids
    found.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p]
    found.restype = None
    return found


@cache
def _kernel() -> ctypes._CFuncPtr:
    found = ctypes.CDLL(str(LIBRARY)).torchrec_pss_parse_rows
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    found.argtypes = [ctypes.c_char_p, number, pointer, number, ctypes.c_char, pointer, number, number, pointer, pointer, pointer, pointer]  # fmt: skip
    found.restype = number
    return found
