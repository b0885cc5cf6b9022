"""A part of prepared rows: an Arrow file that is mapped into memory, each column as its distinct values and their places where that is smaller."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from torchrec_pss.datasets.bags import Bags
from torchrec_pss.datasets.errors import DataChangedError, DataError
from torchrec_pss.datasets.kernels import kernel
from torchrec_pss.datasets.rows import RowBlock
from torchrec_pss.datasets.schema import Schema
from torchrec_pss.ops.library import HAS_CPU_KERNEL

_CHUNK = 1 << 22
# As csrc/prepared_rows.cpp has it.
_COLUMN = np.dtype(
    [("values", "u8"), ("places", "u8"), ("out", "u8"), ("stride", "i8"), ("value_bytes", "i4"), ("place_bytes", "i4")]
)


def require_pyarrow(path: Path) -> None:
    """
    Raises:
        DataError: it is not installed.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise DataError(f"{path}: prepared rows need pyarrow (pip install pyarrow)") from error


def write_part(path: Path, block: RowBlock, schema: Schema) -> None:
    """One record batch. Columns are named as the schema's: labels uint8, dense values fp32 as a model takes them, ids int64, bags lists of
    those, their weights lists of fp32.

    Raises:
        OSError: it cannot be written.
    """
    import pyarrow as pa

    columns = {schema.label: pa.array(block.labels.astype(np.uint8))}
    for place, name in enumerate(schema.dense):
        columns[name] = _shortened(np.ascontiguousarray(block.dense[:, place]))
    of_bags = {bag.name: bag for bag in schema.bags}
    for name, bags in zip(schema.features, block.features(), strict=True):
        if name not in of_bags:
            columns[name] = _shortened(bags.ids)
            continue
        assert bags.lengths is not None  # bags have
        offsets = pa.array(np.concatenate([[0], bags.lengths.cumsum(dtype=np.int64)]).astype(np.int32))
        columns[name] = pa.ListArray.from_arrays(offsets, _shortened(bags.ids))
        weights = of_bags[name].weights
        if weights is not None:
            assert bags.weights is not None
            columns[weights] = pa.ListArray.from_arrays(offsets, _shortened(bags.weights))
    batch = pa.record_batch(columns)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def _shortened(values: np.ndarray) -> Any:
    """An Arrow array; by its distinct values where that takes fewer bytes."""
    import pyarrow as pa

    # As bits: -0.0 and 0.0 are two.
    bits = values if values.dtype == np.int64 else values.view(np.int32)
    found = pa.array(bits).dictionary_encode()
    distinct, places = found.dictionary.to_numpy(), found.indices.to_numpy()
    places = places.astype(np.min_scalar_type(max(len(distinct) - 1, 0)))
    if distinct.nbytes + places.nbytes >= values.nbytes:
        return pa.array(values)
    return pa.DictionaryArray.from_arrays(pa.array(places), pa.array(distinct.view(values.dtype)))


class _Column:
    """Values ``[n]`` that are looked up as they are wanted; of a list column those of its lists, which ``offsets`` divide."""

    def __init__(self, column: Any) -> None:
        from pyarrow import types as is_

        self.offsets: np.ndarray | None = None
        if is_.is_list(column.type):
            self.offsets, column = column.offsets.to_numpy(), column.values
        self._places = None
        if is_.is_dictionary(column.type):
            self._places, column = column.indices.to_numpy(), column.dictionary
        self._values = column.to_numpy()

    def described(self) -> tuple[int, int, int, int]:
        """Addresses of values and places, and bytes of each, for the kernel."""
        if self._places is None:
            return self._values.ctypes.data, 0, self._values.itemsize, 0
        return self._values.ctypes.data, self._places.ctypes.data, self._values.itemsize, self._places.itemsize

    def read(self, start: int, stop: int) -> np.ndarray:
        if self._places is None:
            return self._values[start:stop]
        return self._values[self._places[start:stop]]

    def bags(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Values of lists, and their lengths int32."""
        assert self.offsets is not None
        ends = self.offsets[start : stop + 1]
        return self.read(int(ends[0]), int(ends[-1])), np.diff(ends)


class Part:
    """A part that is open. Its memory is the file's.

    Args:
        path: what `write_part` wrote.
        schema: likewise.
        rows: that it has.
        size, sha256: of the file, as they were written down; the sum is compared where ``checked``.

    Raises:
        DataChangedError: the file is another one.
        DataError: it is unreadable.
    """

    def __init__(self, path: Path, schema: Schema, rows: int, size: int, sha256: str, checked: bool) -> None:
        from pyarrow import ArrowException, ipc, memory_map

        try:
            now = path.stat().st_size
            if now != size:
                raise DataChangedError(
                    f"data file {path} has changed since it was prepared: {size:,} bytes then, {now:,} now"
                )
            if checked and file_sha256(path) != sha256:
                raise DataChangedError(f"data file {path} is damaged: its SHA-256 is not what was written down")
            with memory_map(str(path)) as source, ipc.open_file(source) as file:
                batch = file.get_batch(0)
            if batch.num_rows != rows:
                raise DataChangedError(f"data file {path} has {batch.num_rows:,} rows, and {rows:,} were written down")
            for name in schema.used:
                if name not in batch.schema.names:
                    raise DataError(f"data file {path} has no column {name!r}")
            self._columns = {name: _Column(batch.column(name)) for name in schema.used}
        except FileNotFoundError as error:
            raise DataChangedError(f"data file {path} is not there any more") from error
        except (ArrowException, OSError) as error:
            raise DataError(f"data file {path} is unreadable: {str(error).splitlines()[0]}") from error
        self._schema = schema
        self._described = np.zeros(len(schema.dense) + len(schema.sparse), _COLUMN)
        for place, name in enumerate((*schema.dense, *schema.sparse)):
            values, places, value_bytes, place_bytes = self._columns[name].described()
            self._described[place] = (
                values,
                places,
                0,
                len(schema.dense) if place < len(schema.dense) else 1,
                value_bytes,
                place_bytes,
            )

    def read(self, start: int, stop: int) -> RowBlock:
        """Rows of the part."""
        schema, columns, rows = self._schema, self._columns, stop - start
        dense, ids = np.empty((rows, len(schema.dense)), np.float32), np.empty((len(schema.sparse), rows), np.int64)
        if HAS_CPU_KERNEL:
            self._read(start, dense, ids)
        else:
            for place, name in enumerate(schema.dense):
                dense[:, place] = columns[name].read(start, stop)
            for place, name in enumerate(schema.sparse):
                ids[place] = columns[name].read(start, stop)
        labels = columns[schema.label].read(start, stop).astype(np.float32)
        bags = []
        for bag in schema.bags:
            of_bag, lengths = columns[bag.name].bags(start, stop)
            weights = None if bag.weights is None else columns[bag.weights].bags(start, stop)[0]
            bags.append(Bags(of_bag, lengths, weights))
        return RowBlock.joined(dense, ids, bags, labels)

    def _read(self, start: int, dense: np.ndarray, ids: np.ndarray) -> None:
        """Of all columns but bags, at once."""
        described, number = self._described.copy(), dense.shape[1]
        described["out"][:number] = dense.ctypes.data + dense.itemsize * np.arange(number)
        described["out"][number:] = ids.ctypes.data + ids.itemsize * ids.shape[1] * np.arange(len(ids))
        kernel("read_columns")(described.ctypes.data, len(described), start, len(dense))


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
