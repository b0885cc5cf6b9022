"""How a script ends where flags, data or the machine do not let it go on: one line, status 2, no traceback."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from process_group import LostPeerError, has_lost_a_peer
from torchrec.distributed.planner.types import PlannerError

from torchrec_pss.distributed.replica_check import ReplicaMismatchError
from torchrec_pss.launcher_error import tell_launcher

logger: logging.Logger = logging.getLogger("__main__")

_REASONS = (ValueError, OSError, PlannerError, ReplicaMismatchError, LostPeerError)
# Torch has no types for these.
_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "std::bad_alloc", "Cannot allocate memory")
_LIMITS = ("can't start new thread", "Too many open files", "Resource temporarily unavailable")
_OVERFLOW = "cannot be converted to type float without overflow"


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Around all that a script does; what is none of these reasons keeps its traceback."""
    logging.basicConfig(format="%(message)s", force=True)  # until a run sets up its own
    try:
        yield
    except _REASONS as error:
        _end(str(error), error)
    except MemoryError as error:
        _end(f"out of memory: {error or 'Python could not allocate'}", error)
    except RuntimeError as error:
        text = str(error)
        if any(sign in text for sign in _MEMORY):
            _end(f"out of memory: {text}", error)
        if any(sign in text for sign in _LIMITS):
            _end(f"a limit of this process (ulimit) was reached: {text}", error)
        if _OVERFLOW in text:
            _end(f"a step is too large for the weights' type (--learning_rate?): {text}", error)
        if has_lost_a_peer(error):
            _end(f"another process has died, or does not answer: {text}", error)
        raise


def _end(text: str, error: Exception) -> None:
    line = f"error: {' '.join(text.split())}"
    logger.error("%s", line)
    tell_launcher(line)
    raise SystemExit(2) from error
