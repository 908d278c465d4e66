"""What one model shows of superposition, at its final weights and at every checkpoint.

All weights of a model are read in turn: their directions, the activations that they give on the
same held-out items, and for text the loss there. Dictionaries are those of the final weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bathyscope.config import Config
from bathyscope.metrics.latents import LatentCounts
from bathyscope.models.hook_points import HookPoint, layer_numbers, resolve
from bathyscope.stages.model import load_whole
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.member_runs import Size, at_checkpoint, rows_are_tokens
from bathyscope.stages.studies.opened import OpenedMember
from bathyscope.stages.studies.study import Tell
from bathyscope.stages.studies.superposition.activations import held_out_images, observe
from bathyscope.stages.studies.superposition.weights import Matrix, figures_of, matrices_of
from bathyscope.values import TRAIN, Json

FINAL = "final"
_BLOCK = 4096


class State(NamedTuple):
    """Some weights of a member."""

    name: str
    tokens: int | None
    """Training tokens that they have seen."""
    config: Config


def measure_member(config: Config, member: Member, sizes: Sequence[Size], tell: Tell) -> list[Json]:
    """The rows of a member; `config` is that of its run, `sizes` are its dictionaries."""
    opened, found = OpenedMember(config), list[Json]()
    frequencies = token_counts(opened) if rows_are_tokens(config) else None
    states = list(states_of(config, member))
    for number, state in enumerate(states):
        tell(0.9 * number / len(states), f"weights {state.name}")
        found += _of_state(opened, state, frequencies)
    tell(0.9, "dictionaries")
    for row in _of_dictionaries(opened, sizes):
        found.append({"state": FINAL, "state_tokens": member.tokens, **row})
    return found


def states_of(config: Config, member: Member) -> Iterator[State]:
    """The final weights, then the checkpoints in order, but for one that is the final weights."""
    yield State(FINAL, member.tokens, config)
    for checkpoint in sorted(member.checkpoints, key=lambda c: c.tokens):
        if checkpoint.tokens != member.tokens or member.overfitted:
            own = at_checkpoint(config, member, checkpoint)
            # The hook point and the text are those of the final weights.
            yield State(checkpoint.name, checkpoint.tokens, own)


def token_counts(opened: OpenedMember) -> Tensor:
    """How often each token occurs in the training text of the study, float64 [largest id + 1]."""
    counts = torch.zeros(0, dtype=torch.float64)
    for batch in opened.batches(TRAIN, opened.config.study.train_tokens):
        size = max(len(counts), int(batch.tokens.max()) + 1)
        own = torch.bincount(batch.tokens.flatten(), minlength=size).double()
        own[: len(counts)] += counts
        counts = own
    return counts


def points_of(model: Any, hook: str) -> list[HookPoint]:
    """The hook point first, then the stream after every block, where these are known."""
    found = [resolve(model, hook)]
    names = [f"resid_post.{layer}" for layer in layer_numbers(model)]
    return found + [resolve(model, name) for name in names if name != hook]


def _of_state(opened: OpenedMember, state: State, frequencies: Tensor | None) -> Iterator[Json]:
    seed, hook = opened.config.study.seed, str(opened.config.hook)
    loaded = load_whole(state.config)
    points = points_of(loaded.model, hook)
    spaces, losses = observe(opened, loaded, points, seed)
    common: Json = {
        "state": state.name,
        "state_tokens": state.tokens,
        "loss": None if losses is None else losses.mean_ce(),
    }
    for matrix in matrices_of(loaded, points[0], frequencies, seed):
        yield {**common, **figures_of(matrix, seed)}
    yield {**common, "kind": "activations", **spaces.figures_at_hook(seed)}
    layers = layer_numbers(loaded.model)
    for layer in layers:
        figures = spaces.figures(f"resid_post.{layer}")
        share = (layer + 1) / len(layers)
        yield {**common, "kind": "depth", "layer": layer, "depth": share, **figures}


@torch.no_grad()
def _of_dictionaries(opened: OpenedMember, sizes: Sequence[Size]) -> Iterator[Json]:
    """Decoder rows of every dictionary, each alike and by how often its latent fires."""
    if not sizes:
        return
    seed = opened.config.study.seed
    rows = _held_out_rows(opened)
    for size in sizes:
        dictionary: Any = opened.run.dictionaries[size.name]
        counts = LatentCounts(size.num_latents)
        for block in rows.split(_BLOCK):
            latents = dictionary.encode(block)
            counts.update(latents.values, latents.indices)
        which = {
            "num_latents": size.num_latents,
            "k": size.k,
            "dictionary_seed": size.seed,
            "alive": int((counts.counts > 0).sum()),
        }
        W = dictionary.W_dec.detach()
        for kind, weights in (("dictionary", None), ("dictionary_frequency", counts.counts)):
            own = None if weights is None else weights.double().to(W.device)
            yield {**figures_of(Matrix(kind, W, own), seed), **which}


def _held_out_rows(opened: OpenedMember) -> Tensor:
    """Harvested rows [n, d], float32."""
    if rows_are_tokens(opened.config):
        return opened.held_out_rows(opened.config.study.splice_tokens)
    unit = held_out_images(opened, opened.rows.per_item or 1)
    return opened.rows.items(unit.start, unit.stop).flatten(0, -2).float()
