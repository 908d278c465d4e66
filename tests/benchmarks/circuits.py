#!/usr/bin/env python
"""How much of what SmolLM2 knows of capitals a circuit of latents holds, with and without errors.

    python tests/benchmarks/circuits.py RUN:DICTIONARY [RUN:DICTIONARY …]

Such as `runs/demo:main runs/layers:transcoder-layer14`. Four pairs of prompts of equal length,
logit difference, integrated gradients; nodes outside of a circuit take their mean over the clean
prompts. Faithfulness at the sizes of MIB, CPR and CMD, for circuits in which all error nodes are
kept, in which they compete with latents, and in which none is.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

import bathyscope
from bathyscope.attribution.circuits import faithfulness_curve, feature_edges, feature_nodes
from bathyscope.attribution.nodes import Pairs
from bathyscope.stages.attribute import in_float32
from bathyscope.stages.model import load_whole
from bathyscope.stages.recorded import recorded_config
from bench import conclude

CAPITALS = (
    ("France", "Italy", " Paris", " Rome"), ("Germany", "France", " Berlin", " Paris"),
    ("Japan", "China", " Tokyo", " Beijing"), ("Italy", "Japan", " Rome", " Tokyo"),
)  # fmt: skip
_TEXT = "The capital of {} is the city of"


def main() -> None:
    """The nodes, the curves, the edges."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("dictionaries", nargs="+", help="RUN:DICTIONARY")
    given = [word.rsplit(":", 1) for word in parser.parse_args().dictionaries]
    torch.set_num_threads(1)
    runs = {url: bathyscope.open(url) for url, _ in given}
    loaded = load_whole(in_float32(recorded_config(next(iter(runs.values())))))
    pairs = Pairs.of_texts(
        loaded.tokenizer,
        [_TEXT.format(one) for one, _, _, _ in CAPITALS],
        [_TEXT.format(other) for _, other, _, _ in CAPITALS],
        answers=[answer for _, _, answer, _ in CAPITALS],
        wrong=[wrong for _, _, _, wrong in CAPITALS],
    )
    dictionaries: list[Any] = [runs[url].dictionaries[name] for url, name in given]
    nodes = feature_nodes(loaded.model, pairs, "logit_difference", dictionaries)
    for node in nodes.describe(nodes.top(8)):
        print(node)
    figures: dict[str, Any] = {"dictionaries": [":".join(pair) for pair in given]}
    for errors in ("keep", "compete", "remove"):
        how = {} if errors == "compete" else {"errors": errors}
        curve = faithfulness_curve(nodes, ablation="mean", **how)  # type: ignore[arg-type]
        figures[errors] = {
            "faithfulness": [round(float(value), 3) for value in curve.faithfulness],
            "cpr": round(float(curve.cpr), 3),
            "cmd": round(float(curve.cmd), 3),
        }
        print(errors, figures[errors], flush=True)
    figures["edges_of_20"] = len(feature_edges(nodes, nodes.top(20)))
    conclude(figures)


if __name__ == "__main__":
    main()
