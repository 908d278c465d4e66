"""Attribution graphs of a member: how much of what they explain goes through latents.

One transcoder stands for each MLP. The control has the same latents at the same places, whose
decoder rows are exchanged among each other: it writes as much, in wrong directions.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bathyscope.attribution.graphs.build import attribution_graph
from bathyscope.attribution.graphs.influence import influence_of
from bathyscope.attribution.graphs.order import order_of
from bathyscope.attribution.graphs.scores import scores_of
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.stages.studies.capability.means import mean_over_documents
from bathyscope.stages.studies.capability.windows import windows_of
from bathyscope.stages.studies.opened import OpenedMember
from bathyscope.stages.studies.study import Tell
from bathyscope.values import Json

GRAPH = "graph"
TRANSCODER, EXCHANGED = "transcoder", "exchanged"


def measure_graphs(
    opened: OpenedMember, dictionaries: Mapping[str, AnyDictionary], tell: Tell
) -> list[Json]:
    """A row for the transcoders and one for the control: means over prompts."""
    study = opened.config.study
    windows = windows_of(opened, study.prompts, study.prompt_tokens)
    seed = study.seed
    given = {
        TRANSCODER: {name: d.to(opened.device) for name, d in dictionaries.items()},
        EXCHANGED: {
            name: exchanged(d, seed + i).to(opened.device)
            for i, (name, d) in enumerate(dictionaries.items())
        },
    }
    found: dict[str, list[Json]] = {kind: [] for kind in given}
    for number, tokens in enumerate(windows.tokens[:, :-1]):
        for kind, own in given.items():
            found[kind].append(
                _graph(opened.model.model, own, torch.from_numpy(tokens).to(opened.device))
            )
        tell((number + 1) / len(windows.tokens), "graphs")
    return [
        {"kind": GRAPH, "representation": kind, **_means(opened, rows, windows.documents)}
        for kind, rows in found.items()
    ]


@torch.no_grad()
def exchanged(dictionary: AnyDictionary, seed: int) -> AnyDictionary:
    """A copy whose latents fire as before, and write what others of them wrote."""
    copied = copy.deepcopy(dictionary)
    draw = torch.Generator().manual_seed(seed)
    for part in copied.parts:
        order = torch.randperm(part.num_latents, generator=draw).to(part.W_dec.device)
        part.W_dec.copy_(part.W_dec[order].clone())
    return copied


def _graph(model: nn.Module, dictionaries: dict[str, AnyDictionary], tokens: Tensor) -> Json:
    made = attribution_graph(model, dictionaries, tokens)
    graph = made.graph
    order = order_of(graph)
    scores = scores_of(graph, influence_of(graph, order).nodes)
    return {
        "replacement": scores.replacement,
        "completeness": scores.completeness,
        "active_latents": made.num_active,
        "missing": made.missing,
    }


def _means(opened: OpenedMember, rows: list[Json], documents: NDArray[np.int64]) -> Json:
    found: Json = {
        "prompts": len(rows),
        "documents": len(np.unique(documents)),
        "active_latents": float(np.mean([row["active_latents"] for row in rows])),
        "missing": float(max(row["missing"] for row in rows)),
    }
    for name in ("replacement", "completeness"):
        values = np.array([row[name] for row in rows], dtype=np.float64)
        found |= mean_over_documents(opened, name, values, documents)
    return found
