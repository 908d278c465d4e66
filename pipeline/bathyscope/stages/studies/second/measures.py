"""What a target's training gives from each start: a row for every start, with its curve."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from bathyscope.config import Config
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.member_runs import Size, run_of, with_dictionary
from bathyscope.stages.studies.opened import OpenedMember
from bathyscope.stages.studies.paired_rows import check_alike
from bathyscope.stages.studies.protocols import EQUAL_COUNT, EQUAL_RATIO, middle, middle_size
from bathyscope.stages.studies.second.aligned import (
    Aligned,
    aligned,
    map_fvu,
    mean_of,
    target_moments,
)
from bathyscope.stages.studies.second.curves import curves, part
from bathyscope.stages.studies.second.needed import map_tokens
from bathyscope.stages.studies.second.starts import (
    ITSELF,
    MAPPED,
    PCA,
    ROTATED_COVARIANCE,
    SCRATCH,
    SHUFFLED,
    Start,
    controls,
    from_source,
    most_used,
    weights_of,
)
from bathyscope.stages.studies.study import Subject, Tell
from bathyscope.studies.linear_maps import LinearMap, ridge_maps
from bathyscope.studies.transplants import Weights, principal, tied
from bathyscope.values import Json

Maps = tuple[LinearMap, LinearMap]


def measure_target(config: Config, member: Member, tell: Tell) -> list[Json]:
    """The starts that need no source, by both protocols."""
    opened = OpenedMember(run_of(config, member))
    marks, seeds = map_tokens(config), config.study.seeds
    moments, mean = target_moments(opened, marks), mean_of(opened)
    protocols = {}
    for protocol in (EQUAL_COUNT, EQUAL_RATIO):
        size = middle_size(config, protocol, opened.rows.width, seeds[0])
        some = marks if protocol == EQUAL_COUNT else [middle(marks)]
        starts = [Start(SCRATCH, seed) for seed in seeds]
        for n in some:
            make = partial(principal, moments[n].scatter, mean, size.num_latents)
            starts.append(Start(PCA, seeds[0], n, make))
        if protocol == EQUAL_COUNT and len(seeds) > 1:
            other = opened.run.dictionaries[size._replace(seed=seeds[1]).name]
            starts.append(Start(ITSELF, seeds[0], weights=partial(weights_of, other)))
        protocols[protocol] = (size, starts)
    return _rows(opened, protocols, tell)


def measure_pair(config: Config, subject: Subject, tell: Tell) -> list[Json]:
    """The starts from a source's dictionary; in proportion to d where sizes are adjacent.

    Raises `ConfigError` for models of different tokenizers or items, and for too few rows.
    """
    source, target = (OpenedMember(run_of(config, member)) for member in subject.members)
    check_alike(source, target)
    a, b = subject.members
    chosen = [EQUAL_COUNT]
    if a.trained and a.architecture == b.architecture and a.parameters != b.parameters:
        chosen.append(EQUAL_RATIO)
    seed, marks = config.study.seeds[0], map_tokens(config)
    own = {p: middle_size(config, p, source.rows.width, seed) for p in chosen}
    sizes = {p: middle_size(config, p, target.rows.width, seed) for p in chosen}
    dictionaries: dict[str, Any] = {p: source.run.dictionaries[s.name] for p, s in own.items()}
    found = aligned(
        source,
        target,
        marks,
        shuffle_at=middle(marks),
        seed=config.study.seed,
        dictionaries={
            p: dictionaries[p] for p in chosen if own[p].num_latents > sizes[p].num_latents
        },
    )
    maps = {n: ridge_maps(moments) for n, moments in found.at.items()}
    there = {n: both[0] for n, both in maps.items()}
    left = map_fvu(source, target, there, found.means, config.study.splice_tokens)
    tell(0.05, "maps fitted")
    protocols = {}
    for protocol in chosen:
        weights = weights_of(dictionaries[protocol])
        if protocol in found.used:
            weights = most_used(weights, found.used[protocol], sizes[protocol].num_latents)
        make = _all_starts if protocol == EQUAL_COUNT else _few_starts
        protocols[protocol] = (sizes[protocol], make(config, weights, found, maps))
    return _rows(
        target,
        protocols,
        part(tell, 0.05, 0.95),
        {n: {"map_fvu": left[n], "map_penalty": there[n].penalty} for n in marks},
    )


def _all_starts(
    config: Config, weights: Weights, found: Aligned, maps: dict[int, Maps]
) -> list[Start]:
    """Mapped by every map; the controls from the middle one."""
    seed, middle_n = config.study.seeds[0], middle(sorted(maps))
    starts = [
        Start(MAPPED, seed, n, partial(from_source, weights, maps[n], found.means))
        for n in sorted(maps)
    ]
    starts += _turned(config, weights, found, maps)
    assert found.shuffled is not None, "the middle n was read"
    noise = ridge_maps(found.shuffled)
    # Encoder from the decoder: through a map back that is nearly 0 only the biases would be left,
    # and the same latents would fire in every row.
    shuffled = Start(
        SHUFFLED, seed, middle_n, lambda: tied(from_source(weights, noise, found.means))
    )
    return [*starts, shuffled]


def _few_starts(
    config: Config, weights: Weights, found: Aligned, maps: dict[int, Maps]
) -> list[Start]:
    """Mapped by the middle map, and its strictest control."""
    seed, n = config.study.seeds[0], middle(sorted(maps))
    own = Start(MAPPED, seed, n, partial(from_source, weights, maps[n], found.means))
    return [own, *_turned(config, weights, found, maps, only=ROTATED_COVARIANCE)]


def _turned(
    config: Config, weights: Weights, found: Aligned, maps: dict[int, Maps], only: str = ""
) -> list[Start]:
    n = middle(sorted(maps))
    own = partial(from_source, weights, maps[n], found.means)
    scatter: Tensor = found.at[n].scatter("yy")
    made = controls(own, scatter, found.means[1], seed=config.study.seed)
    return [
        Start(kind, config.study.seeds[0], n, make)
        for kind, make in made.items()
        if not only or kind == only
    ]


def _rows(
    opened: OpenedMember,
    protocols: dict[str, tuple[Size, list[Start]]],
    tell: Tell,
    facts: dict[int, Json] | None = None,
) -> list[Json]:
    found: list[Json] = []
    total = sum(len(starts) for _, starts in protocols.values())
    for protocol, (size, starts) in protocols.items():
        told = part(tell, len(found) / total, len(starts) / total)
        for start, curve in zip(
            starts, curves(with_dictionary(opened.config, size), opened, starts, told), strict=True
        ):
            found.append(
                {
                    "protocol": protocol,
                    "start": start.kind,
                    "map_tokens": start.map_tokens,
                    "dictionary_seed": start.seed,
                    "num_latents": size.num_latents,
                    "k": size.k,
                    "d": opened.rows.width,
                    "curve_tokens": curve.tokens,
                    "curve_fvu": curve.fvu,
                    "start_fvu": curve.fvu[0],
                    "final_fvu": None if curve.error else curve.fvu[-1],
                    "error": curve.error,
                    **(facts or {}).get(start.map_tokens, {}),
                }
            )
    return found
