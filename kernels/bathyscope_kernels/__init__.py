"""The ground: exact sparse encode, decode, backward and selection. Needs torch, and Triton on GPUs.

Each operation is a function on plain tensors that never holds [rows, latents] scores. It runs as
Triton kernels on a GPU (`gpu`), as compiled C++ on the CPU (`cpu`) where that pays, else in torch;
`dispatch` chooses and says so once. `reference` has the dense formulas that all of them are
tested against.
"""

from bathyscope_kernels.adam import RowSparseAdam, row_sparse_adam
from bathyscope_kernels.attribution import sampled_dot
from bathyscope_kernels.autoencode import Autoencoded, topk_autoencode
from bathyscope_kernels.auxk import auxk_encode
from bathyscope_kernels.auxk_error import auxk_error
from bathyscope_kernels.backward import RowGradients, sparse_backward
from bathyscope_kernels.batch_topk import batch_topk_encode
from bathyscope_kernels.decode import decode_residual, sparse_decode
from bathyscope_kernels.edges import Edges, threshold_edges, topk_edges
from bathyscope_kernels.encode import Encoded, topk_encode
from bathyscope_kernels.encode_rows import TooManyEntries, rows_above, topk_rows
from bathyscope_kernels.examples import no_examples, update_top_examples
from bathyscope_kernels.gemm_select import (
    BatchTopK,
    EdgesAbove,
    LargestEdges,
    Threshold,
    TopK,
    gemm_select,
)
from bathyscope_kernels.ragged import Ragged
from bathyscope_kernels.ragged_decode import ragged_decode
from bathyscope_kernels.threshold import Thresholded, l0, threshold_encode

__all__ = [
    "Autoencoded",
    "BatchTopK",
    "Edges",
    "EdgesAbove",
    "Encoded",
    "LargestEdges",
    "Ragged",
    "RowGradients",
    "RowSparseAdam",
    "Threshold",
    "Thresholded",
    "TooManyEntries",
    "TopK",
    "auxk_encode",
    "auxk_error",
    "batch_topk_encode",
    "decode_residual",
    "gemm_select",
    "l0",
    "no_examples",
    "ragged_decode",
    "row_sparse_adam",
    "rows_above",
    "sampled_dot",
    "sparse_backward",
    "sparse_decode",
    "threshold_edges",
    "threshold_encode",
    "topk_autoencode",
    "topk_edges",
    "topk_encode",
    "topk_rows",
    "update_top_examples",
]
