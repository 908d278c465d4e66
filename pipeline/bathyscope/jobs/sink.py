"""Where progress goes. Jobs report to a sink; commands decide how a person sees it."""

from __future__ import annotations

from typing import Protocol

from bathyscope.runs.work import Begun
from bathyscope.values import Json


class Sink(Protocol):
    """Receives what a job does, in order."""

    def begin(self, begun: Begun) -> None:
        """A stage starts, resumes, or has nothing to do."""
        ...

    def progress(self, done: float, text: str) -> None:
        """Units done, with the fraction of those under way."""
        ...

    def note(self, text: str) -> None:
        """Something that a person should read once: a retry, a fallback."""
        ...

    def end(self, begun: Begun, facts: Json) -> None:
        """The stage is complete."""
        ...


class Silent:
    """A sink that says nothing."""

    def begin(self, begun: Begun) -> None:
        """Ignore it."""

    def progress(self, done: float, text: str) -> None:
        """Ignore it."""

    def note(self, text: str) -> None:
        """Ignore it."""

    def end(self, begun: Begun, facts: Json) -> None:
        """Ignore it."""
