"""Attribution graphs of prompts, and effects of nodes on pairs of prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bathyscope.config.option import not_negative, option, positive


@dataclass
class AttributeConfig:
    """What `bathyscope attribute` makes of prompts, or of pairs."""

    name: str = option("main", "folder in graphs/ of the run, of pairs in attributions/")
    prompts: Any = option(
        [], "a text, a list of texts, or a .jsonl file with a text, an id and logits per line"
    )
    text_key: str = option("text", "key of the text in that file")
    dictionaries: list[str] = option(
        [], "transcoders by name, or by a pattern such as tc-layer*; none takes all of the run"
    )
    pairs: str | None = option(
        None,
        "a .jsonl file of pairs: clean, corrupted, answer and wrong, an id; instead of prompts",
    )
    method: str = option("atp_star", "of pairs: exact, atp, atp_star or ig (integrated gradients)")
    nodes: list[str] = option(
        ["heads", "mlps"],
        "of pairs: heads, queries, keys, values, mlps, attentions; latents of the dictionaries",
    )
    metric: str = option("logit_difference", "of pairs: logit_difference, log_probability or kl")
    align: str = option(
        "equal", "pairs of different lengths: equal refuses them; right, left pad the other end"
    )
    ig_steps: int = positive(8, "midpoints of integrated gradients")
    separator: bool = option(
        True, "put the token that parts documents before each prompt, as training text has it"
    )
    logit_probability: float = positive(
        0.95, "probability that the explained next tokens reach together"
    )
    most_logits: int = positive(10, "next tokens that are explained, at most")
    most_latents: int = positive(
        7500, "latents that are nodes, the most influential; the others count as error"
    )
    row_share: float = option(
        1.0, "share of a row's mass that is kept, such as 0.999, with bounds; 1 keeps every edge"
    )
    parts: int = positive(
        1, "parts of a prompt's rows that workers share; 1: a worker has whole prompts"
    )
    memory_bytes: int = positive(8 * 2**30, "for gradients and edges of one graph")
    spool: str | None = option(
        None, "local folder for the edges while a graph is made, where memory does not hold them"
    )
    node_threshold: float = not_negative(0.8, "share of influence that pruning keeps in nodes")
    edge_threshold: float = not_negative(0.98, "share of the edges' scores that pruning keeps")
    trust_sample: int = not_negative(
        32, "latents that are taken away to compare what changes with the graph; 0: none"
    )
    trust_batch: int = positive(8, "of these, how many go through the model at once")
    most_frozen_error: float = positive(
        1e-3, "the command fails where edges and the frozen model differ by more"
    )
    least_pearson: float | None = option(
        None, "the command fails where expected and real changes of logits correlate less"
    )
    seed: int = not_negative(0, "which latents are taken away, beside the most influential")
