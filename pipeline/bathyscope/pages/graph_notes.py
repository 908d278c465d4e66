"""What the picture of an attribution graph leaves out, in plain words."""

from __future__ import annotations

from bathyscope.pages.data import Number
from bathyscope.pages.graph_data import GraphPage, Shown
from bathyscope.pages.text import is_measured


def notes(page: GraphPage, shown: Shown) -> list[str]:
    """A sentence or two for each thing that a reader might see in the picture and should not."""
    kind, kept = page.nodes["kind"], page.nodes["kept"]
    gone = sum(1 for k, stays in zip(kind, kept, strict=True) if k == "latent" and not stays)
    graph = sum(1 for k in kind if k == "latent")
    found = [
        "Attention patterns and norm scales are those of this prompt and are held fixed. Why a "
        "head attends where it does is not explained, nor is a latent that acts by moving "
        "attention.",
        "Error nodes are what the MLPs write and the dictionaries do not reconstruct. Nothing is "
        "known of what goes on inside them, and no edge leads into one.",
        _biases(page.bias_share),
        "An edge is the direct effect of its source on its target, through the residual stream "
        "and fixed attention. It predicts a small change under these fixed parts, and the model "
        "may answer a large one otherwise: that is what the trust report measures.",
        "The graph is about this prompt and these outputs alone. A latent that is not active here "
        "is not in it, and dictionaries stand only at the positions that were not excluded, the "
        "first one most often.",
    ]
    if gone:
        found.append(
            f"Pruning removed {gone:,} of {graph:,} latents, and the weaker edges. Those that are "
            "left carry most of the influence; together the removed ones may still matter."
        )
    if page.num_active > graph:
        found.append(
            f"{page.num_active - graph:,} active latents were not attributed, and what they write "
            "counts as error."
        )
    if page.truncated:
        found.append(
            "Each row keeps its largest entries only. Influence and scores of the whole graph lie "
            "between the bounds that are given."
        )
    if shown.left_out_nodes:
        found.append(
            f"This page leaves out the {shown.left_out_nodes:,} least influential nodes that "
            "pruning kept; the tables and the JSON file have them."
        )
    if shown.left_out_edges:
        found.append(
            f"{shown.left_out_edges:,} edges of the pruned graph are not in this page; the tables "
            "and the JSON file have them."
        )
    if not any(page.labels or ()):
        found.append("Nobody has said what these latents mean: they have numbers, not names.")
    return found


def _biases(share: Number) -> str:
    said = (
        "Biases (of attention, norms, dictionaries) give to nodes as well and are not drawn: "
        "their effects are in the table of biases, their totals in the JSON file."
    )
    if share is None or not is_measured(share):
        return said
    return f"{said} They are {100 * share:.1f} % of all that goes into the outputs."
