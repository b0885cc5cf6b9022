"""`retried`: requests to stores, repeated where that may help; and errors of many packages in Python's words."""

import errno
import logging
import random
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

from torchrec_pss.datasets import remote_stores
from torchrec_pss.datasets.errors import DataError

logger: logging.Logger = logging.getLogger(__name__)

T = TypeVar("T")
_FIRST_WAIT = 0.5  # seconds; each is twice the one before
_MISSING_STATUS = (404, 410)
_PASSING_STATUS = (408, 425, 429)  # and those from 500
_PASSING_ERRNO = {
    errno.EBUSY, errno.EIO, errno.EREMOTEIO, errno.ECONNRESET, errno.ECONNABORTED, errno.ECONNREFUSED, errno.EPIPE, errno.ETIMEDOUT,
    errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EAGAIN,
}  # fmt: skip
# Packages' errors that are none of Python's; a package that has raised one is imported.
_PASSING = {
    "aiohttp": ("ClientConnectionError", "ClientPayloadError"),
    "botocore.exceptions": ("HTTPClientError", "ConnectionError", "IncompleteReadError"),
    "botocore.parsers": ("ResponseParserError",),
    "fsspec.exceptions": ("FSTimeoutError",),
}
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "RefreshError")
_jitter = random.Random()  # training's own numbers stay what they are


def retried(url: str, work: Callable[[], T]) -> T:
    """What ``work`` returns; after an error that may pass it is called again: five times in all, with 7.5 seconds of waiting at most.

    Raises:
        FileNotFoundError: there is nothing.
        PermissionError: access was denied, or there are no credentials; says where they are looked for.
        OSError: anything else. All name ``url`` and the cause.
        DataError: of ``work`` itself.
    """
    attempts = remote_stores.attempts(url)
    for attempt in range(1, attempts + 1):
        try:
            return work()
        except DataError:
            raise
        except Exception as error:  # packages of stores have errors of their own
            cause = _behind(error)
            if not _may_pass(cause):
                raise _plain(url, cause) from error
            if attempt == attempts:
                tried = f" ({attempts} attempts)" if attempts > 1 else ""
                raise ConnectionError(f"{url} cannot be reached{tried}: {_said(cause)}") from error
            wait = _FIRST_WAIT * 2 ** (attempt - 1) * _jitter.uniform(0.5, 1)
            logger.warning("%s: %s: attempt %d of %d in %.1f s", url, _said(cause), attempt + 1, attempts, wait)
            time.sleep(wait)
    raise AssertionError("unreachable")


def is_missing(error: BaseException) -> bool:
    """Whether a store's error says that there is nothing."""
    cause = _behind(error)
    return isinstance(cause, FileNotFoundError) or _status(cause) in _MISSING_STATUS


def _behind(error: BaseException) -> BaseException:
    """fsspec's HTTP says "not found" of whatever went wrong where it looks for a file's size."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and cause is not None and _status(cause) not in _MISSING_STATUS:
        return cause if _may_pass(cause) or _is_denied(cause) or _status(cause) else error
    return error


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, (FileNotFoundError, PermissionError)):
        return False
    if isinstance(error, (ConnectionError, TimeoutError, *_passing_types())):
        return True
    status = _status(error) or _status(error.__cause__)
    if status:
        return status in _PASSING_STATUS or status >= 500
    return isinstance(error, OSError) and error.errno in _PASSING_ERRNO


def _passing_types() -> tuple[type, ...]:
    loaded = ((sys.modules.get(module), names) for module, names in _PASSING.items())
    return tuple(getattr(module, name) for module, names in loaded if module is not None for name in names)


def _status(error: BaseException | None) -> int | None:
    """Of HTTP, as aiohttp, gcsfs or botocore keep it."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    found: Any = getattr(error, "status", None) or getattr(error, "code", None)
    return int(found) if str(found).isdigit() else None


def _is_denied(error: BaseException) -> bool:
    forbidden = isinstance(error, OSError) and str(error).startswith("Forbidden")  # gcsfs
    return (
        isinstance(error, PermissionError)
        or _status(error) in (401, 403)
        or type(error).__name__ in _NO_CREDENTIALS
        or forbidden
    )


def _plain(url: str, error: BaseException) -> OSError:
    if _is_denied(error):
        return PermissionError(
            f"{url}: access was denied ({_said(error)}); credentials are looked for in {remote_stores.credentials(url)}"
        )
    if is_missing(error):
        return FileNotFoundError(f"{url} does not exist")
    return OSError(f"{url}: {_said(error)}")


def _said(error: BaseException) -> str:
    """One line."""
    text = " ".join(str(error).split())
    status = _status(error)
    if status and str(status) not in text:
        text = f"{status} {text}"
    return text or type(error).__name__
