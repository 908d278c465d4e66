"""study: what a study asks is measured of every member of a family, and put together.

A unit is a subject, a member or a pair of them. Results are files of their own, named by the digest
of all that decides them, so a family may grow from one call to the next, and what is there is kept.
A member that fails is named, and takes no other with it. In the folder `studies` of the run lies an
`index.html` of all studies, and in `studies/<name>`:

    results/<digest>.json   the rows that a subject gave
    table.parquet           all rows
    results.json            fits, verdicts, definitions and protocol; what `index.html` shows
    index.html
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Mapping
from dataclasses import dataclass

from bathyscope.config import Config
from bathyscope.errors import BathyscopeError, LeaseLost, StopRequested
from bathyscope.evaluation.summary import without_nan
from bathyscope.runs.identity import digest
from bathyscope.runs.run import ACTIVATIONS, CORPUS, DICTIONARIES, STUDIES, Run
from bathyscope.runs.work import Begun, Work
from bathyscope.runs.work import finish as publish
from bathyscope.stages.model import describe_model
from bathyscope.stages.stage import Guard, Outcome
from bathyscope.stages.studies.corpora import check_tokenizers
from bathyscope.stages.studies.family import family_of
from bathyscope.stages.studies.member import Checkpoint, Member
from bathyscope.stages.studies.member_runs import at_checkpoint, run_of
from bathyscope.stages.studies.needs import needs_of
from bathyscope.stages.studies.pages import put_index, put_study
from bathyscope.stages.studies.registry import study_of
from bathyscope.stages.studies.study import Study, Subject
from bathyscope.stores.objects import Objects
from bathyscope.values import Json, Receipt, Unit, UnitPlan

NAME = "study"
SEMANTICS = 3
"""Of what is concluded; each study has one of its own for what it measures."""
_RESULTS, _FAILED = "results", "failed"
logger = logging.getLogger(__name__)


@dataclass
class Studied(Config):
    """The configuration of a study, with the members whose runs could not be made."""

    failed: Mapping[str, str] | None = None
    """Why, by the name of the member."""


@dataclass(frozen=True)
class Known:
    """A subject, and where its result lies."""

    subject: Subject
    digest: str
    there: bool

    @property
    def key(self) -> str:
        """Of the file, beneath the folder of the study."""
        return f"{_RESULTS}/{self.digest}.json"


@dataclass
class Context:
    """The study and its subjects."""

    config: Config
    study: Study
    known: list[Known]
    objects: Objects


def units(config: Config) -> Work:
    """One unit per subject; those whose result is there cost nothing.

    Raises `ConfigError` for a study or a family that cannot be.
    """
    study, known = study_of(config), subjects_of(config)
    objects = Objects(config.url).at(f"{STUDIES}/{study.NAME}")
    identity: Json = {
        "stage": NAME,
        "semantics": SEMANTICS,
        "study": study.NAME,
        "subjects": {each.subject.name: each.digest for each in known},
        "failed": dict(getattr(config, "failed", None) or {}),
        # What failed is tried again by every call.
        "tries": {each.subject.name: tries for each in known if (tries := _tries(objects, each))},
        "conclusion": {"resamples": config.study.resamples, "seed": config.study.seed},
    }
    plan = UnitPlan((("all", 0, len(known)),) if known else (), 1)
    return Work(NAME, f"{STUDIES}/{study.NAME}", identity, plan, unit_name="subjects")


def subjects_of(config: Config) -> list[Known]:
    """Every subject of the study, those that are measured already too."""
    study = study_of(config)
    failed = getattr(config, "failed", None) or {}
    members = [member for member in family_of(config) if member.name not in failed]
    objects = Objects(config.url).at(f"{STUDIES}/{study.NAME}")
    check_tokenizers(study.NAME, study.SPANS, members)
    inputs = {member.name: _inputs(config, study, member) for member in members}
    found = []
    for subject in study.subjects(config, members):
        identity: Json = {
            "study": study.NAME,
            "semantics": study.SEMANTICS,
            "settings": {name: getattr(config.study, name) for name in study.SETTINGS},
            "members": [inputs[member.name] for member in subject.members],
        }
        if subject.checkpoints:
            identity["checkpoints"] = [
                _checkpoint(config, subject.members[0], each) for each in subject.checkpoints
            ]
        if subject.readers:
            # They decide where spans end; the order of tokenizers does not.
            identity["readers"] = sorted(
                inputs[member.name]["corpus"] for member in subject.readers
            )
        name = digest(identity)
        found.append(Known(subject, name, objects.exists(f"{_RESULTS}/{name}.json")))
    return found


def open(config: Config, work: Work) -> Context:
    """The subjects that the work names."""
    by_name = {each.subject.name: each for each in subjects_of(config)}
    objects = Objects(config.url).at(work.artifact)
    known = [by_name[name] for name in work.identity["subjects"]]
    return Context(config, study_of(config), known, objects)


def run(unit: Unit, context: Context, guard: Guard) -> Outcome:
    """Measure a subject and keep its rows; what fails is kept too, and the others go on."""
    known = context.known[unit.index]
    name = known.subject.name
    if context.objects.exists(known.key):
        return Outcome(valid=1, figures={"error": ""})

    def tell(share: float, text: str = "") -> None:
        guard.progress(share, f"{name}  {text}".rstrip())

    try:
        rows = context.study.measure(context.config, known.subject, tell)
    except (LeaseLost, StopRequested):
        raise
    except (BathyscopeError, ArithmeticError, RuntimeError, ValueError, OSError) as error:
        guard.check()
        _note_failure(context.objects, known, error)
        return Outcome(valid=1, figures={"error": f"{type(error).__name__}: {error}"})
    guard.check()
    record = {"subject": name, "rows": without_nan(rows)}
    context.objects.put(known.key, json.dumps(record, indent=1).encode(), fsync=True)
    return Outcome(valid=1, figures={"error": ""})


def finish(config: Config, begun: Begun, receipts: Mapping[int, Receipt]) -> Json:
    """Put all rows together: table, fits, verdicts and the page."""
    study, known = study_of(config), subjects_of(config)
    failed = dict(getattr(config, "failed", None) or {})
    for number, name in enumerate(begun.work.identity["subjects"]):
        if error := receipts[number].figures["error"]:
            failed[name] = error
    rows: list[Json] = []
    for each in known:
        if each.there:
            rows += json.loads(begun.objects.get(each.key))["rows"]
    members = [m for m in family_of(config) if m.name not in failed]
    facts: Json = {"subjects": len(known), "rows": len(rows), "failed": failed}
    if rows:
        page = study.conclude(config, members, rows)
        facts |= put_study(begun.objects, page, rows, failed)
        facts["answer"] = page.answer
    publish(begun, facts)
    put_index(Run(config.url))
    return facts


def _inputs(config: Config, study: Study, member: Member) -> Json:
    """What identifies what is read of a member."""
    own = run_of(config, member)
    found: Json = {
        "name": member.name,
        "model": describe_model(own).digest(own),
        "dtype": config.model.dtype,
        "checkpoints": [checkpoint.name for checkpoint in member.checkpoints],
    }
    run = Run(own.url)
    found["corpus"] = digest(run.manifest(CORPUS).identity)
    for need in needs_of(config, study, member):
        # Those of the member's own run stand by themselves.
        within = found.setdefault(need.kind, {}) if need.kind else found
        made = Run(need.config.url)
        within["activations"] = digest(made.manifest(ACTIVATIONS).identity)
        within["dictionaries"] = [
            made.manifest(f"{DICTIONARIES}/{name}").facts["weights_digest"] for name in need.names
        ]
    return found


def _checkpoint(config: Config, member: Member, checkpoint: Checkpoint) -> Json:
    """What identifies weights along the training of a member.

    Of a hub its name for them, so that none of 154 is fetched before it is read.
    """
    found: Json = {"tokens": checkpoint.tokens}
    model = checkpoint.model
    if model.kind == "hub":
        return {**found, "repo": model.repo, "revision": model.revision}
    own = at_checkpoint(config, member, checkpoint)
    return {**found, "model": describe_model(own).digest(own)}


def _tries(objects: Objects, known: Known) -> int:
    return len([n for n in objects.files(_FAILED) if n.startswith(f"{known.digest}.")])


def _note_failure(objects: Objects, known: Known, error: Exception) -> None:
    record = {
        "subject": known.subject.name,
        "error": f"{type(error).__name__}: {error}",
        "traceback": traceback.format_exception(error),
    }
    key = f"{_FAILED}/{known.digest}.{_tries(objects, known)}.json"
    objects.put(key, json.dumps(record, indent=1).encode())
    logger.warning("%s: %s: %s", known.subject.name, type(error).__name__, error)
