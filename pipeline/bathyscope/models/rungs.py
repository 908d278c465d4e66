"""Small decoders of several families with the same number of parameters: the rungs of a ladder.

A rung gives parameters, width, layers and heads; the width of the MLPs is what brings a family
nearest to the parameters, so that families are compared at equal size. Embeddings are tied with
the head and counted once, and GPT-2's table of positions is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import nn

from bathyscope.errors import ConfigError

_MULTIPLE = 8
"""MLP widths are multiples of this, which matrix units like."""
_NARROWEST, _WIDEST = 1, 8
"""MLP widths over the model's width that count as the usual shape of a decoder."""


@dataclass(frozen=True)
class Rung:
    """One size of a ladder."""

    parameters: int
    """Wanted, embeddings included."""
    width: int
    layers: int
    heads: int


class _Family(NamedTuple):
    config: Callable[[Rung, int, int, int], Any]
    """(rung, MLP width, vocabulary, context) -> Hugging Face config."""
    fixed: Callable[[Rung, int, int], int]
    """(rung, vocabulary, context) -> parameters beside those of the MLPs' width."""
    per_unit: Callable[[Rung], int]
    """Parameters that one more unit of the MLPs' width adds in all layers."""


def _gpt2(rung: Rung, mlp_width: int, vocabulary: int, context: int) -> Any:
    from transformers import GPT2Config

    return GPT2Config(
        vocab_size=vocabulary,
        n_positions=context,
        n_embd=rung.width,
        n_layer=rung.layers,
        n_head=rung.heads,
        n_inner=mlp_width,
        attn_pdrop=0.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        architectures=["GPT2LMHeadModel"],
    )


def _llama(rung: Rung, mlp_width: int, vocabulary: int, context: int) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=rung.width,
        intermediate_size=mlp_width,
        num_hidden_layers=rung.layers,
        num_attention_heads=rung.heads,
        num_key_value_heads=rung.heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        architectures=["LlamaForCausalLM"],
    )


FAMILIES: Mapping[str, _Family] = {
    # Embeddings and positions (V + P) d; a block has 4 d² + 4 d of attention, 4 d of norms and d of
    # the MLP's second bias, and its MLP of width f adds (2 d + 1) f; the last norm has 2 d.
    "gpt2": _Family(
        _gpt2,
        lambda r, v, p: (v + p) * r.width + r.layers * (4 * r.width**2 + 9 * r.width) + 2 * r.width,
        lambda r: r.layers * (2 * r.width + 1),
    ),
    # Embeddings V d; a block has 4 d² of attention and 2 d of norms, its gated MLP adds 3 d f; the
    # last norm has d.
    "llama": _Family(
        _llama,
        lambda r, v, p: v * r.width + r.layers * (4 * r.width**2 + 2 * r.width) + r.width,
        lambda r: r.layers * 3 * r.width,
    ),
}


def mlp_width(family: str, rung: Rung, *, vocabulary: int, context: int) -> int:
    """The width of the MLPs that brings the parameters nearest to those of the rung.

    Raises `ConfigError` for a family that is not known, a width that the heads cannot share, and
    for parameters that a usual MLP (as wide as the model, up to eight times) does not reach.
    """
    known = _family(family)
    head = rung.width // max(rung.heads, 1)
    if rung.heads < 1 or rung.width % rung.heads or (family == "llama" and head % 2):
        raise ConfigError(
            f"A rung of {rung.parameters:,} parameters has width {rung.width} and {rung.heads} "
            f"heads. The width must be a multiple of the heads, and of a head an even number in "
            f"llama, whose rotations take pairs."
        )
    fixed, unit = known.fixed(rung, vocabulary, context), known.per_unit(rung)
    width = round((rung.parameters - fixed) / (unit * _MULTIPLE)) * _MULTIPLE
    least, most = _NARROWEST * rung.width, _WIDEST * rung.width
    if not least <= width <= most:
        raise ConfigError(
            f"A {family} of width {rung.width} with {rung.layers} layers, a vocabulary of "
            f"{vocabulary:,} and a context of {context} can have {fixed + unit * least:,} to "
            f"{fixed + unit * most:,} parameters; a rung asks for {rung.parameters:,}. Change its "
            "parameters, width or layers."
        )
    return width


def num_parameters(family: str, rung: Rung, *, vocabulary: int, context: int) -> int:
    """Parameters of the model, embeddings included and counted once. Raises as `mlp_width`."""
    width = mlp_width(family, rung, vocabulary=vocabulary, context=context)
    known = _family(family)
    return known.fixed(rung, vocabulary, context) + known.per_unit(rung) * width


def num_embedding_parameters(family: str, rung: Rung, *, vocabulary: int, context: int) -> int:
    """Those of token embeddings and of GPT-2's positions."""
    return (vocabulary + (context if family == "gpt2" else 0)) * rung.width


def rung_config(family: str, rung: Rung, *, vocabulary: int, context: int) -> Any:
    """The Hugging Face config of a family's rung, without dropout. Raises as `mlp_width`."""
    width = mlp_width(family, rung, vocabulary=vocabulary, context=context)
    return _family(family).config(rung, width, vocabulary, context)


def new_decoder(config: Any, seed: int) -> nn.Module:
    """A model of a config with the initial weights of its family, drawn from `seed`; float32."""
    import transformers

    kind = getattr(transformers, config.architectures[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = kind(config)
    return model.float()


def model_files(model: Any) -> dict[str, bytes]:
    """config.json, model.safetensors and so on, as `save_pretrained` writes them, by name."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    # A bar for every checkpoint of a few hundred kilobytes would hide what is said of the training.
    logging.disable_progress_bar()
    try:
        with TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            return _contents(folder)
    finally:
        if shown:
            logging.enable_progress_bar()


def _contents(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def _family(name: str) -> _Family:
    if name not in FAMILIES:
        raise ConfigError(
            f"There is no family {name!r} of ladders. There are: {', '.join(FAMILIES)}."
        )
    return FAMILIES[name]
