"""What must be made of a member before a study measures it: runs, and the dictionaries in them."""

from __future__ import annotations

from dataclasses import dataclass, fields

from bathyscope.config import Config
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.member_runs import run_of, with_dictionary
from bathyscope.stages.studies.study import Study
from bathyscope.stages.studies.transcoders import transcoder_run_of, transcoders_of
from bathyscope.stages.sweep import Swept


@dataclass(frozen=True)
class Need:
    """A run of a member with its harvest, and the dictionaries that are trained on that."""

    kind: str
    """Nothing for the member's own run, else what it is for."""
    config: Config
    dictionaries: list[Config]

    @property
    def names(self) -> list[str]:
        """Of the dictionaries."""
        return [config.dictionary.name for config in self.dictionaries]

    def step(self, verb: str) -> str:
        """A step as the screen and the record of the command name it."""
        return f"{self.kind} {verb}".lstrip()

    def sweep(self) -> Swept:
        """All dictionaries, as a sweep trains them."""
        settings = {f.name: getattr(self.config, f.name) for f in fields(Config)}
        return Swept(**{**settings, "force": True}, dictionaries=self.dictionaries)


def needs_of(config: Config, study: Study, member: Member) -> list[Need]:
    """Every run that a study reads activations of; none where it reads weights alone.

    Raises `ConfigError` for a member that the study is not about.
    """
    own, found = run_of(config, member), []
    sizes = study.sizes(own, member)
    if sizes is not None:
        found.append(Need("", own, [with_dictionary(own, size) for size in sizes]))
    if study.TRANSCODERS:
        beside = transcoder_run_of(config, member)
        found.append(Need("transcoder", beside, transcoders_of(beside)))
    return found
