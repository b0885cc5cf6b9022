"""How a protocol's store is reached: its package, its options, where it looks for credentials."""

from typing import Any

from torchrec_pss.datasets.errors import DataError

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "http": "http", "https": "http"}
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws (AWS_PROFILE), the machine's role",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS, gcloud's application-default login, the machine's account",
}
_CONNECT_SECONDS, _READ_SECONDS = 10, 30  # of HTTP; s3fs has 5 and 15
_ATTEMPTS = 5


def require(url: str) -> None:
    """
    Raises:
        DataError: the URL's protocol is not known, or a package is missing; says which.
    """
    protocol = protocol_of(url)
    try:
        import upath  # noqa: F401
        from fsspec import get_filesystem_class
    except ImportError as error:
        raise DataError(
            f"{url}: URLs need universal_pathlib (pip install 'torchrec_pss[{_EXTRAS.get(protocol, 'remote')}]')"
        ) from error
    try:
        get_filesystem_class(protocol)
    except ValueError as error:
        raise DataError(f"{url}: the protocol {protocol}:// is not known to fsspec") from error
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        hint = f" (pip install 'torchrec_pss[{extra}]')" if extra else ""
        raise DataError(f"{url}: {protocol}:// lacks its package: {error}{hint}") from error


def filesystem_path(url: str, given: dict[str, Any]) -> Any:
    """The `UPath` of a URL, whose filesystem is this process's own. ``given``: options above those of fsspec's configuration."""
    from fsspec.config import conf
    from upath import UPath

    protocol = protocol_of(url)
    # Listings are not kept: what has changed must be seen.
    path = UPath(url, **{"use_listings_cache": False} | _options(protocol, conf) | given)
    if _EXTRAS.get(protocol) == "s3":
        # s3fs repeats requests that time out, are cut off or throttled, five times, without a word. `retried` does it, and says so.
        path.fs.retries = 1
    return path


def attempts(url: str) -> int:
    """How often `retried` tries. gcsfs tries six times by itself, and cannot be told not to."""
    return 1 if _EXTRAS.get(protocol_of(url)) == "gcs" else _ATTEMPTS


def checks_each_request(url: str) -> bool:
    """Whether the store's own file refuses to read on where the content is another one (S3: If-Match)."""
    return _EXTRAS.get(protocol_of(url)) == "s3"


def credentials(url: str) -> str:
    """Where they are looked for."""
    protocol = protocol_of(url)
    known = _CREDENTIALS.get(_EXTRAS.get(protocol, ""), "")
    return f"{known or 'the URL'}, fsspec's configuration (FSSPEC_{protocol.upper()}, ~/.config/fsspec)"


def protocol_of(url: str) -> str:
    return url.partition("://")[0].lower()


def _options(protocol: str, conf: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What a person has configured, ``conf``, comes before these."""
    extra = _EXTRAS.get(protocol)
    configured: dict[str, Any] = {}
    for alike in (name for name, of in _EXTRAS.items() if of == extra):
        configured |= conf.get(alike, {})
    if extra == "s3":
        # botocore repeats failed connections, 5xx and throttling, five times; see `filesystem_path`.
        return {"config_kwargs": {"retries": {"total_max_attempts": 1}} | dict(configured.get("config_kwargs", {}))}
    if extra == "http":
        from aiohttp import ClientTimeout

        # aiohttp's own limit is on the whole answer, however fast it comes. Packed answers have other ranges.
        own = {
            "timeout": ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS),
            "headers": {"Accept-Encoding": "identity"},
        }
        return {"client_kwargs": own | dict(configured.get("client_kwargs", {}))}
    return {}
