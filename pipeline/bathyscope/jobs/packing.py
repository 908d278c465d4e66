"""Packs receipts while a stage runs, so that no listing grows with the length of a run."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from bathyscope.runs.work import Begun
from bathyscope.stores.compaction import compact
from bathyscope.stores.packs import GROUP
from bathyscope.stores.receipts import Receipts


class Packing:
    """Packs in the background, each time that another thousand units are done."""

    def __init__(self, begun: Begun) -> None:
        self._receipts = Receipts(begun.objects, begun.work.segment.name)
        self._plan = begun.work.plan
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="packing")
        self._under_way: Future[int] | None = None
        self._since = 0

    def unit_done(self) -> None:
        """Count a unit. Raises what the last packing raised, such as `ReceiptConflict`."""
        self._since += 1
        if self._since < GROUP or (self._under_way and not self._under_way.done()):
            return
        if self._under_way:
            self._under_way.result()
        self._since = 0
        self._under_way = self._pool.submit(compact, self._receipts, self._plan)

    def __enter__(self) -> Packing:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True)
        if self._under_way and error is None:
            self._under_way.result()
