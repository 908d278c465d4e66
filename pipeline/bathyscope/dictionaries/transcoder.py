"""Transcoders (Dunefsky, Chlenski and Nanda 2024, "Transcoders Find Interpretable LLM Feature
Circuits", arXiv:2406.11944), and with a skip connection (Paulo, Shabalin and Belrose 2025,
"Transcoders Beat Sparse Autoencoders for Interpretability", arXiv:2501.18823).

    z = f(W_enc x + b_enc),     ŷ = W_decᵀ z + b_dec (+ W_skip x)

x is what a module receives, y what it returns: latents stand for what it computes.
"""

from __future__ import annotations

from bathyscope.dictionaries.dictionary import Dictionary


class Transcoder(Dictionary):
    """Reads one hook point and writes another. Nothing is subtracted from what it reads."""

    kind = "transcoder"
    subtracts_by_default = False


class SkipTranscoder(Transcoder):
    """With a linear map past the latents, W_skip [d_out, d_in], which starts at zero."""

    kind = "skip_transcoder"
    has_skip = True
