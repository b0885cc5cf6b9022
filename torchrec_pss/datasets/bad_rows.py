"""`BadRows`: rows that a reader of files leaves out are counted, the first few logged, and too many end the reading."""

import logging
from collections.abc import Sequence
from typing import Protocol

from torchrec_pss.datasets.errors import BadRowsError
from torchrec_pss.datasets.file_signature import FileSignature

logger: logging.Logger = logging.getLogger(__name__)

_SHOWN = 5


class ReadFile(Protocol):
    """A file that rows are read from."""

    num_rows: int
    role: str | None
    signature: FileSignature


class BadRows:
    """What readers of files share.

    Args:
        files: each with ``num_rows``, ``role`` and ``signature``.
        max_bad_rows: how many malformed rows to leave out before giving up; each is counted, and the first few are logged with file, row and
            reason, once however often they are read.

    Attributes:
        num_bad_rows: so far.
        left_out: their positions, in the order in which they were met.
        logged: those that were. A copy of a reader has the same set: it logs none of them again.
    """

    def __init__(self, files: Sequence[ReadFile], max_bad_rows: int) -> None:
        self.files = list(files)
        self.max_bad_rows = max_bad_rows
        self.num_bad_rows = 0
        self.logged: set[str] = set()
        self.left_out: list[int] = []
        self.first_bad = ""

    @property
    def rows_per_file(self) -> list[int]:
        return [f.num_rows for f in self.files]

    @property
    def roles(self) -> list[str | None]:
        """What each file is for, see `file_roles.arrange`."""
        return [f.role for f in self.files]

    @property
    def signatures(self) -> list[FileSignature]:
        return [f.signature for f in self.files]

    def count_bad(self, where: str, position: int) -> None:
        """``where``: file, row and reason.

        Raises:
            BadRowsError: there are too many.
        """
        self.num_bad_rows += 1
        self.left_out.append(position)
        self.first_bad = self.first_bad or where
        if where not in self.logged and len(self.logged) < min(_SHOWN, self.max_bad_rows):
            self.logged.add(where)
            logger.warning("left out a malformed line: %s", where)
        if self.num_bad_rows > self.max_bad_rows:
            raise BadRowsError(
                f"{self.num_bad_rows} malformed lines, more than --max_bad_rows {self.max_bad_rows}; "
                f"the first: {self.first_bad}; the last: {where}"
            )
