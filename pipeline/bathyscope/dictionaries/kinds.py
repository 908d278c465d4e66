"""Every kind of dictionary and every activation function by name, and how one is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from bathyscope.dictionaries.activation_function import ActivationFunction
from bathyscope.dictionaries.batch_topk import BatchTopK
from bathyscope.dictionaries.cross_layer import CrossLayerTranscoder, check_layers
from bathyscope.dictionaries.crosscoder import Crosscoder
from bathyscope.dictionaries.dictionary import Dictionary
from bathyscope.dictionaries.gated import Gated
from bathyscope.dictionaries.jumprelu import JumpReLU
from bathyscope.dictionaries.layout import Columns
from bathyscope.dictionaries.relu import ReLU
from bathyscope.dictionaries.topk import TopK
from bathyscope.dictionaries.transcoder import SkipTranscoder, Transcoder
from bathyscope.errors import ConfigError

AnyDictionary = Dictionary | CrossLayerTranscoder

ACTIVATIONS: Mapping[str, type[ActivationFunction]] = {
    function.name: function for function in (TopK, BatchTopK, JumpReLU, ReLU, Gated)
}
_SINGLE: Mapping[str, type[Dictionary]] = {
    kind.kind: kind for kind in (Dictionary, Transcoder, SkipTranscoder, Crosscoder)
}
KINDS = (*_SINGLE, CrossLayerTranscoder.kind)

_OPTIONS = {"batch_topk": ("group_rows",), "jumprelu": ("bandwidth",)}


def make_activation(
    name: str,
    *,
    k: int | None,
    num_latents: int,
    dtype: torch.dtype = torch.float32,
    options: Mapping[str, Any] | None = None,
) -> ActivationFunction:
    """The activation function of that name; it takes what it knows of `options`.

    `k` may be None, not known, where the function encodes without it.
    Raises `ConfigError` for an unknown name and for numbers that cannot be.
    """
    if name not in ACTIVATIONS:
        raise ConfigError(
            f"dictionary.activation is {name!r}. Choose one of {', '.join(ACTIVATIONS)}."
        )
    known = {key: options[key] for key in _OPTIONS.get(name, ()) if options and key in options}
    return ACTIVATIONS[name](k, num_latents, dtype, **known)


def make_dictionary(
    kind: str,
    inputs: Columns,
    outputs: Columns,
    *,
    activation: str,
    k: int | None,
    num_latents: int,
    dtype: torch.dtype = torch.float32,
    options: Mapping[str, Any] | None = None,
    prefixes: tuple[int, ...] = (),
    subtracts_b_dec: bool | None = None,
) -> AnyDictionary:
    """A dictionary of that kind with its matrices not yet set.

    `k` and `num_latents` are those of a cross-layer transcoder's layer, else of the whole; `k` may
    be None as in `make_activation`. Raises `ConfigError` for hook points, sizes or combinations
    that this kind cannot have.
    """
    check_columns(kind, inputs, outputs)

    def function() -> ActivationFunction:
        return make_activation(
            activation, k=k, num_latents=num_latents, dtype=dtype, options=options
        )

    if kind == CrossLayerTranscoder.kind:
        if prefixes:
            raise ConfigError(f"A {kind} has no prefixes: its latents belong to layers.")
        return CrossLayerTranscoder(inputs, outputs, [function() for _ in inputs], dtype=dtype)
    return _SINGLE[kind](
        inputs,
        outputs,
        function(),
        dtype=dtype,
        subtracts_b_dec=subtracts_b_dec,
        prefixes=prefixes,
    )


def check_columns(kind: str, inputs: Columns, outputs: Columns) -> None:
    """Raise `ConfigError` for an unknown kind, or hook points that it cannot have."""
    if kind not in KINDS:
        raise ConfigError(f"dictionary.kind is {kind!r}. Choose one of {', '.join(KINDS)}.")
    if kind == CrossLayerTranscoder.kind:
        check_layers(inputs, outputs)
        return
    count = f"{len(inputs)} hook point(s) to read and {len(outputs)} to write"
    if kind in ("transcoder", "skip_transcoder"):
        if len(inputs) != 1 or len(outputs) != 1 or inputs == outputs:
            raise ConfigError(f"A {kind} got {count}; wanted one to read and another to write.")
        return
    if inputs != outputs:
        raise ConfigError(f"A {kind} writes what it reads, and got other hook points to write.")
    if (kind == "crosscoder") != (len(inputs) > 1):
        raise ConfigError(
            f"A dictionary of kind {kind} got {count}; an autoencoder has one, a crosscoder "
            "several."
        )
