"""Rows of a ``.npy`` file, read as they are wanted.

Not memory-mapped: what is mapped and cut off meanwhile ends the process (SIGBUS) without a word.
"""

import math
import os
from pathlib import Path

import numpy as np

from torchrec_pss.datasets.errors import DataChangedError, DataError
from torchrec_pss.datasets.file_signature import FileSignature


class NpyRows:
    """An array of numbers whose first dimension is rows.

    Args:
        path: the file.
        columns: how many it must have; 1 may be no dimension at all.

    Raises:
        FileNotFoundError, ValueError: no such file, or none of that shape; names it.
    """

    def __init__(self, path: Path, columns: int) -> None:
        self.path = path
        self.signature = FileSignature.of(path)
        try:
            # Kept open: a file that is replaced is noticed by its path.
            self._stream = open(path, "rb")  # noqa: SIM115
            version = np.lib.format.read_magic(self._stream)
            read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0", None)
            if read_header is None:
                raise ValueError(f"version {version[0]} of the format")
            shape, self._columns_first, self.dtype = read_header(self._stream)
            self._offset = self._stream.tell()
        except (OSError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(f"data file {path} is no readable .npy: {error}") from error
        if self.dtype.kind not in "biuf":
            raise ValueError(f"data file {path} holds {self.dtype}, not numbers")
        shapes = ((columns,), ()) if columns == 1 else ((columns,),)
        if len(shape) < 1 or shape[0] < 0 or shape[1:] not in shapes:
            raise ValueError(f"data file {path} has shape {shape}, not [n, {columns}]")
        self._rows, self._columns = shape[0], columns
        self._mtime_ns = self.signature.mtime_ns  # of the content that is known
        needed = self._offset + math.prod(shape) * self.dtype.itemsize
        if self.signature.size < needed:
            raise ValueError(
                f"data file {path} is cut off: its shape {shape} needs {needed:,} bytes, it has {self.signature.size:,}"
            )

    def __len__(self) -> int:
        return self._rows

    def read(self, rows: slice) -> np.ndarray:
        """Rows ``[start, stop)`` as ``[n, columns]``, in the file's dtype.

        Raises:
            DataChangedError: the file has another size, or, after a change, other content than when it was opened.
            DataError: it cannot be read.
        """
        count = rows.stop - rows.start
        try:
            self._check()
            if not self._columns_first or self._columns == 1:
                return self._items(rows.start * self._columns, count * self._columns).reshape(count, self._columns)
            columns = [self._items(c * self._rows + rows.start, count) for c in range(self._columns)]
            return np.stack(columns, axis=1)
        except OSError as error:
            raise DataError(f"data file {self.path} is unreadable: {error}") from error

    def _items(self, first: int, count: int) -> np.ndarray:
        items = np.empty(count, self.dtype)
        into, at = items.data.cast("B"), self._offset + first * self.dtype.itemsize
        while len(into):
            got = os.preadv(self._stream.fileno(), [into], at)
            if not got:
                raise self._changed("it ends earlier", "fewer")
            into, at = into[got:], at + got
        return items

    def _check(self) -> None:
        try:
            status = self.path.stat()
        except FileNotFoundError as error:
            raise self._changed("it is not there any more", "none") from error
        if status.st_size != self.signature.size:
            room = max(status.st_size - self._offset, 0) // (self._columns * self.dtype.itemsize)
            raise self._changed(f"{self.signature.size:,} bytes then, {status.st_size:,} now", f"room for {room:,}")
        if status.st_mtime_ns != self._mtime_ns:
            difference = self.signature.difference(FileSignature.of(self.path))
            if difference:
                raise self._changed(difference, f"{self._rows:,}")
            self._mtime_ns = status.st_mtime_ns

    def _changed(self, difference: str, rows_now: str) -> DataChangedError:
        return DataChangedError(
            f"data file {self.path} has changed since it was opened: {self._rows:,} rows then, {rows_now} now ({difference})"
        )
