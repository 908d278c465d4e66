#!/usr/bin/env python
"""One attribution graph made by circuit-tracer 0.5.0 and by us: every entry of the adjacency.

    CT/bin/python tests/benchmarks/graph_peer.py theirs MODEL RUN FILE [--text TEXT]
    .venv/bin/python tests/benchmarks/graph_peer.py ours MODEL RUN FILE [--text TEXT]

MODEL is the folder of a Llama-like model, RUN a run of ours with a TopK transcoder for each of its
layers, named by `--names` (`tc-layer{}`). CT is an environment with `circuit-tracer==0.5.0`, torch
and safetensors, without this package: it runs the model in TransformerLens, whose forward is
another one than that of transformers, and writes FILE. The second command makes our graph of the
same tokens and compares latents, every entry, probabilities and scores.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

TEXT = "The class statement is used to define a new"


def arguments() -> argparse.Namespace:
    """What is compared."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("side", choices=["theirs", "ours"])
    parser.add_argument("model", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--text", default=TEXT)
    parser.add_argument("--names", default="tc-layer{}")
    return parser.parse_args()


def tokens_of(given: argparse.Namespace) -> list[int]:
    """The token that parts documents, then the text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(given.model / "tokenizer.json"))
    first = tokenizer.token_to_id("<|endoftext|>")
    return [first, *tokenizer.encode(given.text, add_special_tokens=False).ids]


def settings_of(folder: Path) -> dict[str, Any]:
    """The dictionary's config.json."""
    settings: dict[str, Any] = json.loads(next(folder.glob("config*.json")).read_text())
    return settings


def theirs(given: argparse.Namespace) -> None:
    """circuit-tracer's graph, into a file."""
    from circuit_tracer import attribute
    from circuit_tracer.graph import compute_graph_scores
    from circuit_tracer.replacement_model.replacement_model_transformerlens import (
        TransformerLensReplacementModel,
    )
    from circuit_tracer.transcoder.activation_functions import TopK
    from circuit_tracer.transcoder.single_layer_transcoder import (
        SingleLayerTranscoder,
        TranscoderSet,
    )
    from safetensors.torch import load_file
    from transformer_lens import HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_llama_weights
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    # Older versions of transformers do not read `rope_parameters`.
    written = json.loads((given.model / "config.json").read_text())
    theta = written.get("rope_parameters", written).get("rope_theta", 10000.0)
    hf = LlamaForCausalLM.from_pretrained(
        given.model, torch_dtype=torch.float32, rope_theta=theta
    ).eval()
    c = hf.config
    heads, width = c.num_attention_heads, c.hidden_size // c.num_attention_heads
    grouped = c.num_key_value_heads if c.num_key_value_heads != heads else None
    cfg = HookedTransformerConfig(
        n_layers=c.num_hidden_layers, d_model=c.hidden_size, n_heads=heads, d_head=width,
        n_key_value_heads=grouped, n_ctx=min(c.max_position_embeddings, 1024),
        d_vocab=c.vocab_size, d_mlp=c.intermediate_size, act_fn="silu", gated_mlp=True,
        normalization_type="RMS", positional_embedding_type="rotary", rotary_dim=width,
        rotary_adjacent_pairs=False, rotary_base=theta, eps=c.rms_norm_eps, final_rms=True,
        original_architecture="LlamaForCausalLM", device="cpu",
    )  # fmt: skip
    model = TransformerLensReplacementModel(cfg)
    model.load_and_process_state_dict(
        convert_llama_weights(hf, cfg), fold_ln=False, center_writing_weights=False,
        center_unembed=False, fold_value_biases=False,
    )  # fmt: skip
    # Theirs keeps the k largest also where they are negative; ours are cut at zero.
    coders = {}
    for layer in range(cfg.n_layers):
        folder = given.run / "dictionaries" / given.names.format(layer)
        weights = load_file(next(folder.glob("model*.safetensors")))
        k = settings_of(folder)["k"]
        coder = SingleLayerTranscoder(
            cfg.d_model, len(weights["b_enc"]), torch.nn.Sequential(TopK(k), torch.nn.ReLU()),
            layer, dtype=torch.float32, device=torch.device("cpu"),
        )  # fmt: skip
        with torch.no_grad():
            for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
                getattr(coder, name).copy_(weights[name])
        coders[layer] = coder
    model._configure_replacement_model(TranscoderSet(coders, "mlp.hook_in", "mlp.hook_out", "x"))
    # It asks the tokenizer for special tokens and for what to call tokens.
    model.tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(given.model / "tokenizer.json"), bos_token="<|endoftext|>"
    )
    tokens = torch.tensor(tokens_of(given))
    with torch.no_grad():
        apart = float((model(tokens[None]) - hf(tokens[None]).logits).abs().max())
    started = time.perf_counter()
    graph = attribute(tokens, model, batch_size=64)
    seconds = time.perf_counter() - started
    print(f"circuit-tracer: {len(graph.active_features):,} latents in {seconds:.1f} s; logits of ")
    print(f"TransformerLens and transformers differ by {apart:.1e}")
    np.savez(
        given.file,
        adjacency=graph.adjacency_matrix.numpy(),
        features=graph.active_features[graph.selected_features].numpy(),
        probabilities=graph.logit_probabilities.numpy(),
        scores=np.array(compute_graph_scores(graph)),
        seconds=seconds,
    )


def ours(given: argparse.Namespace) -> None:
    """Our graph of the same, and how the two agree."""
    from transformers import LlamaForCausalLM

    import bathyscope
    from bathyscope.attribution.graphs.build import GraphSettings, attribution_graph
    from bathyscope.attribution.graphs.influence import influence_of
    from bathyscope.attribution.graphs.order import order_of
    from bathyscope.attribution.graphs.scores import scores_of
    from bench import conclude

    torch.set_num_threads(1)
    peer = np.load(given.file)
    model = LlamaForCausalLM.from_pretrained(given.model, dtype=torch.float32)
    model = model.eval().requires_grad_(False)
    run = bathyscope.open(str(given.run))
    names = [given.names.format(layer) for layer in range(model.config.num_hidden_layers)]
    started = time.perf_counter()
    found = attribution_graph(
        model,
        {name: run.dictionaries[name] for name in names},
        torch.tensor(tokens_of(given)),
        settings=GraphSettings(most_latents=10**6),
    )
    seconds = time.perf_counter() - started
    graph, latents = found.graph, found.nodes.latents
    place = {tuple(f): i for i, f in enumerate(peer["features"].tolist())}
    mine = list(
        zip(latents.part.tolist(), latents.position.tolist(), latents.latent.tolist(), strict=True)
    )
    same = set(mine) == set(place)
    figures: dict[str, Any] = {"latents": len(mine), "same_latents": same}
    if same:
        order = np.array([*(place[f] for f in mine), *range(len(mine), len(peer["adjacency"]))])
        theirs_ordered = peer["adjacency"][np.ix_(order, order)]
        dense = np.zeros_like(theirs_ordered)
        for t in range(graph.num_nodes):
            row = slice(graph.indptr[t], graph.indptr[t + 1])
            dense[t, graph.indices[row]] = graph.values[row]
        figures["largest_entry"] = float(np.abs(theirs_ordered).max())
        figures["largest_difference"] = float(np.abs(dense - theirs_ordered).max())
    scores = scores_of(graph, influence_of(graph, order_of(graph)).nodes)
    figures |= {
        "scores": [scores.replacement, scores.completeness],
        "scores_apart": [abs(a - b) for a, b in zip(scores, peer["scores"].tolist(), strict=True)],
        "ours_s": round(seconds, 2),
        "theirs_s": round(float(peer["seconds"]), 2),
    }
    conclude(figures)


if __name__ == "__main__":
    chosen = arguments()
    (theirs if chosen.side == "theirs" else ours)(chosen)
