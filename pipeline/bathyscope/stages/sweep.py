"""sweep: many dictionaries on one harvest, several to a pass over the rows.

A unit is a pass: dictionaries that share their batches, trained at once. Each is an artifact of its
own, with the identity, the files and the checkpoints that `train` alone would give it. The sweep
itself holds no more than what is left to do, so a grid may grow, and what is there is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from bathyscope.config import Config
from bathyscope.errors import ConfigError
from bathyscope.runs.identity import digest
from bathyscope.runs.run import Run
from bathyscope.runs.work import Begun, Work, begin, is_complete
from bathyscope.runs.work import finish as publish
from bathyscope.stages import train
from bathyscope.stages.dictionary_files import put_aside
from bathyscope.stages.hook_columns import HookColumns, hook_columns
from bathyscope.stages.place import Place, place_of
from bathyscope.stages.stage import Guard, Outcome
from bathyscope.stages.trained import Trained, joined
from bathyscope.stages.trainings import Wanted, shared_settings, train_together
from bathyscope.stages.turns import Turns
from bathyscope.stores.objects import Objects
from bathyscope.stores.receipts import Receipts
from bathyscope.values import Json, Receipt, Unit, UnitPlan

NAME = "sweep"
SEMANTICS = 1
PARTS = True
SWEEPS = "sweeps"


@dataclass
class Swept(Config):
    """The configuration of a run, with that of each dictionary of a sweep in it."""

    dictionaries: list[Config] = field(default_factory=list)


@dataclass
class Member:
    """A dictionary of the sweep: what is read, and the work that it is."""

    config: Config
    columns: HookColumns
    work: Work

    @property
    def name(self) -> str:
        """Its name in the run."""
        return self.config.dictionary.name


@dataclass
class Context:
    """The dictionaries of every pass, and who trains with this process."""

    url: str
    passes: list[list[Member]]
    place: Place = field(default_factory=Place)
    turns: Turns = field(default_factory=Turns)


def units(config: Config) -> Work:
    """The passes that are left to do, each a unit.

    Raises `ConfigError` for a dictionary that cannot be, and `IdentityMismatch` for one whose name
    another one has.
    """
    run = Objects(config.url)
    left = [m for m in members(config) if not is_complete(run, m.work, force=m.config.force)]
    passes = [[m.name for m in each] for each in _passes(left, config.sweep.together)]
    identity: Json = {
        "stage": NAME,
        "semantics": SEMANTICS,
        "passes": passes,
        "dictionaries": {m.name: digest(m.work.identity) for m in left},
    }
    plan = UnitPlan((("all", 0, len(passes)),) if passes else (), 1)
    return Work(NAME, f"{SWEEPS}/{config.sweep.name}", identity, plan, unit_name="passes")


def members(config: Config) -> list[Member]:
    """Every dictionary of the sweep, those that are there already too."""
    assert isinstance(config, Swept), "the sweep command makes this configuration"
    if config.store.limit_bytes:
        raise ConfigError(
            f"store.limit_bytes is {config.store.limit_bytes}: dictionaries of a sweep start at "
            "steps of their own, so their rows must stay. Set it to 0."
        )
    run, known = Run(config.url), dict[tuple[object, ...], HookColumns]()
    found = []
    for given in config.dictionaries:
        # Paths of a worker are those of the run, not of the command line.
        own = replace(given, url=config.url, cache=config.cache)
        hooks = (tuple(own.inputs), tuple(own.outputs), own.dictionary.kind)
        if hooks not in known:
            known[hooks] = hook_columns(own, run)
        found.append(Member(own, known[hooks], train.work_of(own, known[hooks])))
    return found


def processes(config: Config) -> int:
    """How many processes train together."""
    return config.train.processes


def open(config: Config, work: Work, part: tuple[int, int] = (0, 1)) -> Context:
    """The readers of the training rows; of `part[1]` processes that have met this is `part[0]`."""
    by_name = {member.name: member for member in members(config)}
    passes = [[by_name[name] for name in names] for names in work.identity["passes"]]
    return Context(config.url, passes, place_of(config, part))


def run(unit: Unit, context: Context, guard: Guard) -> Outcome:
    """Train the dictionaries of a pass, and publish each that did not diverge."""
    chosen, place = context.passes[unit.index], context.place
    leads = place.seat.rank == 0
    run = Objects(context.url)
    if leads:
        guard.check()
    begun = [begin(run, m.work, force=m.config.force) for m in chosen] if leads else []
    with context.turns.take(guard.turn):
        wanted = [Wanted(m.config, run.at(m.work.artifact), m.work.segment.name) for m in chosen]
        found = train_together(wanted, chosen[0].columns, guard=guard, place=place)
        found = [
            each if each.error else joined(each, member.config, member.columns, place)
            for each, member in zip(found, chosen, strict=True)
        ]
    if not leads:
        return Outcome(valid=len(chosen))
    errors: Json = {}
    for member, started, trained in zip(chosen, begun, found, strict=True):
        guard.check()
        if trained.error is None:
            _publish(member, started, trained)
        else:
            errors[member.name] = str(trained.error)
    return Outcome(valid=len(chosen), figures={"errors": errors})


def finish(config: Config, begun: Begun, receipts: Mapping[int, Receipt]) -> Json:
    """Close the list of what was to be done; the figures name what diverged."""
    errors = {
        name: error
        for number in range(begun.work.plan.num_units)
        for name, error in receipts[number].figures["errors"].items()
    }
    trained = sum(map(len, begun.work.identity["passes"])) - len(errors)
    facts: Json = {"trained": trained, "errors": errors}
    publish(begun, facts)
    return facts


def _publish(member: Member, begun: Begun, trained: Trained) -> None:
    """What `train` does with a dictionary, once it is trained."""
    segment = begun.work.segment.name
    figures = put_aside(
        trained,
        member.columns,
        order_seed=member.config.train.order_seed,
        objects=begun.objects,
        segment=segment,
    )
    receipt = Receipt(unit=0, term=1, valid=1, figures=figures)
    receipt = Receipts(begun.objects, segment).create(receipt)
    train.finish(member.config, begun, {0: receipt})


def _passes(found: Sequence[Member], together: int) -> Iterator[list[Member]]:
    """Dictionaries of one stream of batches, at most so many, as equal in number as can be."""
    streams: dict[object, list[Member]] = {}
    for member in found:
        streams.setdefault(shared_settings(member.config), []).append(member)
    for stream in streams.values():
        count = -(-len(stream) // together)
        for number in range(count):
            yield stream[number * len(stream) // count : (number + 1) * len(stream) // count]
