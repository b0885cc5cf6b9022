"""`Stopwatch`: log lines that say when a phase of a run was over, so that the log of a run that was stopped says where it was."""

import logging
import time

logger: logging.Logger = logging.getLogger("__main__")


class Stopwatch:
    """Counts from when it is made."""

    def __init__(self) -> None:
        self._started = self._last = time.perf_counter()

    def lap(self, what: str) -> None:
        """Logs ``what`` is over, how long it took since the last lap, and since the start."""
        now = time.perf_counter()
        logger.info("%s: %.1f s, %.1f s since the start", what, now - self._last, now - self._started)
        self._last = now
