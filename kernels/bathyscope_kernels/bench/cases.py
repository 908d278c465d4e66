"""Which operations there are, and which of them are measured at which shape."""

from collections.abc import Callable

import torch

from bathyscope_kernels.bench import (
    cases_decode,
    cases_device,
    cases_encode,
    cases_products,
    cases_train,
)
from bathyscope_kernels.bench.case import Case
from bathyscope_kernels.bench.shapes import ASCENDING, HOT, UNIFORM, ZIPF, Shape

OPERATIONS: dict[str, Callable[[Shape, torch.device], Case]] = {
    "topk_encode": cases_encode.topk,
    "autoencode step": cases_train.step,
    "sparse_decode": cases_decode.decode,
    "sparse_backward": cases_decode.backward,
    "auxk_encode": cases_encode.auxk,
    "batch_topk_encode": cases_encode.batch_topk,
    "threshold_encode": cases_encode.threshold,
    "topk_edges": cases_products.edges,
    "sampled_dot": cases_products.dots,
    "update_top_examples": cases_products.examples,
    "row_sparse_adam": cases_decode.adam,
}

DEVICE: dict[str, Callable[[Shape, torch.device], Case]] = {
    "device matmul": cases_device.matmuls,
    "device topk": cases_device.topk,
    "device sort": cases_device.sort,
    "device gather": cases_device.gather,
}
"""What the device does by itself, at the named shapes on CUDA only."""

_WITH_USE = {
    ASCENDING: ("topk_encode", "batch_topk_encode"),
    ZIPF: ("sparse_decode", "sparse_backward", "update_top_examples"),
    HOT: ("sparse_decode", "sparse_backward", "update_top_examples"),
}


_WITHOUT_TOKENS = ("topk_edges", "sampled_dot")
"""On CUDA their size does not follow the number of tokens."""


def plan(shapes: list[Shape], device: torch.device, only: str | None) -> list[tuple[str, Shape]]:
    """Return the rows to measure, shape by shape; those of the device follow the named shapes.

    `only` keeps the operation of that name, or all whose name contains it; raises ValueError if
    there is none.
    """
    rows: list[tuple[str, Shape]] = []
    seen: set[tuple[object, ...]] = set()
    device_rows = []
    if device.type == "cuda":
        named = [shape for shape in shapes if shape.name and shape.use == UNIFORM]
        device_rows = [(name, shape) for shape in named for name in DEVICE]
    for shape in shapes:
        if device_rows and not (shape.name and shape.use == UNIFORM):
            rows, device_rows = rows + device_rows, []
        for name in _WITH_USE.get(shape.use, OPERATIONS):
            if device.type == "cuda" and name in _WITHOUT_TOKENS:
                if (name, *shape[1:4]) in seen:
                    continue
                seen.add((name, *shape[1:4]))
            rows.append((name, shape))
    rows += device_rows
    return _only(rows, only)


def _only(rows: list[tuple[str, Shape]], only: str | None) -> list[tuple[str, Shape]]:
    names = list(dict.fromkeys(name for name, _ in rows))
    kept = [only] if only in names else [name for name in names if only is None or only in name]
    if not kept:
        raise ValueError(f"got --only {only}, wanted a part of one of: {', '.join(names)}")
    return [row for row in rows if row[0] in kept]
