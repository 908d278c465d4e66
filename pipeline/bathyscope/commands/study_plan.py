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
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.member_runs import Size, run_of
from bathyscope.stages.studies.verdicts import counted


@dataclass(frozen=True)
class Cost:
    """What a member needs, and how much of it is there."""

    config: Config
    width: int
    sizes: list[Size] | None
    harvested: bool
    trained: int
    num_bytes: int

    @property
    def training_operations(self) -> float:
        """Of dictionaries that are left: 6 per latent, dimension and row; no selection."""
        run = Run(self.config.url)
        left = [s for s in self.sizes or () if not _there(run, f"{DICTIONARIES}/{s.name}")]
        per = self.config.study.tokens_per_latent
        return sum(6.0 * s.num_latents * self.width * per * s.num_latents for s in left)


def plan_lines(config: Config, chosen: Any, members: Sequence[Member]) -> list[str]:
    """The lines that come before anything is computed."""
    costs = [_cost(config, chosen, member) for member in members]
    harvests = [c for c in costs if c.sizes is not None]
    wanted = sum(len(c.sizes or ()) for c in costs)
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
    if harvests:
        there = sum(c.harvested for c in harvests)
        tokens = study.train_tokens + study.held_out_tokens
        lines.append(
            f"harvests   {len(harvests)} of {tokens:,} tokens each, {there} there already; "
            f"{size(sum(c.num_bytes for c in harvests if not c.harvested))} of disk"
        )
    if wanted:
        lines.append(
            f"training   {wanted} dictionaries, {sum(c.trained for c in costs)} there already; "
            f"{sum(c.training_operations for c in costs) / 1e12:.3g} TFLOP left"
        )
    return lines


def check_room(config: Config, chosen: Any, members: Sequence[Member]) -> None:
    """Raise `DiskSpaceError` where the disk does not hold what is left."""
    costs = [_cost(config, chosen, member) for member in members]
    left = sum(c.num_bytes for c in costs if c.sizes is not None and not c.harvested)
    own = run_of(config, members[0])
    needed = estimate(own, describe_model(own))
    check_disk(config, replace(needed, activations=left, latents=0))


def saved_lines(config: Config, chosen: Any, members: Sequence[Member]) -> list[str]:
    """What this call did, and what it found done: how long that took when it was made.

    Of a training that made more dictionaries than this study needs, the share of these is counted.
    """
    history = Run(config.url).record["history"]
    steps = history[-1]["stages"]
    done = [name for name, figures in steps.items() if not figures["reused"]]
    harvests = dictionaries = 0
    saved = 0.0
    for member in members:
        needed = chosen.sizes(run_of(config, member), member)
        if needed is None:
            continue
        if f"{member.name}: harvest" not in done:
            harvests, saved = harvests + 1, saved + _took(history, f"{member.name}: harvest")
        name = f"{member.name}: dictionaries"
        if needed and name not in done:
            there = len(Run(run_of(config, member).url).dictionaries)
            dictionaries += len(needed)
            saved += _took(history, name) * min(len(needed) / max(there, 1), 1.0)
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


def _cost(config: Config, chosen: Any, member: Member) -> Cost:
    own = run_of(config, member)
    # First of all whether the study is about such a model.
    sizes = chosen.sizes(own, member)
    model = describe_model(own)
    run = Run(own.url)
    return Cost(
        config=own,
        width=model.shape.widths[0],
        sizes=sizes,
        harvested=_there(run, ACTIVATIONS),
        trained=sum(_there(run, f"{DICTIONARIES}/{s.name}") for s in sizes or ()),
        num_bytes=estimate(own, model).activations,
    )


def _there(run: Run, artifact: str) -> bool:
    try:
        run.manifest(artifact)
    except MissingArtifact:
        return False
    return True
