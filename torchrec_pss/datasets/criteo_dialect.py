"""What the first lines of a Criteo file say: its delimiter, a header, and whether it has labels."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torchrec_pss.datasets.columns import CRITEO, Columns
from torchrec_pss.datasets.criteo_lines import NUM_FIELDS, split_line
from torchrec_pss.datasets.file_kinds import why_no_text
from torchrec_pss.datasets.line_stream import CutLine, LineStream
from torchrec_pss.datasets.locations import Location
from torchrec_pss.datasets.schema import Schema

_LOOKED_AT = 20  # lines
_QUOTED = re.compile(rb'"[^"]*"')
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
    def of_schema(cls, path: Location, schema: Schema) -> "Dialect":
        """
        Raises:
            FileNotFoundError: no such file.
            NotCriteoError: empty, or no text.
            ValueError: unreadable, or without a column of the schema; names it.
        """
        number = None if schema.fields is None else len(schema.fields)
        separators = [bag.separator.encode() for bag in schema.bags]
        delimiter, names = header_of(path, first_lines(path), number, separators)
        try:
            columns = schema.columns(names if schema.fields is None else schema.fields)
        except ValueError as error:
            raise ValueError(f"data file {path}: {error}") from error
        return cls(delimiter, schema.fields is None, True, columns)

    @classmethod
    def of(cls, path: Location) -> "Dialect":
        """Raises:
        FileNotFoundError: no such file.
        NotCriteoError: empty, of another kind, or without a line of the right number of fields among its first.
        ValueError: unreadable.
        """
        lines = first_lines(path)
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
                f"data file {path} is no Criteo file: its first lines have {lengths[0]} fields, not {NUM_FIELDS}; "
                "of other columns a schema says what they are (--schema, docs/guides/your_data.md)"
            )
        # A line of either length may be malformed; not all of them.
        labelled = any(len(row) == NUM_FIELDS and row[0] for row in rows)
        return cls(delimiter, has_header, labelled)


def header_of(
    path: Location, lines: list[bytes], number: int | None = None, separators: Sequence[bytes] = ()
) -> tuple[bytes, list[str]]:
    """What divides the fields of a file's first line, and what they are; ``number``: of fields, if it is known; ``separators``: within
    fields, which are taken last.

    Raises:
        NotCriteoError: there is none, or nothing divides it into so many.
    """
    if not lines or isinstance(lines[0], CutLine) or not lines[0].strip():
        raise NotCriteoError(f"data file {path} has no first line that can be read")
    bare = _QUOTED.sub(b"", lines[0])
    counts = {delimiter: bare.count(delimiter) for delimiter in _DELIMITERS}
    delimiter = max(counts, key=lambda mark: counts[mark])
    if number is not None:
        likely = sorted(_DELIMITERS, key=lambda d: d in separators)
        fitting = [d for d in likely if len(split_line(lines[0], d, number)) == number]
        if not fitting and number > 1:
            raise NotCriteoError(
                f"data file {path}: neither tabs, commas, semicolons nor bars divide its first line into {number} fields, as the schema has"
            )
        delimiter = fitting[0] if fitting else delimiter
    fields = split_line(lines[0], delimiter, counts[delimiter] + 1)
    return delimiter, [field.decode("utf-8", "replace").strip() for field in fields]


def first_lines(path: Location, number: int = _LOOKED_AT) -> list[bytes]:
    """So many, or all there are.

    Raises:
        FileNotFoundError: no such file.
        NotCriteoError: no text.
    """
    stream = LineStream(path)
    try:
        reason = why_no_text(stream.head)
        if reason:
            raise NotCriteoError(f"data file {path} {reason}")
        lines: list[bytes] = []
        while len(lines) < number and len(taken := stream.take(number - len(lines))):
            lines += taken.split()
        return lines
    finally:
        stream.close()
