"""Graphs of a member's latents that fire together: of its dictionaries and of a random one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bathyscope.config import Config
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.evaluation.controls import random_dictionary
from bathyscope.stages.masks import kept
from bathyscope.stages.studies.factoring.graphs import (
    Found,
    Say,
    across,
    cofiring_graph,
    graph_beyond_token,
)
from bathyscope.stages.studies.factoring.nulls import MARGINS, TOKENS, Settings, settings_of
from bathyscope.stages.studies.member_runs import Size
from bathyscope.stages.studies.opened import OpenedMember
from bathyscope.stages.studies.paired_rows import Paired, Side, read_pair
from bathyscope.stages.studies.protocols import (
    PROTOCOLS,
    middle_size,
)
from bathyscope.stages.studies.study import Tell
from bathyscope.studies.firings import firings_of
from bathyscope.studies.latent_pairs import LatentPairs
from bathyscope.studies.matching import candidates, match_latents
from bathyscope.studies.sparse_rows import Integers
from bathyscope.values import HELD_OUT, TRAIN, Json

COFIRING, BEYOND = "cofiring", "beyond_token"
"""Kinds of graph."""
DICTIONARY, RANDOM = "dictionary", "random"
PARTNER_ABOVE = 0.5
"""Correlation from which on latents of two dictionaries count as one."""
_SCALE_ROWS, _BLOCK = 16_384, 4096


class Chosen(NamedTuple):
    """A dictionary of the member, by the protocol that it stands for."""

    protocol: str
    sizes: list[Size]
    """One for each dictionary seed."""


def chosen(config: Config, width: int) -> list[Chosen]:
    """Of both protocols the middle F and the middle L0; `width` is d."""
    seeds = config.study.seeds
    return [Chosen(p, [middle_size(config, p, width, seed) for seed in seeds]) for p in PROTOCOLS]


def measure_cofiring(opened: OpenedMember, tell: Tell) -> list[Json]:
    """A row for each graph: of two dictionaries and of a random one, in both protocols."""
    config, rows = opened.config, []
    protocols = chosen(config, opened.rows.width)
    for number, each in enumerate(protocols):

        def say(text: str, at: int = number, name: str = each.protocol) -> None:
            tell(at / len(protocols), f"{name}: {text}")

        for row in _protocol_rows(opened, each, settings_of(config), say):
            rows.append({"protocol": each.protocol, **row})
    return rows


def _protocol_rows(
    opened: OpenedMember, each: Chosen, settings: Settings, say: Say
) -> Iterator[Json]:
    tokens = opened.config.study.held_out_tokens
    first, *others = each.sizes
    second = others[0] if others else first
    sides = [Side(opened, opened.run.dictionaries[size.name]) for size in (first, second)]
    paired = read_pair(sides[0], sides[1], HELD_OUT, tokens)
    found = _graph(paired, paired.a, first, settings, (MARGINS, TOKENS), say)
    alike: Json = {}
    if others:
        other = _graph(paired, paired.b, second, settings, (), say)
        alike = across(found, other, _partners(paired, first, second))
        yield {"graph": COFIRING, **_about(second, DICTIONARY), **other.figures, **alike}
    yield {"graph": COFIRING, **_about(first, DICTIONARY), **found.figures, **alike}
    yield {"graph": BEYOND, **_about(first, DICTIONARY), **_beyond(paired, first, settings)}
    say("beyond the token")
    control = Side(opened, _random(opened, first))
    paired = read_pair(control, control, HELD_OUT, tokens)
    found = _graph(paired, paired.a, first, settings, (), say)
    yield {"graph": COFIRING, **_about(first, RANDOM), **found.figures}
    yield {"graph": BEYOND, **_about(first, RANDOM), **_beyond(paired, first, settings)}


def _graph(
    paired: Paired,
    latents: tuple[Tensor, Tensor],
    size: Size,
    settings: Settings,
    shuffles: Sequence[str],
    say: Say,
) -> Found:
    firings = firings_of(*latents, paired.documents, size.num_latents)
    found = cofiring_graph(firings, settings, tokens=_tokens(paired), shuffles=shuffles, say=say)
    documents = int(paired.documents[-1]) + 1
    return found._replace(figures={"documents": documents, **found.figures})


def _beyond(paired: Paired, size: Size, settings: Settings) -> Json:
    firings = firings_of(*paired.a, paired.documents, size.num_latents)
    return graph_beyond_token(firings, settings, _tokens(paired))


def _tokens(paired: Paired) -> Integers:
    assert paired.tokens is not None, "a study of text"
    return paired.tokens.numpy()


def _about(size: Size, kind: str) -> Json:
    return {
        "kind": kind,
        "num_latents": size.num_latents,
        "k": size.k,
        "dictionary_seed": size.seed if kind == DICTIONARY else None,
    }


def _partners(paired: Paired, first: Size, second: Size) -> Integers:
    """Of each latent of the first dictionary the one of the second that fires like it, or -1."""
    sums = LatentPairs(first.num_latents, second.num_latents)
    sums.update(*paired.a, *paired.b)
    match = match_latents(candidates(sums))
    sure = np.nan_to_num(match.matched) >= PARTNER_ABOVE
    return np.where(sure, match.partners, -1)


def _random(opened: OpenedMember, size: Size) -> AnyDictionary:
    """Random directions of the same F and L0."""
    mean = torch.from_numpy(opened.rows.moments(TRAIN, kept).mean).float()
    blocks = opened.train_rows(_SCALE_ROWS).split(_BLOCK)
    control = random_dictionary(
        blocks,
        mean=mean,
        num_latents=size.num_latents,
        k=size.k,
        seed=opened.config.study.seed,
    )
    return control.dictionary
