"""Conditional writes whose answer may be lost: what lies there then decides."""

from __future__ import annotations

import time
from collections.abc import Callable

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from bathyscope.stores.files import Buffer

_PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)

Found = tuple[bytes, str | None]
"""Bytes and etag of an object."""


def write_if(
    write: Callable[[], str], look: Callable[[], Found | None], *, body: Buffer, etag: str | None
) -> str | None:
    """Try a conditional write until it is clear what became of it; the new etag, or None.

    `write` succeeds only while the object has `etag` (None: while there is none); `look` says
    what is there. A write that seemed to fail and left its very bytes has landed. Raises the last
    error when neither that nor another's object shows, or at once when access is denied.
    """
    failure: BaseError | None = None
    for pause in _PAUSES_S:
        try:
            return write()
        except (PermissionDeniedError, UnauthenticatedError):
            raise
        except BaseError as error:
            # 412: somebody was faster. 409: another request for the key is under way. Anything
            # else: no answer came in time, or a bad one, and the request may have landed.
            failure = error
        there = look()
        if there is not None and there[0] == body:
            return str(there[1])
        if (there[1] if there else None) != etag:
            return None
        time.sleep(pause)
    assert failure is not None
    if isinstance(failure, AlreadyExistsError | PreconditionError):
        raise BaseError("other requests for it were always under way") from failure
    raise failure
