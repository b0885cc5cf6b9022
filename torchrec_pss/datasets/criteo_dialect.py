"""What the first lines of a Criteo file say: its delimiter, a header, and whether it has labels."""

from dataclasses import dataclass
from pathlib import Path

from torchrec_pss.datasets.columns import CRITEO, Columns
from torchrec_pss.datasets.criteo_lines import NUM_FIELDS, split_line
from torchrec_pss.datasets.file_kinds import why_no_text
from torchrec_pss.datasets.line_stream import CutLine, LineStream
from torchrec_pss.datasets.schema import Schema

_LOOKED_AT = 20  # lines
_DELIMITERS = (b"\t", b",", b";", b"|")


class NotCriteoError(ValueError):
    """A file that can be read and is none of Criteo's."""


@dataclass(frozen=True)
class Dialect:
    """How to read a file.

    Attributes:
        delimiter: between fields, one byte.
        has_header: whether the first line names the fields.
        labelled: whether lines have a label.
        columns: what the fields are.
    """

    delimiter: bytes
    has_header: bool
    labelled: bool
    columns: Columns = CRITEO

    @classmethod
    def of_schema(cls, path: Path, schema: Schema) -> "Dialect":
        """
        Raises:
            FileNotFoundError: no such file.
            NotCriteoError: empty, or no text.
            ValueError: unreadable, or without a column of the schema; names it.
        """
        lines = _first_lines(path)
        if not lines or isinstance(lines[0], CutLine) or not lines[0].strip():
            raise NotCriteoError(f"data file {path} has no first line that can be read")
        counts = {delimiter: lines[0].count(delimiter) for delimiter in _DELIMITERS}
        delimiter = max(counts, key=counts.get)
        try:
            if schema.fields is not None:
                return cls(delimiter, False, True, schema.columns(schema.fields))
            names = split_line(lines[0], delimiter, max(counts.values()) + 1)
            columns = schema.columns([name.decode("utf-8", "replace").strip() for name in names])
        except ValueError as error:
            raise ValueError(f"data file {path}: {error}") from error
        return cls(delimiter, True, True, columns)

    @classmethod
    def of(cls, path: Path) -> "Dialect":
        """Raises:
        FileNotFoundError: no such file.
        NotCriteoError: empty, of another kind, or without a line of the right number of fields among its first.
        ValueError: unreadable.
        """
        lines = _first_lines(path)
        first = lines[0] if lines else b""
        if isinstance(first, CutLine):
            raise NotCriteoError(f"data file {path} is no Criteo file: its first line has {first.length:,} bytes")
        if not any(line.strip() for line in lines):
            raise NotCriteoError(f"data file {path} is empty" + (" in its first lines" if lines else ""))
        delimiter = b"\t" if first.count(b"\t") >= first.count(b",") else b","
        if delimiter not in first:
            raise NotCriteoError(f"data file {path} is no Criteo file: its first line has neither tabs nor commas")
        fields = split_line(first, delimiter)
        names = [field.strip().lower() for field in fields]
        has_header = names[0] == b"label" or (len(fields) == NUM_FIELDS - 1 and names[0] == b"i1")
        rows = [split_line(line, delimiter) for line in lines[int(has_header) :] if line.strip()]
        if has_header and not rows:
            raise NotCriteoError(f"data file {path} has no rows")
        lengths = [len(row) for row in rows]
        if NUM_FIELDS not in lengths and NUM_FIELDS - 1 not in lengths:
            raise NotCriteoError(
                f"data file {path} is no Criteo file: its first lines have {lengths[0]} fields, not {NUM_FIELDS}"
            )
        # A line of either length may be malformed; not all of them.
        labelled = any(len(row) == NUM_FIELDS and row[0] for row in rows)
        return cls(delimiter, has_header, labelled)


def _first_lines(path: Path) -> list[bytes]:
    stream = LineStream(path)
    try:
        reason = why_no_text(stream.head)
        if reason:
            raise NotCriteoError(f"data file {path} {reason}")
        lines: list[bytes] = []
        while len(lines) < _LOOKED_AT and len(taken := stream.take(_LOOKED_AT - len(lines))):
            lines += taken.split()
        return lines
    finally:
        stream.close()
