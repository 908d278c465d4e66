"""From a URL to the store behind it: a local folder, memory, S3 or GCS.

Credentials, region and endpoint of object stores come from the environment (AWS_ACCESS_KEY_ID,
AWS_REGION, AWS_ENDPOINT_URL, …; GOOGLE_SERVICE_ACCOUNT, …) or from the machine's role. They are
never part of a URL, a record or an error.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from obstore.exceptions import BaseError
from obstore.store import LocalStore, MemoryStore, from_url

from bathyscope.errors import StoreError

_MEMORY: dict[str, MemoryStore] = {}
_REMOTE = ("s3", "s3a", "gs")
# A shard goes up in one request, because only that can be refused when the key is taken: 1 GiB at
# 4 MB/s takes 250 s.
_REQUEST_TIMEOUT = timedelta(minutes=5)
# Pauses are drawn between the first one and `base` times the last: with a base of 2 they hardly
# grow, and eight of them were over in a second. These last for a minute or so, of a store that
# refuses requests (503) or answers none.
_RETRY = {
    "max_retries": 14,
    "backoff": {
        "init_backoff": timedelta(milliseconds=200),
        "max_backoff": timedelta(seconds=10),
        "base": 3,
    },
    "retry_timeout": timedelta(minutes=4),
}


def connect(url: str) -> Any:
    """The store of a URL. Raises `StoreError` for a file, an unknown scheme, no bucket."""
    if url.startswith("memory://"):
        return _MEMORY.setdefault(url, MemoryStore())
    path = local_path(url)
    if path is not None:
        return _local(path)
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise StoreError(
            "The URL holds credentials, which would end up in records. Give them in the "
            "environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)."
        )
    if parts.scheme not in _REMOTE or not parts.netloc:
        raise StoreError(
            f"{url!r} names no store. A path, file:///…, s3://bucket/…, gs://bucket/… or "
            "memory://name is wanted."
        )
    # A local server for tests, or one inside a cluster, speaks plain HTTP.
    plain = os.environ.get("AWS_ENDPOINT_URL", os.environ.get("AWS_ENDPOINT", "")).startswith(
        "http://"
    )
    options: Any = {"timeout": _REQUEST_TIMEOUT, "allow_http": plain}
    retry: Any = _RETRY
    try:
        return from_url(url, client_options=options, retry_config=retry)
    except BaseError as error:
        raise StoreError(f"{url} cannot be opened: {error}. Check URL and credentials.") from error


def local_path(url: str) -> Path | None:
    """The folder behind a path or file:// URL, or None when the URL is not on this disk."""
    if url.startswith("file://"):
        return Path(url.removeprefix("file://"))
    return None if "://" in url else Path(url).expanduser()


def _local(path: Path) -> LocalStore:
    for part in (path, *path.parents):
        if part.exists() and not part.is_dir():
            raise StoreError(f"{part} is a file. A folder was wanted: choose another path.")
    return LocalStore(str(path.absolute()), mkdir=True)
