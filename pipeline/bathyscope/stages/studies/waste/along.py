"""What can be removed along the training: at equal tokens per parameter, and at equal loss.

A few checkpoints are measured, not all: those around the ratio that all sizes of an architecture
reach, and those of the larger of two models around the loss at which the smaller one ends. Of the
methods those that need no calibration, of two kinds, and their control.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bathyscope.config import Config
from bathyscope.stages.studies.equal_loss import adjacent
from bathyscope.stages.studies.equal_training import between, needed, ratios
from bathyscope.stages.studies.family import table_row
from bathyscope.stages.studies.member import Checkpoint, Member
from bathyscope.stages.studies.member_runs import at_checkpoint, run_of
from bathyscope.stages.studies.opened import OpenedMember, held_out_losses
from bathyscope.stages.studies.study import Subject, Tell
from bathyscope.stages.studies.verdicts import Row, judged
from bathyscope.stages.studies.waste.measures import POINT, SUMMARY, measure_waste
from bathyscope.stages.studies.waste.methods import BY_NAME
from bathyscope.studies.matched import Checkpoint as Matchable
from bathyscope.values import Json

ALONG, ALONG_POINT = "along", "along_point"
"""Kinds of rows: those that sum up a method, and its points, at a checkpoint."""
_KINDS = {SUMMARY: ALONG, POINT: ALONG_POINT}
METHODS_ALONG = [BY_NAME[name] for name in ("magnitude", "random_weights", "rounding")]


def subjects_along(members: Sequence[Member], *, text: bool) -> list[Subject]:
    """Checkpoints by themselves; then, of text, the larger of two models with the smaller one."""
    found = ratios(members)
    subjects = [
        Subject(f"{member.name} at {checkpoint.name}", (member,), checkpoints=(checkpoint,))
        for member in judged(members)
        if member.architecture in found
        for checkpoint in needed(member, found[member.architecture])
    ]
    for small, larger in adjacent(members) if text else []:
        inner = tuple(between(larger))
        if inner and larger.tokens is not None and small.tokens is not None:
            name = f"{larger.name} at the loss of {small.name}"
            subjects.append(Subject(name, (larger, small), checkpoints=inner))
    return subjects


def measure_along(config: Config, subject: Subject, tell: Tell) -> list[Json]:
    """Rows of a subject's checkpoint, or of those around the loss of its second member."""
    member, *others = subject.members
    chosen: Sequence[Checkpoint] = subject.checkpoints
    if others:
        chosen = around_loss(config, member, others[0], tell)
    rows: list[Json] = []
    for checkpoint in chosen:
        opened = OpenedMember(at_checkpoint(config, member, checkpoint))
        state = {"state": checkpoint.name, "state_tokens": checkpoint.tokens}
        rows += [
            {**table_row(member), **state, **row, "kind": _KINDS[row["kind"]]}
            for row in measure_waste(opened, tell, METHODS_ALONG)
            if row["kind"] in _KINDS
        ]
    return rows


def around_loss(config: Config, larger: Member, small: Member, tell: Tell) -> list[Checkpoint]:
    """Checkpoints of the larger model just before and after it first had the loss of the small one.

    None where it never has it; one where its first checkpoint has it, or only its last weights.
    """
    wanted = _loss(run_of(config, small))
    before: list[Checkpoint] = []
    for checkpoint in between(larger):
        tell(0.0, f"the loss at {checkpoint.name}")
        if _loss(at_checkpoint(config, larger, checkpoint)) <= wanted:
            return [*before, checkpoint]
        before = [checkpoint]
    return before if _loss(run_of(config, larger)) <= wanted else []


def measured_along(rows: Sequence[Row], member: Member, method: str) -> Iterator[Row]:
    """Rows that sum up a method at the checkpoints of a member, by rising tokens, each once."""
    own = {
        row["state_tokens"]: row
        for row in rows
        if row["kind"] == ALONG and row["member"] == member.name and row["method"] == method
    }
    yield from (own[tokens] for tokens in sorted(own))


def curve_along(rows: Sequence[Row], member: Member, method: str) -> list[Matchable]:
    """(tokens, loss, removable share) at checkpoints, and at last of the final weights."""
    last = [
        row
        for row in rows
        if row["kind"] == SUMMARY and row["member"] == member.name and row["method"] == method
    ]
    if member.tokens is None or not last:
        return []
    found = [
        Matchable(row["state_tokens"], row["clean_loss"], row["removable"])
        for row in measured_along(rows, member, method)
    ]
    return [*found, Matchable(member.tokens, last[0]["clean_loss"], last[0]["removable"])]


def _loss(config: Config) -> float:
    """Nats per token of some weights on the held-out text."""
    opened = OpenedMember(config)
    return held_out_losses(opened, opened.model).mean_ce()
