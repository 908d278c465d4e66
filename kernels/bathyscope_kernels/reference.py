"""The truth: every operation in its plainest dense form, to compare the fast ones with.

Flow: the same arguments as the operation of the same name go in, the same result comes out, made
from the whole [rows, columns] matrix and stable sorts. Memory and speed do not matter here. All
compute in float64 if all inputs are float64, or if asked by `upcast`, else in float32; values are
returned in that dtype. Order everywhere: larger value, then smaller index; NaN above +inf.
"""

from bathyscope_kernels.reference_products import (
    Gradients,
    adam,
    decode_residual,
    sampled_dot,
    sparse_backward,
    sparse_decode,
    threshold_gradients,
)
from bathyscope_kernels.reference_selection import (
    auxk_encode,
    batch_topk_encode,
    threshold_edges,
    threshold_encode,
    top_examples,
    topk_edges,
    topk_encode,
)

__all__ = [
    "Gradients",
    "adam",
    "auxk_encode",
    "batch_topk_encode",
    "decode_residual",
    "sampled_dot",
    "sparse_backward",
    "sparse_decode",
    "threshold_edges",
    "threshold_encode",
    "threshold_gradients",
    "top_examples",
    "topk_edges",
    "topk_encode",
]
