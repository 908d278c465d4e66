"""sparsify folders: `cfg.json` and `sae.safetensors`, one per hook point (eai-sparsify 1.3).

`encoder.weight` and `W_dec` have latents as rows already. b_dec is subtracted from what is read,
unless `transcode` is set. `W_skip` is used as x W_skipᵀ, as here.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from bathyscope.dictionaries.dictionary import Dictionary, filled
from bathyscope.dictionaries.kinds import make_dictionary
from bathyscope.dictionaries.layout import columns_of
from bathyscope.errors import ModelError
from bathyscope.values import Json

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
_NAMES = {"encoder.weight": "W_enc", "encoder.bias": "b_enc"}


def read(config: Json, tensors: Mapping[str, Tensor], hook_point: str = "") -> Dictionary:
    """The dictionary of such a folder, which gives what sparsify gives.

    Raises `ModelError` for another activation than topk, and for tensors that do not fit.
    """
    if config.get("activation", "topk") != "topk":
        raise ModelError(
            f"{CONFIG} says activation {config['activation']!r}. Read is topk: groupmax has no "
            "counterpart here."
        )
    if "W_dec" not in tensors or "encoder.weight" not in tensors:
        raise ModelError(
            f"{WEIGHTS} has {', '.join(sorted(tensors))}. Wanted encoder.weight, encoder.bias, "
            "W_dec and b_dec."
        )
    latents, d = tensors["encoder.weight"].shape
    transcodes, skips = bool(config.get("transcode")), "W_skip" in tensors
    inputs = columns_of([(hook_point, d)])
    outputs = columns_of([(f"{hook_point} out", d)]) if transcodes else inputs
    kind = ("skip_transcoder" if skips else "transcoder") if transcodes else "autoencoder"
    made = make_dictionary(
        kind,
        inputs,
        outputs,
        activation="topk",
        k=int(config["k"]),
        num_latents=latents,
        dtype=tensors["W_dec"].dtype,
    )
    assert isinstance(made, Dictionary)
    return filled(made, {_NAMES.get(name, name): t for name, t in tensors.items()})


def write(dictionary: Dictionary) -> tuple[Json, dict[str, Tensor]]:
    """`cfg.json` and tensors of such a folder.

    Raises `ModelError` for what sparsify does not have.
    """
    transcodes = dictionary.kind in ("transcoder", "skip_transcoder")
    if dictionary.activation.name != "topk" or dictionary.kind == "crosscoder":
        raise ModelError(
            f"sparsify has no {dictionary.activation.name} {dictionary.kind}: it has TopK "
            "autoencoders and transcoders."
        )
    if dictionary.d_in != dictionary.d_out or dictionary.subtracts_b_dec == transcodes:
        raise ModelError(
            f"sparsify reads and writes one width, and subtracts b_dec of autoencoders only; this "
            f"{dictionary.kind} reads {dictionary.d_in} and writes {dictionary.d_out}."
        )
    config: Json = {
        "activation": "topk",
        "expansion_factor": max(dictionary.num_latents // dictionary.d_in, 1),
        "normalize_decoder": True,
        "num_latents": dictionary.num_latents,
        "k": dictionary.k,
        "multi_topk": False,
        "skip_connection": dictionary.W_skip is not None,
        "transcode": transcodes,
        "d_in": dictionary.d_in,
    }
    names = {ours: theirs for theirs, ours in _NAMES.items()}
    tensors = {
        names.get(name, name): tensor.detach().contiguous()
        for name, tensor in dictionary.state_dict().items()
    }
    return config, tensors
