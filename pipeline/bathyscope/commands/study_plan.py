"""What a study will take, told before it begins, and what it did not have to make again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from bathyscope.commands.disk import check_disk, estimate
from bathyscope.commands.progress import duration, millions, size
from bathyscope.config import Config
from bathyscope.errors import MissingArtifact
from bathyscope.runs.run import ACTIVATIONS, DICTIONARIES, Run
from bathyscope.stages.model import describe_model
from bathyscope.stages.studies.corpora import corpora_of
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.member_runs import run_of
from bathyscope.stages.studies.needs import Need, needs_of
from bathyscope.stages.studies.study import Study
from bathyscope.stages.studies.verdicts import counted


@dataclass(frozen=True)
class Cost:
    """What one run of a member takes, and how much of it is there."""

    need: Need
    width: int
    harvested: bool
    trained: int
    num_bytes: int

    @property
    def training_operations(self) -> float:
        """Of dictionaries that are left: 6 per latent, dimension and row; no selection."""
        run = Run(self.need.config.url)
        left = [
            config
            for config in self.need.dictionaries
            if not _there(run, f"{DICTIONARIES}/{config.dictionary.name}")
        ]
        return sum(6.0 * c.dictionary.num_latents * self.width * c.train.tokens for c in left)


def plan_lines(config: Config, chosen: Study, members: Sequence[Member]) -> list[str]:
    """The lines that come before anything is computed."""
    costs = _costs(config, chosen, members)
    wanted = sum(len(c.need.dictionaries) for c in costs)
    seeds = {m.seed for m in members}
    sizes = sorted({m.parameters for m in members})
    untrained = sum(not m.trained for m in members)
    study = config.study
    lines = [
        f"study      {chosen.NAME}: {chosen.TITLE}",
        f"family     {len(members)} models, {untrained} of them untrained: "
        f"{', '.join(sorted({m.architecture for m in members}))}; {millions(sizes[0])} to "
        f"{millions(sizes[-1])} parameters in {counted(len(sizes), 'size')}, "
        f"{counted(len(seeds), 'seed')}; "
        f"{sum(len(m.checkpoints) for m in members)} checkpoints",
    ]
    tokenizers = len(corpora_of(members))
    if tokenizers > 1:
        lines.append(
            f"text       cut by {tokenizers} tokenizers: models are compared by spans of text, "
            "which end where all of them end a token"
        )
    if costs:
        there = sum(c.harvested for c in costs)
        tokens = study.train_tokens + study.held_out_tokens
        lines.append(
            f"harvests   {len(costs)} of {tokens:,} tokens each, {there} there already; "
            f"{size(sum(c.num_bytes for c in costs if not c.harvested))} of disk"
        )
    if wanted:
        lines.append(
            f"training   {wanted} dictionaries, {sum(c.trained for c in costs)} there already; "
            f"{sum(c.training_operations for c in costs) / 1e12:.3g} TFLOP left"
        )
    subjects = chosen.subjects(config, members)
    along = sum(1 for subject in subjects if subject.checkpoints)
    others = f", {along} of them along the training" if along else ""
    return [*lines, f"measures   {counted(len(subjects), 'subject')}{others}"]


def check_room(config: Config, chosen: Study, members: Sequence[Member]) -> None:
    """Raise `DiskSpaceError` where the disk does not hold what is left."""
    left = sum(c.num_bytes for c in _costs(config, chosen, members) if not c.harvested)
    own = run_of(config, members[0])
    needed = estimate(own, describe_model(own))
    check_disk(config, replace(needed, activations=left, latents=0))


def saved_lines(config: Config, chosen: Study, members: Sequence[Member]) -> list[str]:
    """What this call did, and what it found done: how long that took when it was made.

    Of a training that made more dictionaries than this study needs, the share of these is counted.
    """
    history = Run(config.url).record["history"]
    steps = history[-1]["stages"]
    done = [name for name, figures in steps.items() if not figures["reused"]]
    harvests = dictionaries = 0
    saved = 0.0
    for member in members:
        for need in needs_of(config, chosen, member):
            harvest = f"{member.name}: {need.step('harvest')}"
            if harvest not in done:
                harvests, saved = harvests + 1, saved + _took(history, harvest)
            trained = f"{member.name}: {need.step('dictionaries')}"
            if need.dictionaries and trained not in done:
                there = len(Run(need.config.url).dictionaries)
                dictionaries += len(need.dictionaries)
                saved += _took(history, trained) * min(len(need.dictionaries) / max(there, 1), 1.0)
    took = duration(history[-1].get("seconds", 0.0))
    found = ""
    if harvests:
        found = f"; found done: {harvests} harvests and {dictionaries} dictionaries"
        found += f", which once took {duration(saved)}" if saved else ""
    return [f"steps      {len(done)} done in {took}{found}"]


def _took(history: Sequence[Any], name: str) -> float:
    """Seconds of a step when it was done."""
    found = [
        entry["stages"][name]["seconds"]
        for entry in history
        if name in entry["stages"] and not entry["stages"][name]["reused"]
    ]
    return float(sum(found))


def _costs(config: Config, chosen: Study, members: Sequence[Member]) -> list[Cost]:
    """Of every run that the study needs; refuses first of all what it is not about."""
    return [_cost(need) for member in members for need in needs_of(config, chosen, member)]


def _cost(need: Need) -> Cost:
    model, run = describe_model(need.config), Run(need.config.url)
    return Cost(
        need=need,
        width=model.shape.widths[0],
        harvested=_there(run, ACTIVATIONS),
        trained=sum(_there(run, f"{DICTIONARIES}/{name}") for name in need.names),
        num_bytes=estimate(need.config, model).activations,
    )


def _there(run: Run, artifact: str) -> bool:
    try:
        run.manifest(artifact)
    except MissingArtifact:
        return False
    return True
