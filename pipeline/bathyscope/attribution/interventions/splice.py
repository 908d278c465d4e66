"""Interventions put into a model: hooks at module paths, no model rewritten.

Flows in: a model and interventions. Inside the `with` block every forward runs with them. They are
made in the order in which they are given, each seeing what an earlier one left at its hook point;
those on latents of one dictionary are made together, where the first of them stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from torch import Tensor, nn

from bathyscope.attribution.interventions.checks import check_interventions
from bathyscope.attribution.interventions.intervention import (
    AtHookPoint,
    AttentionHeads,
    Intervention,
    Latents,
)
from bathyscope.attribution.interventions.latents import LatentChanges
from bathyscope.attribution.interventions.place import Place, placed
from bathyscope.attribution.interventions.vectors import VectorChange
from bathyscope.models.capture import observed
from bathyscope.models.heads import heads_of
from bathyscope.models.hook_points import resolve
from bathyscope.models.splice import spliced


@contextmanager
def intervened(
    model: nn.Module,
    interventions: Sequence[Intervention],
    *,
    prompt_length: int | None = None,
    keep: Tensor | None = None,
) -> Iterator[nn.Module]:
    """Every forward of the model in the block runs with the interventions.

    `prompt_length` is where generated tokens begin, `keep` bool [items, positions] the rows that
    may change; see `Place`. Gradients flow. Raises what `check_interventions` raises.
    """
    check_interventions(model, interventions)
    place = Place(prompt_length, keep)
    with ExitStack() as stack:
        stack.enter_context(placed(model, place))
        reading: list[tuple[LatentChanges, int, str]] = []
        for group in _grouped(interventions):
            if isinstance(group[0].target, Latents):
                reading += _put_latents(stack, model, LatentChanges(group, place))
            else:
                _put_vectors(stack, model, group[0], place)
        # After all changes, so that a transcoder reads what its module receives.
        for changes, number, name in reading:
            stack.enter_context(
                observed(model, resolve(model, name), partial(changes.read, number))
            )
        yield model


def _grouped(interventions: Sequence[Intervention]) -> list[list[Intervention]]:
    """Interventions on latents of one dictionary together, all others by themselves."""
    groups: dict[int, list[Intervention]] = {}
    for number, each in enumerate(interventions):
        target = each.target
        key = id(target.dictionary) if isinstance(target, Latents) else -1 - number
        groups.setdefault(key, []).append(each)
    return list(groups.values())


def _put_latents(
    stack: ExitStack, model: nn.Module, changes: LatentChanges
) -> list[tuple[LatentChanges, int, str]]:
    """Register what a dictionary writes, and return what it has still to read."""
    both = {name: number for number, name in changes.reads.items() if name in changes.writes}
    for name in changes.writes:
        if name in both:
            stack.enter_context(spliced(model, name, partial(_in_place, changes, both[name], name)))
        else:
            stack.enter_context(spliced(model, name, partial(changes.write, name)))
    return [(changes, n, name) for n, name in changes.reads.items() if name not in both]


def _in_place(changes: LatentChanges, number: int, name: str, x: Tensor) -> Tensor:
    """The step of a dictionary that writes what it reads."""
    changes.read(number, x)
    return changes.write(name, x)


def _put_vectors(
    stack: ExitStack, model: nn.Module, intervention: Intervention, place: Place
) -> None:
    target = intervention.target
    if isinstance(target, AttentionHeads):
        heads = heads_of(model, target.layer)
        change = VectorChange(intervention, heads.hook_point.name, place, heads.count)
        stack.enter_context(spliced(model, heads.hook_point, change))
        return
    assert isinstance(target, AtHookPoint)
    change = VectorChange(intervention, target.hook_point, place)
    stack.enter_context(spliced(model, target.hook_point, change))
