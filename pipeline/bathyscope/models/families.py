"""One table: where each model family keeps its blocks and what stands in them.

A family only adds aliases. A model of no family here works too: its hook points are module paths.
Flows in: a Hugging Face config. Flows out: the `Family` of its `model_type`, or none.

What an alias means is the same in every family:

- `resid_pre.L`, `resid_post.L`: the residual stream before and after block L. In post-norm blocks
  (BERT) the norm belongs to the stream, so `resid_post` is what the block returns.
- `resid_mid.L`: the stream between attention and MLP.
- `attn_out.L`: what attention adds to the stream: after a post-norm (Gemma 2) or a layer scale
  (DINOv2), before the norm of a post-norm block (BERT).
- `mlp_in.L`: what the MLP receives, after norm and gain. `mlp_out.L`: what it returns, before any
  post-norm or layer scale. In blocks of experts the MLP is the router with all experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

ALIAS_KINDS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_in", "mlp_out")
"""Aliases are `<kind>.<layer>`, layers counted from 0."""

_PARALLEL = (
    "its blocks run attention and MLP in parallel on the same input, so there is no residual "
    "stream between them. Use 'resid_pre.{layer}' or 'resid_post.{layer}'"
)
_MIXER = (
    "its blocks hold one mixer, and neither attention nor an MLP. Use 'resid_post.{layer}', or the "
    "path '{blocks}.{layer}.mixer' for what the mixer adds"
)


@dataclass(frozen=True)
class Family:
    """Module paths of one family; those of a block's parts are relative to the block."""

    blocks: str
    """Path of the list of blocks."""
    attention_out: str
    """Module whose output is added to the residual stream."""
    mlp: str
    """The MLP module."""
    mlp_norm: str
    """Module that reads the residual stream after attention: the norm before the MLP."""
    embedding: str
    """Token embedding."""
    final_norm: str | None
    """Norm after the last block."""
    unembedding: str | None = "lm_head"
    """Map to logits."""
    mlp_out: str | None = None
    """Module that gives what the MLP returns, where that is another one than `mlp`."""
    mlp_write: str | None = None
    """Module that gives what the MLP adds to the stream, where that is not what it returns."""
    attention_projection: str | None = "self_attn.o_proj"
    """Map whose input holds the heads side by side; None without attention."""
    parallel: bool = False
    """Whether attention and MLP always read the same input."""
    parallel_setting: str | None = None
    """Config field that is true where attention and MLP read the same input."""
    mixer: bool = False
    """Whether a block is one mixer, without attention and MLP."""
    gain_from_one: bool = False
    """Whether norms store their gain as its difference from 1."""
    auto_class: str = "AutoModelForCausalLM"
    """Class of transformers that builds the model."""
    reads_images: bool = False
    """Whether the model's input are images."""
    checkpoint_names: Mapping[str, str] = field(default_factory=dict)
    """Prefix of a parameter's name -> prefix that older checkpoints use instead."""

    def is_parallel(self, config: Any) -> bool:
        """Whether attention and MLP read the same input, so that nothing lies between them."""
        setting = self.parallel_setting
        return self.parallel or (setting is not None and bool(getattr(config, setting)))

    def why_not(self, kind: str, layer: int, config: Any) -> str | None:
        """Why the alias `<kind>.<layer>` does not exist here; None when it does."""
        if self.mixer and kind not in ("resid_pre", "resid_post"):
            return _MIXER.format(layer=layer, blocks=self.blocks)
        if kind == "resid_mid" and self.is_parallel(config):
            return _PARALLEL.format(layer=layer)
        return None

    def part(self, kind: str, layer: int) -> tuple[str, str]:
        """Module path and side (`in` or `out`) of the alias `<kind>.<layer>`."""
        block = f"{self.blocks}.{layer}"
        return {
            "resid_pre": (block, "in"),
            "resid_mid": (f"{block}.{self.mlp_norm}", "in"),
            "resid_post": (block, "out"),
            "attn_out": (f"{block}.{self.attention_out}", "out"),
            "mlp_in": (f"{block}.{self.mlp}", "in"),
            "mlp_out": (f"{block}.{self.mlp_out or self.mlp}", "out"),
        }[kind]


_LLAMA = Family(
    blocks="model.layers",
    attention_out="self_attn",
    mlp="mlp",
    mlp_norm="post_attention_layernorm",
    embedding="model.embed_tokens",
    final_norm="model.norm",
)

_GEMMA2 = replace(
    _LLAMA,
    attention_out="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    mlp_write="post_feedforward_layernorm",
    gain_from_one=True,
)

_GPT2 = Family(
    blocks="transformer.h",
    attention_out="attn",
    mlp="mlp",
    mlp_norm="ln_2",
    embedding="transformer.wte",
    final_norm="transformer.ln_f",
    attention_projection="attn.c_proj",
)

_GPT_NEOX = Family(
    blocks="gpt_neox.layers",
    attention_out="attention",
    mlp="mlp",
    mlp_norm="post_attention_layernorm",
    embedding="gpt_neox.embed_in",
    final_norm="gpt_neox.final_layer_norm",
    parallel_setting="use_parallel_residual",
    checkpoint_names={"lm_head.": "embed_out."},
    attention_projection="attention.dense",
)

_MAMBA = Family(
    blocks="backbone.layers",
    attention_out="mixer",
    mlp="mixer",
    mlp_norm="norm",
    embedding="backbone.embeddings",
    final_norm="backbone.norm_f",
    mixer=True,
    attention_projection=None,
)

_BERT = Family(
    blocks="bert.encoder.layer",
    attention_out="attention.output.dense",
    mlp="intermediate",
    mlp_norm="intermediate",
    mlp_out="output.dense",
    embedding="bert.embeddings.word_embeddings",
    final_norm=None,
    unembedding="cls",
    auto_class="AutoModelForMaskedLM",
    attention_projection="attention.output.dense",
)

_VIT = Family(
    blocks="vit.layers",
    attention_out="attention",
    mlp="mlp",
    mlp_norm="layernorm_after",
    embedding="vit.embeddings",
    final_norm="vit.layernorm",
    unembedding="classifier",
    auto_class="AutoModelForImageClassification",
    reads_images=True,
    attention_projection="attention.o_proj",
)

_DINOV2 = Family(
    blocks="encoder.layer",
    attention_out="layer_scale1",
    mlp="mlp",
    mlp_norm="norm2",
    embedding="embeddings",
    final_norm="layernorm",
    unembedding=None,
    auto_class="AutoModel",
    reads_images=True,
    attention_projection="attention.o_proj",
)

_CLIP_VISION = Family(
    blocks="encoder.layers",
    attention_out="self_attn",
    mlp="mlp",
    mlp_norm="layer_norm2",
    embedding="embeddings",
    final_norm="post_layernorm",
    unembedding=None,
    auto_class="AutoModel",
    reads_images=True,
    attention_projection="self_attn.out_proj",
)

FAMILIES: Mapping[str, Family] = {
    "bert": _BERT,
    "clip_vision_model": _CLIP_VISION,
    "dinov2": _DINOV2,
    "gemma": replace(_LLAMA, gain_from_one=True),
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA2,
    "gpt2": _GPT2,
    "gpt_neox": _GPT_NEOX,
    "gptj": replace(_GPT2, mlp_norm="ln_1", parallel=True, attention_projection="attn.out_proj"),
    "llama": _LLAMA,
    "mamba": _MAMBA,
    "mistral": _LLAMA,
    "mixtral": _LLAMA,
    "olmoe": _LLAMA,
    "phi": replace(
        _LLAMA,
        mlp_norm="input_layernorm",
        final_norm="model.final_layernorm",
        parallel=True,
        attention_projection="self_attn.dense",
    ),
    "phi3": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "qwen3_moe": _LLAMA,
    "vit": _VIT,
}
"""Hugging Face `model_type` -> family."""


def family_of(config: Any) -> Family | None:
    """The family of a config's `model_type`, or none where its paths are unknown."""
    return FAMILIES.get(getattr(config, "model_type", None) or "")
