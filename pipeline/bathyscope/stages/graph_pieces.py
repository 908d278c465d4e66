"""Rows of a graph between the worker that made them and the one that puts them together."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from bathyscope.attribution.graphs.parts import counts_of, from_parts, per_node
from bathyscope.attribution.graphs.pieces import Piece
from bathyscope.stores.objects import Objects


def to_bytes(piece: Piece, chosen: torch.Tensor) -> bytes:
    """A piece as a file of arrays, with the latents that are nodes."""
    graph = piece.graph
    arrays: dict[str, Any] = {
        "targets": piece.targets.numpy(),
        "biases": piece.biases.numpy(),
        "missing": np.array(piece.missing),
        "chosen": chosen.cpu().numpy(),
        "indices": graph.indices[:],
        "values": graph.values[:],
        **per_node(graph),
        **{name: np.array(count) for name, count in counts_of(graph).items()},
    }
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def from_bytes(data: bytes) -> tuple[Piece, torch.Tensor]:
    """What `to_bytes` wrote: the piece, and the latents that are nodes."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    counts = {name: int(array) for name, array in arrays.items() if name.startswith("num_")}
    graph = from_parts(counts, arrays, arrays["indices"], arrays["values"])
    biases, targets = torch.from_numpy(arrays["biases"]), torch.from_numpy(arrays["targets"])
    piece = Piece(targets, graph, biases, float(arrays["missing"]))
    return piece, torch.from_numpy(arrays["chosen"])


def pieces_of(objects: Objects, keys: Sequence[str]) -> tuple[list[Piece], torch.Tensor]:
    """The parts of one prompt, and the latents that are its nodes."""
    found = [from_bytes(objects.get(key)) for key in keys]
    return [piece for piece, _ in found], found[0][1]
