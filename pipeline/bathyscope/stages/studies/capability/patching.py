"""Attribution against exact patching: how well gradients tell what a component does.

A pair is a piece of held-out text and the same with one token replaced by the token of another
piece at that place. The metric is the log probability of the token that really comes next; nodes
are all heads and MLPs, each as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bathyscope.attribution.nodes import (
    Contrast,
    Pairs,
    atp_star,
    attribution_patching,
    contrast,
    every_layer,
    exact_patching,
)
from bathyscope.attribution.nodes.bound import DenseNodes
from bathyscope.errors import HookPointError
from bathyscope.metrics.agreement import pearson, spearman
from bathyscope.stages.studies.capability.means import mean_over_documents
from bathyscope.stages.studies.capability.windows import Windows, windows_of
from bathyscope.stages.studies.opened import OpenedMember
from bathyscope.stages.studies.study import Tell
from bathyscope.values import Json

PATCHING, EXCLUDED = "patching", "excluded"
ATP, STAR, CHANGE, OTHER = "atp", "atp_star", "change_size", "other_pair"
METHODS = {ATP: True, STAR: False, CHANGE: False, OTHER: True}
"""Whether a method's scores have a sign; magnitudes are held against those of exact effects."""
FARTHEST = 8
"""The replaced token is one of the last so many."""
_BATCH = 32
Floats = NDArray[np.float64]


class Swapped(NamedTuple):
    """Windows with one token of each replaced."""

    clean: NDArray[np.int64]
    corrupted: NDArray[np.int64]
    answers: NDArray[np.int64]
    documents: NDArray[np.int64]


def measure_patching(opened: OpenedMember, tell: Tell) -> list[Json]:
    """A row for each method, with both correlations; why not, for models of no family."""
    study = opened.config.study
    windows = windows_of(opened, study.contrast_pairs, study.prompt_tokens)
    swapped = swap(windows, seed=study.seed)
    parts: dict[str, list[Floats]] = {}
    pairs, nodes = len(swapped.answers), 0
    try:
        for start in range(0, pairs, _BATCH):
            for name, scores in _scored(opened, swapped, slice(start, start + _BATCH)):
                parts.setdefault(name, []).append(scores)
            tell(min(start + _BATCH, pairs) / pairs, "patching")
    except HookPointError as error:
        return [{"kind": EXCLUDED, "technique": PATCHING, "reason": str(error)}]
    found = {name: np.concatenate(values) for name, values in parts.items()}
    nodes = found["exact"].shape[1]
    return [
        {
            "kind": PATCHING,
            "method": method,
            "nodes": nodes,
            "pairs": pairs,
            **_agreement(opened, found, method, swapped.documents),
        }
        for method in METHODS
    ]


def swap(windows: Windows, *, seed: int) -> Swapped:
    """Replace one of the last tokens of each window by another window's token at that place.

    The other window is drawn among those with another token there. Windows for which there is none
    are left out.
    """
    read, draw = windows.tokens[:, :-1], np.random.default_rng(seed)
    count, length = read.shape
    corrupted, kept = read.copy(), np.zeros(count, dtype=bool)
    for row in range(count):
        place = length - 1 - int(draw.integers(min(FARTHEST, length - 1)))
        others = np.flatnonzero(read[:, place] != read[row, place])
        if len(others):
            corrupted[row, place] = read[draw.choice(others), place]
            kept[row] = True
    return Swapped(read[kept], corrupted[kept], windows.tokens[kept, -1], windows.documents[kept])


def _scored(opened: OpenedMember, swapped: Swapped, part: slice) -> Iterator[tuple[str, Floats]]:
    """Scores [pairs, nodes] of exact patching and of each method for some pairs."""
    model = opened.model.model
    pairs = Pairs.of_tokens(
        swapped.clean[part].tolist(),
        swapped.corrupted[part].tolist(),
        answers=swapped.answers[part].tolist(),
    ).to(opened.device)
    problem = contrast(model, pairs, "log_probability", every_layer(model, "heads", "mlps"))
    count = len(pairs)
    yield "exact", _table(exact_patching(problem).values, count)
    yield ATP, _table(attribution_patching(problem).values, count)
    yield STAR, _table(atp_star(problem).values, count)
    yield CHANGE, _table(_sizes_of_changes(problem), count)


def _table(values: list[Tensor], pairs: int) -> Floats:
    """Scores set by set -> [pairs, nodes]; nodes of a set are ordered by pair."""
    return np.concatenate([v.double().cpu().numpy().reshape(pairs, -1) for v in values], axis=1)


def _sizes_of_changes(problem: Contrast) -> list[Tensor]:
    """‖Δ_n‖: how much each node changes, which asks nothing of what follows."""
    found = []
    for nodes in problem.nodes:
        assert isinstance(nodes, DenseNodes)
        found.append(torch.linalg.vector_norm(nodes.change.double(), dim=(1, 3)).flatten())
    return found


def _agreement(
    opened: OpenedMember, found: dict[str, Floats], method: str, documents: NDArray[np.int64]
) -> Json:
    """Mean correlation with exact effects over pairs, intervals over documents."""
    exact = found["exact"]
    # The scores of the pair before: what only says which nodes matter everywhere agrees here too.
    scores = np.roll(found[ATP], 1, axis=0) if method == OTHER else found[method]
    signed = METHODS[method]
    true = exact if signed else np.abs(exact)
    row: Json = {"documents": len(np.unique(documents))}
    for name, measure in (("pearson", pearson), ("spearman", spearman)):
        values = np.array([measure(t, s) for t, s in zip(true, scores, strict=True)])
        row |= mean_over_documents(opened, name, values, documents)
    total = float(np.abs(exact).sum())
    wrong = float(np.abs(scores - exact).sum()) if signed else float("nan")
    row["relative_error"] = wrong / total if signed and total > 0 else None
    row["effect"] = float(np.abs(exact).mean())
    return row
