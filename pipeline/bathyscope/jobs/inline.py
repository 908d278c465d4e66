"""Drives any stage in this process. Knows nothing of Ray."""

from __future__ import annotations

import time
from collections import deque

from bathyscope.config import Config
from bathyscope.jobs.packing import Packing
from bathyscope.jobs.sink import Sink
from bathyscope.jobs.unit import do_unit, set_threads
from bathyscope.runs.work import Begun, begin
from bathyscope.stages.stage import Stage
from bathyscope.stores.compaction import compact
from bathyscope.stores.objects import Objects
from bathyscope.stores.receipts import Receipts
from bathyscope.stores.stored_receipts import StoredReceipts
from bathyscope.values import Json

_WAIT_S = 1.0


class Inline:
    """Runs units one after another, here."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.threads = set_threads(config.cluster.threads)

    def drive(self, stage: Stage, sink: Sink) -> Json:
        """Bring a stage's artifact to completion and return its figures."""
        config = self._config
        begun = begin(Objects(config.url), stage.units(config), force=config.force)
        sink.begin(begun)
        if begun.complete:
            return {}
        _do_all(stage, config, begun, sink)
        return finish(stage, config, begun, sink)

    def close(self) -> None:
        """Nothing is held."""


def finish(stage: Stage, config: Config, begun: Begun, sink: Sink) -> Json:
    """Pack the receipts and close the artifact from all of them."""
    receipts = Receipts(begun.objects, begun.work.segment.name)
    compact(receipts, begun.work.plan)
    facts = stage.finish(config, begun, StoredReceipts(receipts))
    sink.end(begun, facts)
    return facts


def _do_all(stage: Stage, config: Config, begun: Begun, sink: Sink) -> None:
    done = begun.work.plan.num_units - len(begun.remaining)
    waiting = deque(begun.remaining)
    context = stage.open(config, begun.work) if waiting else None
    with Packing(begun) as packing:
        while waiting:
            unit = waiting.popleft()

            def report(fraction: float, text: str, base: int = done) -> None:
                sink.progress(base + fraction, text)

            receipt = do_unit(
                stage,
                unit,
                context=context,
                work=begun.work,
                objects=begun.objects,
                lease_s=config.store.lease_s,
                report=report,
            )
            if receipt is None:
                waiting.append(unit)
                sink.note(f"unit {unit.index} is held by another worker; waiting for it")
                time.sleep(_WAIT_S)
                continue
            done += 1
            packing.unit_done()
            sink.progress(done, "")
