"""The ground: exact sparse encode, decode and backward. Needs torch only.

Each operation is a function on plain tensors with a torch reference that runs on any device:
`topk_encode`, `sparse_decode`, `auxk_encode`.
"""

from bathyscope_kernels.adam import RowSparseAdam, row_sparse_adam
from bathyscope_kernels.autoencode import Autoencoded, topk_autoencode
from bathyscope_kernels.auxk import auxk_encode
from bathyscope_kernels.backward import RowGradients, sparse_backward
from bathyscope_kernels.decode import sparse_decode
from bathyscope_kernels.encode import Encoded, topk_encode

__all__ = [
    "Autoencoded",
    "Encoded",
    "RowGradients",
    "RowSparseAdam",
    "auxk_encode",
    "row_sparse_adam",
    "sparse_backward",
    "sparse_decode",
    "topk_autoencode",
    "topk_encode",
]
