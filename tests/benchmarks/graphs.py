#!/usr/bin/env python
"""Memory and time of pruning large attribution graphs, exact and truncated.

    python tests/benchmarks/graphs.py [--exact NODES] [--truncated NODES] [--results FILE]

Synthetic graphs: 12 layers, 64 positions, 5 logits, edges from all earlier layers and positions up
to the target's own, heavy-tailed weights that fall with distance. Rows are made in blocks, each
with a seed of its own, and given to the row writer as dense blocks, as gradients would be; no array
is nodes squared. Each graph has a process of its own. `peak_bytes` is all that this process held,
the interpreter, torch and the rows' blocks included; `seconds` are those of order, influence,
pruning and scores, and of the bounds where rows are truncated. A result that is in FILE is not
measured again. 0 nodes leaves a graph out.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bathyscope.attribution.graphs.doubt import doubt_of
from bathyscope.attribution.graphs.graph import Graph
from bathyscope.attribution.graphs.order import order_of
from bathyscope.attribution.graphs.prune import prune
from bathyscope.attribution.graphs.rows import SHARE, RowWriter
from bathyscope.attribution.graphs.scores import scores_of
from bench import conclude

LAYERS, POSITIONS, LOGITS = 12, 64, 5
ERRORS = LAYERS * POSITIONS
EXACT, TRUNCATED = "exact", "truncated"
BLOCK_ENTRIES = 2**24


class Synthetic:
    """Rows of a layered graph, made when they are asked for."""

    def __init__(self, nodes: int, density: float, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.num_latents = nodes - ERRORS - POSITIONS - LOGITS
        if self.num_latents < 1:
            raise SystemExit(f"{nodes} nodes: wanted more than {nodes - self.num_latents}.")
        self.num_sources = nodes - LOGITS
        self.density, self.seed = density, seed
        latents = np.sort(rng.integers(0, LAYERS, self.num_latents))
        positions = rng.integers(0, POSITIONS, self.num_latents)
        every = np.arange(POSITIONS)
        self.layer = self._nodes(latents, np.repeat(np.arange(LAYERS), POSITIONS), -1, LAYERS)
        self.position = self._nodes(positions, np.tile(every, LAYERS), every, POSITIONS - 1)
        p = np.sort(rng.random(LOGITS))[::-1]
        self.p = (0.95 * p / p.sum()).astype(np.float32)

    def _nodes(self, latents: Any, errors: Any, tokens: Any, logits: Any) -> NDArray[np.int8]:
        tokens = np.broadcast_to(tokens, POSITIONS)
        parts = [latents, errors, tokens, np.broadcast_to(logits, LOGITS)]
        return np.concatenate(parts).astype(np.int8)

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Targets and their dense rows."""
        nodes = np.concatenate([np.arange(self.num_latents), self.num_sources + np.arange(LOGITS)])
        rows = max(1, BLOCK_ENTRIES // self.num_sources)
        for number, start in enumerate(range(0, len(nodes), rows)):
            some = nodes[start : start + rows]
            rng = np.random.default_rng([self.seed, number])
            block = np.zeros((len(some), self.num_sources), dtype=np.float32)
            for row, target in zip(block, some.tolist(), strict=True):
                self._fill(row, target, rng)
            yield torch.from_numpy(some), torch.from_numpy(block)

    def _fill(self, row: NDArray[np.float32], target: int, rng: np.random.Generator) -> None:
        layer, position = self.layer[: len(row)], self.position[: len(row)]
        before = (layer < self.layer[target]) & (position <= self.position[target])
        sources = np.flatnonzero(before)
        sources = sources[rng.random(len(sources), dtype=np.float32) < self.density]
        distance = self.position[target] - position[sources]
        size = np.exp(1.5 * rng.standard_normal(len(sources), dtype=np.float32) - 0.1 * distance)
        row[sources] = rng.standard_normal(len(sources), dtype=np.float32) * size


def measure(mode: str, nodes: int, density: float) -> dict[str, Any]:
    """Make and prune one graph in this process."""
    made = Synthetic(nodes, density)
    share = SHARE if mode == TRUNCATED else None
    writer = RowWriter(made.num_latents, ERRORS, POSITIONS, LOGITS, share=share)
    started, in_writer = time.perf_counter(), 0.0
    for some, block in made.blocks():
        before = time.perf_counter()
        writer.add(some, block)
        in_writer += time.perf_counter() - before
    before = time.perf_counter()
    graph = writer.finish(made.p)
    in_writer += time.perf_counter() - before
    figures = {"mode": mode, "nodes": nodes, "density": density, **shape(graph)}
    figures["making_seconds"] = round(time.perf_counter() - started - in_writer, 1)
    figures["writer_seconds"] = round(in_writer, 1)
    figures["peak_bytes_before_pruning"] = peak()
    before = time.perf_counter()
    figures |= pruned(graph)
    figures["seconds"] = round(time.perf_counter() - before, 1)
    figures["peak_bytes"] = peak()
    return figures


def shape(graph: Graph) -> dict[str, Any]:
    """How many edges there are, and per row."""
    lengths = np.diff(graph.indptr)[
        np.r_[: graph.num_latents, graph.first_logit : len(graph.indptr) - 1]
    ]
    return {
        "edges": graph.num_edges,
        "edges_per_row": round(float(lengths.mean()), 1),
        "rows_of_500_edges": round(float((lengths >= 500).mean()), 3),
    }


def pruned(graph: Graph) -> dict[str, Any]:
    """Prune and score; with bounds where rows are truncated."""
    order = order_of(graph)
    found = prune(graph, order=order)
    scores = scores_of(graph, found.influence.nodes)
    figures: dict[str, Any] = {
        "nodes_kept": int(found.nodes.sum()),
        "edges_kept": found.edges.count,
        "replacement": round(scores.replacement, 5),
        "completeness": round(scores.completeness, 5),
    }
    if graph.dropped is None:
        return figures
    doubt = doubt_of(graph, order)
    for name in scores._fields:
        ends = getattr(doubt.scores.low, name), getattr(doubt.scores.up, name)
        figures[f"{name}_bounds"] = [round(end, 5) for end in ends]
    figures["node_jaccard_at_least"] = round(doubt.node_jaccard(found.nodes), 4)
    figures["edge_jaccard_at_least"] = round(doubt.edge_jaccard(found.edges), 4)
    return figures


def peak() -> int:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def in_a_process(mode: str, nodes: int, density: float) -> dict[str, Any]:
    """The figures of one graph, measured in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", mode, str(nodes), str(density)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Measure what is not in the results yet, and print all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--exact", type=int, default=60_000, metavar="NODES")
    parser.add_argument("--exact-density", type=float, default=0.5)
    parser.add_argument("--truncated", type=int, default=200_000, metavar="NODES")
    parser.add_argument("--truncated-density", type=float, default=0.05)
    parser.add_argument("--results", type=Path, help="JSON lines; results are appended")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        mode, nodes, density = given.one
        print(json.dumps(measure(mode, int(nodes), float(density))))
        return
    lines = (
        given.results.read_text().splitlines() if given.results and given.results.exists() else []
    )
    known = {(r["mode"], r["nodes"], r["density"]): r for r in map(json.loads, lines)}
    found = {}
    for mode, nodes, density in [
        (EXACT, given.exact, given.exact_density),
        (TRUNCATED, given.truncated, given.truncated_density),
    ]:
        if not nodes:
            continue
        figures = known.get((mode, nodes, density)) or in_a_process(mode, nodes, density)
        if given.results and (mode, nodes, density) not in known:
            with given.results.open("a") as results:
                print(json.dumps(figures), file=results)
        for name, value in figures.items():
            print(f"{name:26s} {value}", flush=True)
        print()
        found[mode] = figures
    conclude(found if len(found) != 1 else next(iter(found.values())))


if __name__ == "__main__":
    main()
