"""One night at a time: a lease that is renewed while a night lasts and ends with its holder."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from bathyscope.errors import JobError, LeaseLost
from bathyscope.stores.leases import Lease, Leases
from bathyscope.stores.objects import Objects

_SEGMENT, _UNIT = "night", 0


class Holding:
    """The right to do nights in a folder, renewed by a thread of its own."""

    def __init__(self, leases: Leases, lease: Lease, seconds: float) -> None:
        self._leases, self._lease, self._every = leases, lease, seconds / 4
        self._lost: LeaseLost | None = None
        # A renewal by one thread must not look to the other as if a stranger had the lease.
        self._checking = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="night lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise `LeaseLost` where another process took over: what it writes would be lost."""
        if self._lost is not None:
            raise self._lost
        self._confirm()

    def end(self) -> None:
        """Stop renewing, and let go unless it was lost."""
        self._over.set()
        self._thread.join()
        if self._lost is None:
            # Whoever took it since the last look keeps it; one that cannot be reached ends alone.
            with suppress(OSError):
                self._confirm()
                self._leases.release(_UNIT)

    def _confirm(self) -> None:
        with self._checking:
            try:
                self._lease = self._leases.check(self._lease)
            except LeaseLost as error:
                self._lost = error
                raise

    def _renew(self) -> None:
        while not self._over.wait(self._every):
            try:
                self._confirm()
            except LeaseLost:
                return
            except OSError:
                # The store may be away for a moment; the lease lasts longer than that.
                continue


@contextmanager
def one_night(objects: Objects, *, seconds: float) -> Iterator[Holding]:
    """Hold the lease of a folder's nights.

    Raises `JobError` while another process holds it. One that died on this host lets go at once,
    one that fell silent elsewhere after `seconds`.
    """
    leases = Leases(objects, _SEGMENT, seconds=seconds)
    lease = leases.claim(_UNIT)
    if lease is None:
        current = leases.current(_UNIT)
        who = (
            "another process"
            if current is None
            else f"process {current.holder.pid} on {current.holder.host}"
        )
        raise JobError(
            f"Another night is under way in {objects.location}: {who} holds its lease. Nothing was "
            f"changed. Wait for it; if it died on another host, its lease ends {seconds:g} s after "
            "its last sign (nightly.lease_s)."
        )
    holding = Holding(leases, lease, seconds)
    try:
        yield holding
    finally:
        holding.end()
