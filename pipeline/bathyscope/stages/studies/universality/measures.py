"""What two models have in common at one depth: similarity of their rows, and of their latents."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope.config import Config
from bathyscope.errors import NonFiniteError
from bathyscope.stages.studies.member_runs import Size, run_of
from bathyscope.stages.studies.opened import OpenedMember
from bathyscope.stages.studies.paired_rows import (
    DOCUMENTS,
    ROWS,
    Blocks,
    Paired,
    Side,
    check_alike,
    read_pair,
    shuffled,
)
from bathyscope.stages.studies.paired_spans import SPANS, read_spans
from bathyscope.stages.studies.protocols import sizes_at_equal_ratio
from bathyscope.stages.studies.study import Subject, Tell
from bathyscope.stages.studies.universality.crosscoder import common_latents
from bathyscope.stages.studies.universality.latents import Matched
from bathyscope.studies.canonical import pwcca, svcca
from bathyscope.studies.jackknife import jackknife
from bathyscope.studies.paired_moments import PairedMoments
from bathyscope.studies.similarity import gaussian_floor, linear_cka
from bathyscope.values import HELD_OUT, TRAIN, Json

FIT_ROWS = 2
"""Training rows on which partners are chosen, per held-out row."""

logger = logging.getLogger(__name__)


class Chosen(NamedTuple):
    """The dictionaries of the two sides."""

    a: Size
    b: Size


def measure_pair(config: Config, subject: Subject, tell: Tell) -> Json:
    """The figures of a pair, or of a model whose two dictionaries are compared."""
    first, second = _opened(config, subject)
    if not subject.readers:
        check_alike(first, second)
    sizes = _dictionaries(first, second)
    sides = (
        Side(first, first.run.dictionaries[sizes.a.name]),
        Side(second, second.run.dictionaries[sizes.b.name]),
    )
    held_out, train, aligned = _read(config, subject, sides)
    tell(0.2, "rows read")
    found: Json = {
        "rows": len(held_out),
        "documents": int(held_out.documents[-1]) + 1,
        "num_latents_a": sizes.a.num_latents,
        "num_latents_b": sizes.b.num_latents,
        "k_a": sizes.a.k,
        "k_b": sizes.b.k,
        "hook_a": first.config.hook,
        "hook_b": second.config.hook,
        **aligned,
    }
    if len(subject.members) > 1:
        found |= _similarities(held_out, train, seed=config.study.seed)
        tell(0.4, "similarity of rows")
        found |= _crosscoders(config, train, held_out, sizes)
        tell(0.7, "crosscoders")
    matched = Matched(train, held_out, (sizes.a.num_latents, sizes.b.num_latents))
    found |= matched.record()
    tell(0.8, "latents matched")
    found |= matched.shuffles(seed=config.study.seed)
    tell(0.9, "shuffled floors")
    return {**found, **matched.without_tokens()}


def middle_size(config: Config, width: int, seed: int) -> Size:
    """The middle one of equal F / d and L0 / d, with the seed of that place."""
    sizes = sizes_at_equal_ratio(config, width)
    expansions, shares = len(config.study.expansions), len(config.study.k_shares)
    seeds = len(config.study.seeds)
    return sizes[(expansions // 2 * shares + shares // 2) * seeds + seed]


def _opened(config: Config, subject: Subject) -> tuple[OpenedMember, OpenedMember]:
    opened = [OpenedMember(run_of(config, member)) for member in subject.members]
    return opened[0], opened[-1]


def _read(
    config: Config, subject: Subject, sides: tuple[Side, Side]
) -> tuple[Paired, Paired, Json]:
    """Held-out and training rows, or spans of text, and how the two sides were aligned."""
    tokens = config.study.held_out_tokens, FIT_ROWS * config.study.held_out_tokens
    told: Json = {"aligned_by": SPANS if subject.readers else ROWS}
    for name, side in zip("ab", sides, strict=True):
        told[f"tokenizer_{name}"] = side.opened.corpus.identity.get("tokenizer")
    if subject.readers:
        readers = [OpenedMember(run_of(config, member)) for member in subject.readers]
        held_out, train, figures = read_spans(*sides, readers, tokens)
        return held_out, train, {**told, **figures}
    return read_pair(*sides, HELD_OUT, tokens[0]), read_pair(*sides, TRAIN, tokens[1]), told


def _dictionaries(first: OpenedMember, second: OpenedMember) -> Chosen:
    """The middle one of equal ratios of each side, of two seeds, where there are two."""
    other = min(1, len(first.config.study.seeds) - 1)
    return Chosen(
        middle_size(first.config, first.rows.width, 0),
        middle_size(second.config, second.rows.width, other),
    )


def _crosscoders(config: Config, train: Paired, held_out: Paired, sizes: Chosen) -> Json:
    """Common latents of a crosscoder of both, and of one of shuffled documents.

    Where its training diverges it is empty and says why: other figures of the pair stand.
    """
    size = {"f": sizes.a.num_latents + sizes.b.num_latents, "k": sizes.a.k + sizes.b.k}
    try:
        return _common(config, train, held_out, size)
    except NonFiniteError as error:
        logger.warning("No crosscoder: %s", error)
        return {"crosscoder_note": str(error)}


def _common(config: Config, train: Paired, held_out: Paired, size: dict[str, int]) -> Json:
    found = common_latents(config, train, held_out, **size)
    seed = config.study.seed
    floor = shuffled(train, DOCUMENTS, seed=seed), shuffled(held_out, DOCUMENTS, seed=seed)
    if floor[0] is not None and floor[1] is not None:
        scores = common_latents(config, floor[0], floor[1], **size)
        for name in ("crosscoder_equal", "crosscoder_common"):
            found[f"{name}_shuffled_documents"] = scores[name]
    return found


def _similarities(held_out: Paired, train: Paired, *, seed: int) -> Json:
    """CKA, SVCCA and PWCCA of the rows, intervals over blocks of documents, and floors."""
    shifts = train.x.double().mean(0), train.y.double().mean(0)
    whole = _moments(held_out.x, held_out.y, shifts)
    blocks = Blocks(held_out.cuts, lambda cut: _moments(held_out.x[cut], held_out.y[cut], shifts))
    n, (d1, d2) = whole.num_rows, whole.widths
    found: Json = {
        "cka_biased": linear_cka(whole).cka,
        # Of two widths: the cross term goes with d1 d2, and each side with d (n + d).
        "cka_gaussian_floor": math.sqrt(gaussian_floor(n, d1) * gaussian_floor(n, d2)),
    }
    statistics: dict[str, Callable[[PairedMoments], float]] = {
        "cka": lambda sums: linear_cka(sums).debiased_cka,
        "svcca": lambda sums: svcca(sums).mean_correlation,
        "pwcca": lambda sums: pwcca(sums).weighted_by_x,
    }
    for name, statistic in statistics.items():
        found |= _with_interval(name, statistic, whole, blocks)
    if "svcca_note" not in found:
        canonical = svcca(whole)
        found["svcca_floor"] = canonical.floor
        found["svcca_components_a"], found["svcca_components_b"] = canonical.components
    other = shuffled(held_out, DOCUMENTS, seed=seed)
    if other is not None:
        moved = _moments(other.x, other.y, shifts)
        for name, statistic in statistics.items():
            if f"{name}_note" not in found:
                found[f"{name}_shuffled_documents"] = statistic(moved)
    return found


def _with_interval(
    name: str,
    statistic: Callable[[PairedMoments], float],
    whole: PairedMoments,
    blocks: Sequence[PairedMoments],
) -> Json:
    """A similarity with its ends; without rows enough it is empty and says why."""
    try:
        if len(blocks) < 2:
            return {name: statistic(whole), f"{name}_low": math.nan, f"{name}_high": math.nan}
        found = jackknife(blocks, statistic)
    except ValueError as error:
        return {name: math.nan, f"{name}_note": str(error)}
    return {name: found.estimate, f"{name}_low": found.low, f"{name}_high": found.high}


def _moments(x: Tensor, y: Tensor, shifts: tuple[Tensor, Tensor]) -> PairedMoments:
    with torch.no_grad():
        sums = PairedMoments(x.shape[1], y.shape[1], shift_x=shifts[0], shift_y=shifts[1])
        sums.update(x, y)
    return sums
