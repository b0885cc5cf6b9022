"""`BadRows`: rows that a reader of files leaves out are counted, the first few logged, and too many end the reading."""

import logging
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from torchrec_pss.datasets.errors import BadRowsError
from torchrec_pss.datasets.file_signature import FileSignature
from torchrec_pss.datasets.label_values import SUPPORTED

logger: logging.Logger = logging.getLogger(__name__)

_SHOWN = 5
_NO_LABEL = "not 0 or 1"  # how the readers' reasons end where the label is wrong


class ReadFile(Protocol):
    """A file that rows are read from."""

    @property
    def num_rows(self) -> int: ...
    @property
    def role(self) -> str | None: ...
    @property
    def signature(self) -> FileSignature: ...


_File = TypeVar("_File", bound=ReadFile)


class BadRows(Generic[_File]):
    """What readers of files share.

    Args:
        files: each with ``num_rows``, ``role`` and ``signature``.
        max_bad_rows: how many malformed rows to leave out before giving up; each is counted, and the first few are logged with file, row and
            reason, once however often they are read.

    Attributes:
        num_bad_rows: so far.
        left_out: whoever wants their positions puts a list here.
        logged: those that were. A copy of a reader has the same set: it logs none of them again.
    """

    def __init__(self, files: Sequence[_File], max_bad_rows: int) -> None:
        self.files = list(files)
        self.max_bad_rows = max_bad_rows
        self.num_bad_rows = self._bad_labels = 0
        self.logged: set[str] = set()
        self.left_out: list[int] | None = None
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
        if self.left_out is not None:
            self.left_out.append(position)
        self._bad_labels += where.endswith(_NO_LABEL)
        self.first_bad = self.first_bad or where
        if where not in self.logged and len(self.logged) < min(_SHOWN, self.max_bad_rows):
            self.logged.add(where)
            logger.warning("left out a malformed line: %s", where)
        if self.num_bad_rows > self.max_bad_rows:
            most = 2 * self._bad_labels > self.num_bad_rows  # the column is of another kind, not a row here and there
            raise BadRowsError(
                f"{self.num_bad_rows} malformed lines, more than --max_bad_rows {self.max_bad_rows}; "
                f"the first: {self.first_bad}; the last: {where}{f'. Most are wrong in the label: {SUPPORTED}' if most else ''}"
            )
