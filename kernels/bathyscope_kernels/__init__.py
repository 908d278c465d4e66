"""The ground: exact sparse encode, decode and backward. Needs torch only.

Each operation is a function on plain tensors with a torch reference that runs on any device:
`topk_encode`, `sparse_decode`, `auxk_encode`.
"""

from bathyscope_kernels.auxk import auxk_encode
from bathyscope_kernels.decode import sparse_decode
from bathyscope_kernels.encode import Encoded, topk_encode

__all__ = ["Encoded", "auxk_encode", "sparse_decode", "topk_encode"]
