"""study: a question asked of a family of models; harvests, dictionaries, measurements, a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace

from bathyscope.commands.progress import Screen
from bathyscope.commands.run import Record, Step, carry_out
from bathyscope.commands.study_plan import check_room, plan_lines, saved_lines
from bathyscope.config import Config
from bathyscope.errors import BathyscopeError
from bathyscope.pages.study import text_verdicts
from bathyscope.runs.run import STUDIES, Run
from bathyscope.stages import sweep as sweep_stage
from bathyscope.stages.studies.corpora import check_offsets, check_tokenizers, corpora_of
from bathyscope.stages.studies.family import corpus_run, family_of
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.member_runs import run_of
from bathyscope.stages.studies.needs import Need, needs_of
from bathyscope.stages.studies.pages import page_of
from bathyscope.stages.studies.registry import study_of
from bathyscope.stages.study import Studied
from bathyscope.values import Json


def study(
    config: Config,
    say: Callable[[str], None],
    *,
    resolved: Json | None = None,
    overrides: Sequence[str] = (),
    screen: Screen | None = None,
) -> bool:
    """Make what a study needs of every member, measure, print its verdicts; whether none failed.

    Everything goes on where it stopped, and what an earlier study made is used again. A member
    whose harvest, dictionaries or measurement fail is named, and the study goes on without it.
    Raises `ConfigError` for a study or a family that cannot be, before anything is computed.
    """
    screen = screen or Screen()
    chosen, members = study_of(config), family_of(config)
    check_tokenizers(chosen.NAME, chosen.SPANS, members)
    check_offsets(config, members)
    # Models of a family differ much in size: one that takes long is no straggler.
    config = replace(config, cluster=replace(config.cluster, straggler_factor=1e6))
    for line in plan_lines(config, chosen, members):
        screen.line(line)
    check_room(config, chosen, members)
    record = Record(config.url, resolved or {}, overrides, "study")
    failed: dict[str, str] = {}

    def note(step: Step, error: BathyscopeError) -> None:
        if not step.subject:
            # What all members read.
            raise error
        failed[step.subject] = f"{type(error).__name__}: {error}"
        screen.line(f"FAILED    {step.name}: {failed[step.subject]}")

    steps = _steps(config, members, failed)
    carry_out(config, steps, record=record, screen=screen, failed=note)
    for line in [*_results(config, chosen.NAME), *saved_lines(config, chosen, members)]:
        say(line)
    return not Run(config.url).manifest(f"{STUDIES}/{chosen.NAME}").facts["failed"]


def _steps(config: Config, members: Sequence[Member], failed: dict[str, str]) -> Iterator[Step]:
    """What is done for each member, in order, and the study itself at the end."""
    if config.family.kind == "members":
        yield from _corpora(config, members)
    for member in members:
        yield from _steps_of(config, member, failed)
    settings = {f.name: getattr(config, f.name) for f in fields(Config)}
    last = Studied(**{**settings, "force": True}, failed=dict(failed))
    yield Step(f"study {config.study.name}", "study", last, subject=config.study.name)


def _corpora(config: Config, members: Sequence[Member]) -> Iterator[Step]:
    """The text of the study by each tokenizer. Where one but the first fails, its models do."""
    for reader in corpora_of(members):
        own = replace(config, url=corpus_run(config, reader), model=reader.model)
        if reader.corpus is None:
            yield Step("corpus", "corpus", replace(own, url=config.url))
        else:
            name = f"corpus by the tokenizer of {reader.name}"
            yield Step(name, "corpus", own, subject=reader.name)


def _steps_of(config: Config, member: Member, failed: dict[str, str]) -> Iterator[Step]:
    """Corpus, harvests and dictionaries of a member, as far as the study needs them."""
    name = member.name
    if name in failed:
        return
    yield Step(f"{name}: corpus", "corpus", run_of(config, member), subject=name)
    if name in failed:
        return
    for need in needs_of(config, study_of(config), member):
        yield from _steps_for(need, name, failed)
        if name in failed:
            return


def _steps_for(need: Need, name: str, failed: dict[str, str]) -> Iterator[Step]:
    """One of its runs: what is harvested, and what is trained on that."""
    if need.kind:
        yield Step(f"{name}: {need.step('corpus')}", "corpus", need.config, subject=name)
    yield Step(f"{name}: {need.step('harvest')}", "harvest", need.config, subject=name)
    if name in failed or not need.dictionaries:
        return
    swept = need.sweep()
    if not sweep_stage.units(swept).plan.num_units:
        return
    yield Step(f"{name}: {need.step('dictionaries')}", "sweep", swept, subject=name)
    if name not in failed:
        sweep = f"{sweep_stage.SWEEPS}/{need.config.sweep.name}"
        for error in Run(need.config.url).manifest(sweep).facts["errors"].values():
            failed[name] = error


def _results(config: Config, name: str) -> list[str]:
    """What a person reads at the end."""
    folder = f"{config.url.rstrip('/')}/{STUDIES}/{name}"
    run = Run(config.url)
    facts = run.manifest(f"{STUDIES}/{name}").facts
    lines = [f"FAILED {member}: {error}" for member, error in facts["failed"].items()]
    if "page_key" not in facts:
        return [*lines, f"Nothing was measured. What failed is told in {folder}/failed."]
    return [
        *lines,
        text_verdicts(page_of(run.study(name))),
        f"report: {folder}/{facts['page_key']}   table: {folder}/{facts['table_key']}",
    ]
