"""Progress as a person sees it: a bar in a terminal, plain lines elsewhere. Written to stderr."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from bathyscope.runs.work import Begun, Work
from bathyscope.values import Json

_LINE_EVERY_S = 10.0


class Screen:
    """A sink for a person. One line per stage remains; what is under way is overwritten.

    Where there is no terminal, a plain line every ten seconds takes the place of the bar.
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        rows_per_item: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._clock = clock
        self._rows_per_item = rows_per_item
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._started = self._last_line = 0.0
        self._first = 0.0
        self._total = 1
        self._rows_per_unit = 0.0
        self._noted: set[str] = set()
        self.subject = ""
        """What the stage is about, where it comes several times."""

    def begin(self, begun: Begun) -> None:
        """Say what is to be done, or that nothing is."""
        work = begun.work
        if begun.complete:
            self.line(f"{self._named(work)} up to date")
            return
        self._total = work.plan.num_units
        self._first = float(self._total - len(begun.remaining))
        self._started = self._last_line = self._clock()
        self._rows_per_unit = _rows(work) / max(self._total, 1)
        if self._first:
            self.line(
                f"{self._named(work)} goes on: {int(self._first)} of {self._total} units done"
            )
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description:9s}"),
                BarColumn(),
                TextColumn("{task.percentage:3.0f} %  {task.fields[text]}"),
                TimeRemainingColumn(compact=True),
                console=self._console,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(
                work.stage, total=self._total, completed=int(self._first), text=""
            )
        self._stage = self._named(work)

    def progress(self, done: float, text: str) -> None:
        """Units done, with the fraction of those under way."""
        if self._bar is not None and self._task is not None:
            told = "  ".join(t for t in (text, self._rate(done)) if t)
            self._bar.update(self._task, completed=done, text=told)
            return
        now = self._clock()
        if now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            self.line(f"{self._stage} {self._plain(done, text)}")

    def note(self, text: str) -> None:
        """Say something once."""
        if text not in self._noted:
            self._noted.add(text)
            self.line(f"note: {text}")

    def end(self, begun: Begun, facts: Json) -> None:
        """Leave one line: what was done, how long it took, at which rate."""
        self.stop()
        seconds = self._clock() - self._started
        parts = [f"done in {duration(seconds)}", self._rate(self._total), _told(facts)]
        self.line(f"{self._named(begun.work)} {'  '.join(p for p in parts if p)}")

    def stop(self) -> None:
        """Take the bar away, also after an error."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None

    def line(self, text: str) -> None:
        """One plain line."""
        self._console.print(text, markup=False, soft_wrap=True)

    def _named(self, work: Work) -> str:
        return f"{work.stage:9s}" + (f" {self.subject}:" if self.subject else "")

    def _rate(self, done: float) -> str:
        seconds = self._clock() - self._started
        rows = (done - self._first) * self._rows_per_unit
        return f"{rows / seconds:,.0f} tokens/s" if rows > 0 and seconds > 0 else ""

    def _plain(self, done: float, text: str) -> str:
        left = self._eta(done)
        parts = [f"{100 * done / self._total:3.0f} %", text, self._rate(done), left]
        return "  ".join(p for p in parts if p)

    def _eta(self, done: float) -> str:
        moved = done - self._first
        if moved <= 0:
            return ""
        seconds = (self._clock() - self._started) * (self._total - done) / moved
        return f"eta {duration(seconds)}"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 9.4 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"


def size(num_bytes: float) -> str:
    """Bytes as a person says them, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} PB"


def millions(count: float) -> str:
    """A number of parameters as a person says it: 79.4 k, 134.5 M, 405.85 B."""
    if count < 1e6:
        return f"{count / 1e3:,.1f} k"
    return f"{count / 1e9:,.2f} B" if count >= 1e9 else f"{count / 1e6:,.1f} M"


def _rows(work: Work) -> int:
    items = sum(stop - start for _, start, stop in work.plan.ranges)
    return items * work.rows_per_item if work.rows_per_item > 1 else 0


def _told(facts: Json) -> str:
    shown: list[str] = []
    named: list[tuple[str, str, Callable[[Any], str]]] = [
        ("train_tokens", "training tokens", lambda v: f"{v:,}"),
        ("rows", "rows", lambda v: f"{v:,}"),
        ("bytes", "", size),
        ("train_fvu_last_batches", "FVU of the last batches", lambda v: f"{v:.3f}"),
        ("fvu", "FVU held out", lambda v: f"{v:.3f}"),
        ("silent", "silent latents", lambda v: f"{v:,}"),
    ]
    if facts.get("train_tokens") == 0:
        # All of it is held out: nothing will be trained on it.
        named[0] = ("held_out_tokens", "tokens, all held out", lambda v: f"{v:,}")
    for key, words, form in named:
        if key in facts:
            shown.append(f"{form(facts[key])} {words}".strip())
    return ", ".join(shown)
