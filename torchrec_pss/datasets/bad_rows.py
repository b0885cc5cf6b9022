"""`BadRows`: rows that a reader leaves out are counted, the first few logged, and too many end the reading."""

import logging

from torchrec_pss.datasets.errors import BadRowsError

logger: logging.Logger = logging.getLogger(__name__)

_SHOWN = 5


class BadRows:
    """What readers share.

    Args:
        max_bad_rows: how many malformed rows to leave out before giving up; each is counted, and the first few are logged with file, row and
            reason, once however often they are read.

    Attributes:
        num_bad_rows: so far.
        logged: those that were. A copy of a reader has the same set: it logs none of them again.
    """

    def __init__(self, max_bad_rows: int) -> None:
        self.max_bad_rows = max_bad_rows
        self.num_bad_rows = 0
        self.logged: set[str] = set()
        self._first_bad = ""

    def count_bad(self, where: str) -> None:
        """``where``: file, row and reason.

        Raises:
            BadRowsError: there are too many.
        """
        self.num_bad_rows += 1
        self._first_bad = self._first_bad or where
        if where not in self.logged and len(self.logged) < min(_SHOWN, self.max_bad_rows):
            self.logged.add(where)
            logger.warning("left out a malformed line: %s", where)
        if self.num_bad_rows > self.max_bad_rows:
            raise BadRowsError(
                f"{self.num_bad_rows} malformed lines, more than --max_bad_rows {self.max_bad_rows}; "
                f"the first: {self._first_bad}; the last: {where}"
            )
