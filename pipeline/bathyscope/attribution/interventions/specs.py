"""Interventions in the words of a command line or a JSON file.

    {latent: 412, steer: 8}                       add 8 decoder rows of latent 412
    {latent: [412, 77], dictionary: main, clamp: 0, positions: generated}
    {layer: 5, head: [1, 3], ablate: zero}        also mean and resample
    {hook: mlp_out.4, scale: 0.5, positions: [3, -1]}
    {hook: resid_post.5, steer: 2, along: 412}    along the decoder row of latent 412

A target, one change, and where it is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from torch import Tensor

from bathyscope.attribution.interventions.changes import (
    Change,
    Clamp,
    Mean,
    Resample,
    Scale,
    Steer,
    Zero,
)
from bathyscope.attribution.interventions.intervention import (
    AtHookPoint,
    AttentionHeads,
    Intervention,
    Latents,
    Positions,
    Target,
)
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.errors import ConfigError, MissingArtifact

CHANGES = ("ablate", "clamp", "scale", "steer")
ABLATIONS = ("zero", "mean", "resample")
KEYS = ("latent", "dictionary", "layer", "head", "hook", *CHANGES, "along", "seed", "positions")

Dictionaries = Mapping[str, AnyDictionary]


def intervention_of(
    words: Mapping[str, Any], dictionaries: Dictionaries, *, name: str = "main"
) -> Intervention:
    """The intervention that words describe. `name` is the dictionary where they give none.

    Raises `ConfigError` for words that are unknown, missing or of the wrong kind, and
    `MissingArtifact` for a dictionary that is not there, both with near matches.
    """
    unknown = [key for key in words if key not in KEYS]
    if unknown:
        near = get_close_matches(str(unknown[0]), KEYS, n=2)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(
            f"An intervention has {unknown[0]!r}.{hint} It may have: {', '.join(KEYS)}."
        )
    name = str(words.get("dictionary", name))
    target = _target(words, dictionaries, name)
    change = _change(words, target, dictionaries, name)
    return Intervention(target, change, _positions(words.get("positions", "all")))


def dictionary_named(dictionaries: Dictionaries, name: str) -> AnyDictionary:
    """The dictionary of that name. Raises `MissingArtifact`, with near matches."""
    if name in dictionaries:
        return dictionaries[name]
    if not len(dictionaries):
        raise MissingArtifact(
            f"The run has no dictionary, and {name!r} was asked for. Train one first: "
            "`bathyscope train`, or `bathyscope run` for all stages."
        )
    near = get_close_matches(name, list(dictionaries), n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise MissingArtifact(
        f"The run has no dictionary {name!r}.{hint} It has: {', '.join(dictionaries)}."
    )


def _target(words: Mapping[str, Any], dictionaries: Dictionaries, name: str) -> Target:
    given = [key for key in ("latent", "head", "hook") if words.get(key) is not None]
    if len(given) != 1:
        raise ConfigError(
            f"An intervention has {' and '.join(given) or 'no target'}: {_shown(words)}. Wanted "
            "one of latent, head (with its layer) and hook."
        )
    if given == ["hook"]:
        return AtHookPoint(str(words["hook"]))
    if given == ["latent"]:
        numbers = _numbers("latent", words["latent"])
        return Latents(dictionary_named(dictionaries, name), numbers, name)
    if words.get("layer") is None:
        raise ConfigError(f"A head is told by its layer too: {_shown(words)}. Add layer.")
    (layer,) = _numbers("layer", words["layer"])
    return AttentionHeads(layer, _numbers("head", words["head"]))


def _change(
    words: Mapping[str, Any], target: Target, dictionaries: Dictionaries, name: str
) -> Change:
    given = [key for key in CHANGES if words.get(key) is not None]
    if len(given) != 1:
        raise ConfigError(
            f"An intervention has {' and '.join(given) or 'no change'}: {_shown(words)}. Wanted "
            f"one of {', '.join(CHANGES)}."
        )
    (kind,) = given
    if kind == "ablate":
        return _ablation(words)
    value = _number(kind, words[kind])
    if kind != "steer":
        return Clamp(value) if kind == "clamp" else Scale(value)
    along = words.get("along")
    if along is None or isinstance(along, Tensor):
        return Steer(value, along)
    if not isinstance(target, AtHookPoint):
        raise ConfigError(
            f"{target.described} cannot be steered along a latent: {_shown(words)}. Give hook."
        )
    return Steer(value, _row(_numbers("along", along), dictionary_named(dictionaries, name), name))


def _row(numbers: Sequence[int], dictionary: AnyDictionary, name: str) -> Tensor:
    """The decoder row of a latent of a dictionary that writes to one hook point."""
    if len(numbers) != 1 or len(dictionary.outputs) != 1:
        raise ConfigError(
            f"A direction is the decoder row of one latent of a dictionary that writes to one hook "
            f"point; got latent {', '.join(map(str, numbers))} of {name!r}, which writes to "
            f"{', '.join(block.hook_point for block in dictionary.outputs)}."
        )
    Latents(dictionary, tuple(numbers), name)
    return dictionary.parts[0].W_dec[numbers[0]].detach()


def _ablation(words: Mapping[str, Any]) -> Change:
    kind = str(words["ablate"])
    if kind not in ABLATIONS:
        raise ConfigError(f"ablate is {kind!r}. One of {', '.join(ABLATIONS)} is wanted.")
    if kind == "zero":
        return Zero()
    if kind == "mean":
        return Mean()
    return Resample(seed=int(_number("seed", words.get("seed", 0))))


def _positions(given: Any) -> Positions:
    if isinstance(given, str):
        return given  # type: ignore[return-value]  # refused by Intervention where it is unknown
    return _numbers("positions", given)


def _numbers(key: str, given: Any) -> tuple[int, ...]:
    listed = [given] if isinstance(given, int) else given
    fits = isinstance(listed, Sequence) and not isinstance(listed, str)
    if not fits or not all(isinstance(i, int) and not isinstance(i, bool) for i in listed):
        raise ConfigError(f"{key} is {given!r}. A number is wanted, or a list of them.")
    return tuple(listed)


def _number(key: str, given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise ConfigError(f"{key} is {given!r}. A number is wanted.")
    return float(given)


def _shown(words: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in words.items()) + "}"
