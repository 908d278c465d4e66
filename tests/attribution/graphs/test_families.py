"""In every family of decoders: values stay, rows add up, paths weigh what is worked by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bathyscope.attribution.graphs.gradients import bias_names
from bathyscope.attribution.graphs.replacement import encoder_rows
from bathyscope.models.families import family_of
from decoders import DECODERS, LAYERS, WIDTH, decoder, random_model
from row_cases import TOKENS, graph_of, transcoders

FAMILIES = sorted(DECODERS)


@pytest.mark.parametrize("kind", ["transcoder", "skip_transcoder", "cross_layer_transcoder"])
@pytest.mark.parametrize("family", FAMILIES)
def test_incoming_attributions_and_biases_add_up(family: str, kind: str) -> None:
    model = decoder(family)
    with torch.no_grad():
        plain = model(input_ids=TOKENS[None]).logits[0]
    forward, replacement, nodes, found = graph_of(model, transcoders(kind))
    torch.testing.assert_close(forward.logits, plain, rtol=0, atol=1e-5)
    # Σ_s A[t, s] + Σ_b B[t, b] = w · x + β, of all that goes in.
    assert float(found.missing.max()) < 1e-5
    # That is the activation itself where a latent is active.
    torch.testing.assert_close(
        found.read[: len(nodes.latents)], nodes.latents.value, rtol=1e-5, atol=1e-5
    )
    logits = forward.final.detach()[0, -1] @ model.get_output_embeddings().weight.T  # type: ignore[union-attr]
    bias = getattr(model.get_output_embeddings(), "bias", None)
    logits = logits if bias is None else logits + bias
    wanted = logits[nodes.logits.token] - logits.mean()
    torch.testing.assert_close(found.read[len(nodes.latents) :], wanted, rtol=1e-4, atol=1e-4)
    assert found.biases.shape[1] == len(bias_names(forward, replacement))


@pytest.mark.parametrize("activation", ["batch_topk", "jumprelu", "relu", "gated"])
def test_every_activation_function(activation: str) -> None:
    dictionaries = transcoders("transcoder", activation=activation)
    for dictionary in dictionaries.values():
        if activation == "batch_topk":
            dictionary.parts[0].activation.threshold.fill_(0.3)  # type: ignore[operator,union-attr]
    _, _, nodes, found = graph_of(decoder("llama"), dictionaries)
    assert len(nodes.latents) > 0
    assert float(found.missing.max()) < 1e-5
    torch.testing.assert_close(
        found.read[: len(nodes.latents)], nodes.latents.value, rtol=1e-4, atol=1e-5
    )


def without_attention(family: str) -> nn.Module:
    """A random model whose attention adds nothing, so that positions do not meet."""
    model: nn.Module = random_model(DECODERS[family]())
    for path, module in model.named_modules():
        if path.endswith(("self_attn.o_proj", "attn.c_proj", "attention.dense", "self_attn.dense",
                          "attn.out_proj")):  # fmt: skip
            for parameter in module.parameters():
                parameter.zero_()
    return model


def norm_matrix(norm: nn.Module | None, x: Tensor, gain_from_one: bool) -> Tensor:
    """The frozen Jacobian of a norm at x [d], in float64: diag(gain) (I - mean) / scale."""
    if norm is None:
        return torch.eye(WIDTH, dtype=torch.float64)
    x, gain = x.double(), norm.weight.detach().double()  # type: ignore[operator]
    centre = torch.eye(WIDTH, dtype=torch.float64)
    if type(norm).__name__ == "LayerNorm":
        centre = centre - 1 / WIDTH
    eps = getattr(norm, "eps", None) or norm.variance_epsilon
    scale = ((centre @ x).pow(2).mean() + eps).sqrt()  # type: ignore[operator]
    return torch.diag(gain + 1 if gain_from_one else gain) @ centre / scale


@pytest.mark.parametrize("family", FAMILIES)
def test_a_straight_path_has_the_weight_worked_by_hand(family: str) -> None:
    """a_s · W_dec[s] · (post-norm) · (frozen norm of the later MLP) · W_enc[t], nothing else."""
    model = without_attention(family)
    _, _, nodes, found = graph_of(model, transcoders("transcoder"))
    table = family_of(model.config)
    assert table is not None
    seen: dict[str, Tensor] = {}
    handles = []
    for layer in range(LAYERS):
        block = f"{table.blocks}.{layer}"
        for name in (f"{block}.{table.mlp_norm}", f"{block}.post_feedforward_layernorm"):
            if name in dict(model.named_modules()):
                handles.append(
                    model.get_submodule(name).register_forward_pre_hook(
                        lambda _, args, name=name: seen.__setitem__(name, args[0][0])
                    )
                )
    with torch.no_grad():
        model(input_ids=TOKENS[None])
    for handle in handles:
        handle.remove()
    modules, latents, checked = dict(model.named_modules()), nodes.latents, 0
    for t in range(len(latents)):
        part, p = int(latents.part[t]), int(latents.position[t])
        w = encoder_rows(nodes.parts[part], latents.latent[t : t + 1])[0][0].double()
        path = f"{table.blocks}.{part}.{table.mlp_norm}"
        before = norm_matrix(modules[path], seen[path][p], table.gain_from_one)
        for s in range(len(latents)):
            source = nodes.parts[int(latents.part[s])]
            wanted = 0.0
            if latents.part[s] < part and latents.position[s] == p:
                d = source.coder.W_dec[latents.latent[s]].double() * latents.value[s].double()
                after = f"{table.blocks}.{int(latents.part[s])}.post_feedforward_layernorm"
                norm = modules.get(after)
                at = seen[after][p] if norm is not None else d
                d = norm_matrix(norm, at, table.gain_from_one) @ d
                wanted = float(w @ before @ d)
                checked += 1
            assert float(found.values[t, s]) == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    assert checked > 100


@pytest.mark.parametrize("family", ["gptj", "phi", "gpt_neox"])
def test_parallel_blocks_have_no_path_from_attention_to_their_own_mlp(family: str) -> None:
    _, _, nodes, found = graph_of(decoder(family), transcoders("transcoder"))
    latents = nodes.latents
    first = (latents.part == 0).nonzero().squeeze(1)
    tokens = found.values[first, -len(TOKENS) :]
    own = torch.zeros_like(tokens, dtype=torch.bool)
    own[torch.arange(len(first)), latents.position[first]] = True
    assert (tokens[~own] == 0).all()
    assert (tokens[own] != 0).any()


def test_serial_blocks_have_that_path() -> None:
    _, _, nodes, found = graph_of(decoder("gpt_neox serial"), transcoders("transcoder"))
    first = (nodes.latents.part == 0) & (nodes.latents.position == len(TOKENS) - 1)
    assert (found.values[: len(nodes.latents)][first][:, -len(TOKENS)] != 0).all()


def test_causal_no_source_lies_after_its_target() -> None:
    _, _, nodes, found = graph_of(decoder("gpt2"), transcoders("skip_transcoder"))
    latents = nodes.latents
    later = latents.position[None] > latents.position[:, None]
    later |= latents.part[None] >= latents.part[:, None]
    assert (found.values[: len(latents), : len(latents)][later] == 0).all()


def test_excluded_positions_pass_through() -> None:
    """What MLPs write there is neither latent nor error, and still adds up."""
    keep = torch.tensor([False, True, False, True, True, False, True])
    forward, replacement, nodes, found = graph_of(decoder("llama"), transcoders("transcoder"), keep)
    assert not (set(nodes.latents.position.tolist()) & {0, 2, 5})
    assert all((error[~keep] == 0).all() for error in nodes.errors)
    assert float(found.missing.max()) < 1e-5
    names = bias_names(forward, replacement)
    column = names.index("mlp_out.0 at excluded positions")
    assert (found.biases[-1, column] != 0).item()


def _weights(model: Any) -> dict[str, Tensor]:
    return {name: parameter.double() for name, parameter in model.named_parameters()}


def test_a_path_through_attention_worked_by_hand() -> None:
    """Llama with queries of zero: every position attends alike to all before it."""
    model = random_model(DECODERS["llama"]())
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.zero_()
    _, _, nodes, found = graph_of(model, transcoders("transcoder"))
    seen: dict[str, Tensor] = {}
    names = ("input_layernorm", "post_attention_layernorm")
    handles = [
        getattr(model.model.layers[1], name).register_forward_pre_hook(
            lambda _, args, name=name: seen.__setitem__(name, args[0][0])
        )
        for name in names
    ]
    with torch.no_grad():
        model(input_ids=TOKENS[None])
    for handle in handles:
        handle.remove()
    w, latents, block = _weights(model), nodes.latents, "model.layers.1"
    d_head, groups = WIDTH // 4, 2
    W_V = w[f"{block}.self_attn.v_proj.weight"].view(2, d_head, WIDTH)
    W_O = w[f"{block}.self_attn.o_proj.weight"].view(WIDTH, 4, d_head)
    OV = sum(W_O[:, head] @ W_V[head // groups] for head in range(4))
    norms = [getattr(model.model.layers[1], name) for name in names]
    checked = 0
    for t in (latents.part == 1).nonzero().squeeze(1).tolist():
        p = int(latents.position[t])
        enc = encoder_rows(nodes.parts[1], latents.latent[t : t + 1])[0][0].double()
        after = norm_matrix(norms[1], seen[names[1]][p], False)
        for s in (latents.part == 0).nonzero().squeeze(1).tolist():
            q = int(latents.position[s])
            d = nodes.parts[0].coder.W_dec[latents.latent[s]].double() * latents.value[s].double()
            wanted = 0.0
            if q <= p:
                through = OV @ norm_matrix(norms[0], seen[names[0]][q], False) @ d / (p + 1)
                wanted = float(enc @ after @ (through + (d if p == q else 0)))
                checked += 1
            assert float(found.values[t, s]) == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    assert checked > 100
