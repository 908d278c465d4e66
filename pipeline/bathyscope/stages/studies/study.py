"""What a study is: what must be made first, what is measured, and what follows from all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bathyscope.config import Config
from bathyscope.pages.study_data import StudyPage
from bathyscope.stages.studies.member import Checkpoint, Member
from bathyscope.stages.studies.member_runs import Size
from bathyscope.values import Json

Progress = Any


@dataclass(frozen=True)
class Subject:
    """What one unit measures: a member, or several that are compared."""

    name: str
    members: tuple[Member, ...]
    readers: tuple[Member, ...] = ()
    """In a family of several tokenizers a member of each: together their corpora cut the text."""
    checkpoints: tuple[Checkpoint, ...] = ()
    """Weights along the training of its first member, which are measured in place of its last."""


class Tell(Protocol):
    """Says how far a unit is, and confirms that it is still this process'."""

    def __call__(self, share: float, text: str = "") -> None:
        """`share` from 0 to 1. Raises `LeaseLost`."""
        ...


class Study(Protocol):
    """A module of `bathyscope.stages.studies` that is one study."""

    NAME: str
    TITLE: str
    SEMANTICS: int
    SETTINGS: Sequence[str]
    """Fields of `study` that decide its results."""
    TRANSCODERS: bool
    """Whether it reads a transcoder of each block, which `transcoders.transcoder_run_of` has."""

    SPANS: bool
    """Whether it compares models of several tokenizers, by spans of text."""

    def sizes(self, config: Config, member: Member) -> list[Size]:
        """Dictionaries that a member needs; `config` is that of its run. None: no harvest."""
        ...

    def subjects(self, config: Config, members: Sequence[Member]) -> list[Subject]:
        """What is measured, of the members whose runs are ready."""
        ...

    def measure(self, config: Config, subject: Subject, tell: Tell) -> list[Json]:
        """The rows of the table that a subject gives."""
        ...

    def conclude(
        self, config: Config, members: Sequence[Member], rows: Sequence[Mapping[str, Any]]
    ) -> StudyPage:
        """Fits, verdicts and figures from all rows."""
        ...
