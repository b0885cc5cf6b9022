"""Arrow columns as numpy arrays: numbers, ids, bags."""

from typing import Any

import numpy as np

from torchrec_pss.datasets.bags import Bags
from torchrec_pss.datasets.criteo_lines import MISSING_ID
from torchrec_pss.datasets.text_rows import ids_in


def numbers_of(column: Any, missing: float) -> np.ndarray:
    """float64; a date or time in its unit since 1970."""
    from pyarrow import types as is_

    if is_.is_temporal(column.type):
        column = column.cast("int32" if column.type.bit_width == 32 else "int64")
    return _filled(column.cast("float64", safe=False), missing).to_numpy(zero_copy_only=False)


def _filled(column: Any, value: Any) -> Any:
    """Without missing values; where there are none, as it is."""
    return column.fill_null(value) if column.null_count else column


def ids_of(column: Any) -> np.ndarray:
    """int64: whole numbers are their own; of text those of `token_ids`; of what is missing `MISSING_ID`."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        ids = ids_of(column.dictionary)
        places = _filled(column.indices.cast("int64"), len(ids)).to_numpy(zero_copy_only=False)
        return np.append(ids, MISSING_ID)[places]
    if pa.types.is_null(column.type):
        return np.full(len(column), MISSING_ID, np.int64)
    if pa.types.is_integer(column.type) or pa.types.is_boolean(column.type):
        return _whole(column)
    tokens = _filled(column, _empty(column))
    _, offsets, text = tokens.buffers()
    if offsets is None or not len(tokens):
        return np.zeros(0, np.int64)
    wide = pa.types.is_large_string(tokens.type) or pa.types.is_large_binary(tokens.type)
    places = np.frombuffer(offsets, np.int64 if wide else np.int32)[tokens.offset : tokens.offset + len(tokens) + 1]
    return ids_in(text or b"", places.astype(np.int64))


def _empty(column: Any) -> str | bytes:
    """The text of no characters, as the column has it."""
    from pyarrow import types as is_

    return "" if is_.is_string(column.type) or is_.is_large_string(column.type) else b""


def bags_of_lists(column: Any) -> Bags:
    return Bags(ids_of(column.flatten()), lengths_of(column))


def lengths_of(column: Any) -> np.ndarray:
    """int32; of what is missing 0."""
    return _filled(column.value_lengths().cast("int32"), 0).to_numpy(zero_copy_only=False)


def bags_of_text(column: Any, separator: str) -> Bags:
    """Of text, what a separator divides, without what is empty."""
    import pyarrow.compute as compute

    lists = compute.split_pattern(_filled(column, _empty(column)), separator)
    pieces = lists.flatten()
    filled = compute.not_equal(compute.binary_length(pieces), 0).to_numpy(zero_copy_only=False)
    of_row = np.repeat(np.arange(len(lists)), lengths_of(lists))
    lengths = np.bincount(of_row[filled], minlength=len(lists)).astype(np.int32)
    return Bags(ids_of(pieces)[filled], lengths)


def _whole(column: Any) -> np.ndarray:
    """Of 64 bits; what is above 2^63 has the same bits."""
    import pyarrow as pa

    if column.type == pa.uint64():
        return _filled(column, MISSING_ID).to_numpy(zero_copy_only=False).view(np.int64)
    return _filled(column.cast("int64"), MISSING_ID).to_numpy(zero_copy_only=False)


def as_text(column: Any) -> list[bytes] | None:
    """Of numbers, truth values and text."""
    from pyarrow import types as is_

    kind = column.type.value_type if is_.is_dictionary(column.type) else column.type
    if is_.is_boolean(kind) or is_.is_integer(kind) or is_.is_floating(kind):
        column = column.cast(kind).cast("int8" if is_.is_boolean(kind) else kind)
    elif not (is_.is_string(kind) or is_.is_large_string(kind)):
        return None
    return [(value or "").encode() for value in column.cast("string").to_pylist()]
