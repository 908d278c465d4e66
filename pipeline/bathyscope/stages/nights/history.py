"""The nights of a folder: numbered manifests, the ledger, and a night that was interrupted.

A night is published twice: open, with its agenda, before anything is done, and complete, with what
was found. Manifests are created and never replaced. While one is open the next call goes on with
its agenda, whatever has come in since.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from bathyscope.config import Config
from bathyscope.errors import ConfigError
from bathyscope.runs.identity import refuse, same
from bathyscope.runs.record import now
from bathyscope.runs.run import DICTIONARIES, NIGHTS, Run
from bathyscope.stages.nights.agenda import Agenda
from bathyscope.stages.nights.ledger import Ledger, load_ledger
from bathyscope.stores.manifests import COMPLETE, OPEN, Manifest, latest, publish
from bathyscope.stores.objects import Objects
from bathyscope.values import Json

SEMANTICS = 1
_HEARTBEAT = "heartbeat.json"
_OF_DATA = ("kind", "text_key", "messages_key", "id_key", "sequence_length", "token_dtype")


@dataclass
class Nights:
    """What there is when a night begins."""

    objects: Objects
    identity: Json
    weights: str
    """Digest of the pinned dictionary's weights."""
    ledger: Ledger
    last: int
    """Number of the last complete night; 0 before the first."""
    agenda: Agenda | None
    """Of a night that was begun and not published."""


def open_nights(config: Config) -> Nights:
    """The nights of `config.url`; changes nothing.

    Raises `IdentityMismatch` where earlier nights had another dictionary or other settings.
    """
    objects = Objects(config.url).at(NIGHTS)
    identity = identity_of(config)
    weights = str(identity["dictionary"]["weights"])
    newest, complete = latest(objects), latest(objects, state=COMPLETE)
    if newest is None:
        return Nights(objects, identity, weights, Ledger(), 0, None)
    if not same(newest.identity, identity):
        raise refuse(
            objects.location,
            newest.identity,
            identity,
            "Nights of one folder are compared with each other, so these have to stay. Set them "
            "back, or choose another url.",
        )
    ledger = Ledger() if complete is None else load_ledger(objects, complete.facts)
    agenda = Agenda.from_json(newest.facts["agenda"]) if newest.state == OPEN else None
    last = 0 if complete is None else int(complete.facts["night"])
    return Nights(objects, identity, weights, ledger, last, agenda)


def identity_of(config: Config) -> Json:
    """What all nights of a folder have in common."""
    name, run = config.dictionary.name, config.dictionary.run
    if run is None:
        raise ConfigError(
            "dictionary.run is not set. Nights encode with a dictionary that was trained before: "
            "give its run, as in dictionary.run=runs/main."
        )
    if config.dictionary.kind != "autoencoder":
        raise ConfigError(
            f"dictionary.kind is {config.dictionary.kind}. Nights read autoencoders only so far."
        )
    facts = Run(run).manifest(f"{DICTIONARIES}/{name}").facts
    return {
        "semantics": SEMANTICS,
        "dictionary": {"name": name, "weights": facts["weights_digest"]},
        "hooks": list(config.hooks.points),
        "hook": config.hook,
        "batch_items": config.hooks.batch_items,
        "dtype": config.model.dtype,
        "attention": config.model.attention,
        "data": {key: getattr(config.data, key) for key in _OF_DATA},
        "describe": vars(config.describe),
        "splice_tokens": config.evaluate.splice_tokens,
    }


def begin_night(nights: Nights, agenda: Agenda) -> None:
    """Publish the agenda of a night that begins."""
    facts: Json = {"night": agenda.night, "agenda": agenda.to_json(), "started": now()}
    publish(nights.objects, Manifest(OPEN, nights.identity, (), facts))


def end_night(nights: Nights, facts: Json) -> None:
    """Publish what a night found."""
    publish(nights.objects, Manifest(COMPLETE, nights.identity, (), facts))


def beat(nights: Nights, *, told: str) -> None:
    """Say that a night was here, and what it found: the only thing written when nothing is new."""
    record: Json = {"at": now(), "night": nights.last, "told": told}
    nights.objects.put(_HEARTBEAT, json.dumps(record, indent=1).encode())
