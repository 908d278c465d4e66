#!/usr/bin/env python
"""Memory and time of pruning large attribution graphs, exact and truncated.

    python tests/benchmarks/graphs.py [--exact NODES] [--truncated NODES] [--results FILE]

Synthetic graphs: 12 layers, 64 positions, 5 logits, edges from all earlier layers and positions up
to the target's own, heavy-tailed weights that fall with distance. Rows are made in blocks, each
with a seed of its own, and given to the row writer; no array is nodes squared. Each graph has a
process of its own. `peak_bytes` is all that this process held, the interpreter, torch and the
blocks included; `seconds` are those of order, influence, pruning and scores, and of the bounds
where rows are truncated. A result that is in FILE is not measured again. 0 nodes leaves a graph
out.
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
from typing import Any, NamedTuple

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
BLOCK_ENTRIES = 2**20


class Rows(NamedTuple):
    """Rows of some targets, one after the other."""

    targets: Tensor
    lengths: Tensor
    columns: Tensor
    values: Tensor


class Synthetic:
    """Rows of a layered graph, made when they are asked for."""

    def __init__(self, nodes: int, density: float, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.num_latents = nodes - ERRORS - POSITIONS - LOGITS
        if self.num_latents < 1:
            raise SystemExit(f"{nodes} nodes: wanted more than {nodes - self.num_latents}.")
        self.density, self.seed = density, seed
        self.layer = np.sort(rng.integers(0, LAYERS, self.num_latents))
        self.position = rng.integers(0, POSITIONS, self.num_latents)
        self.logits = nodes - LOGITS + np.arange(LOGITS)
        p = np.sort(rng.random(LOGITS))[::-1]
        self.p = (0.95 * p / p.sum()).astype(np.float32)
        # Sources of the targets at a position: those of earlier layers are the first of each kind.
        of_errors = np.tile(np.arange(POSITIONS), LAYERS)
        self._latents = [np.flatnonzero(self.position <= p) for p in range(POSITIONS)]
        self._errors = [np.flatnonzero(of_errors <= p) for p in range(POSITIONS)]
        self._at = np.concatenate([self.position, of_errors, np.arange(POSITIONS)])
        self._first = np.searchsorted(self.layer, np.arange(LAYERS + 1))

    def blocks(self) -> Iterator[Rows]:
        """All rows, some at a time; each block has a seed of its own."""
        targets = np.concatenate([np.arange(self.num_latents), self.logits])
        per_row = max(1, int(len(targets) * self.density / 4))
        step = max(1, BLOCK_ENTRIES // per_row)
        for number, start in enumerate(range(0, len(targets), step)):
            some = targets[start : start + step]
            rng = np.random.default_rng([self.seed, number])
            rows = [self._row(target, rng) for target in some.tolist()]
            columns, values = (np.concatenate(parts) for parts in zip(*rows, strict=True))
            lengths = np.array([len(row[0]) for row in rows])
            yield Rows(*map(torch.from_numpy, (some, lengths, columns, values)))

    def _row(self, target: int, rng: np.random.Generator) -> tuple[Any, Any]:
        is_latent = target < self.num_latents
        layer = self.layer[target] if is_latent else LAYERS
        position = self.position[target] if is_latent else POSITIONS - 1
        latents, errors = self._latents[position], self._errors[position]
        earlier = np.searchsorted(latents, self._first[layer])
        errors = self.num_latents + errors[: layer * (position + 1)]
        tokens = self.num_latents + ERRORS + np.arange(position + 1)
        sources = np.concatenate([latents[:earlier], errors, tokens])
        sources = sources[self._chosen(len(sources), rng)]
        size = np.exp(1.5 * rng.standard_normal(len(sources), dtype=np.float32))
        size *= np.exp(-0.1 * (position - self._at[sources])).astype(np.float32)
        return sources, rng.standard_normal(len(sources), dtype=np.float32) * size

    def _chosen(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Places of 0 to count - 1, each with the density as its probability."""
        expected = count * self.density
        gaps = rng.geometric(self.density, int(expected + 6 * expected**0.5 + 10))
        places = np.cumsum(gaps) - 1
        return places[places < count]


def measure(mode: str, nodes: int, density: float) -> dict[str, Any]:
    """Make and prune one graph in this process."""
    made = Synthetic(nodes, density)
    share = SHARE if mode == TRUNCATED else None
    writer = RowWriter(made.num_latents, ERRORS, POSITIONS, LOGITS, share=share)
    started, in_writer = time.perf_counter(), 0.0
    for rows in made.blocks():
        before = time.perf_counter()
        writer.add_sparse(*rows)
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
