"""How the rows of an array are stored: as they are, compressed, or in eight bits with a scale.

`none` and `zstd_bitshuffle` lose nothing. `int8` and `fp8` keep two plain Zarr arrays: the eight
bits of every value, and one float32 scale per row. A row is divided by its scale, so that its
largest value takes the largest code; small values beside a very large one are lost.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numcodecs import blosc
from torch import Tensor
from zarr.codecs import BloscCodec, BloscShuffle, Crc32cCodec

from bathyscope.errors import NonFiniteError, StoreError

NONE, ZSTD, INT8, FP8 = "none", "zstd_bitshuffle", "int8", "fp8"
CODECS = (NONE, ZSTD, INT8, FP8)
_LARGEST = {INT8: 127.0, FP8: 448.0}
_LEVEL = 1


def is_per_row(codec: str) -> bool:
    """Whether the codec keeps eight bits per value and a scale per row."""
    return codec in _LARGEST


def stored_dtype(codec: str, dtype: str) -> str:
    """The NumPy dtype on disk of rows that would be `dtype` without a codec."""
    return {INT8: "int8", FP8: "uint8"}.get(codec, dtype)


def zarr_compressors(codec: str, dtype: str) -> list[Any]:
    """What a Zarr reader needs to know to undo the bytes of a chunk; crc32c comes last."""
    if codec != ZSTD:
        return [Crc32cCodec()]
    size = np.dtype(dtype).itemsize
    shuffle = BloscShuffle.bitshuffle
    return [BloscCodec(typesize=size, cname="zstd", clevel=_LEVEL, shuffle=shuffle), Crc32cCodec()]


def compress(chunk: npt.NDArray[Any]) -> bytes:
    """A chunk with its bits transposed and compressed: zstd, level 1, in Blosc's frame."""
    return bytes(blosc.compress(chunk, b"zstd", _LEVEL, blosc.BITSHUFFLE))


def decompress(stored: memoryview, out: npt.NDArray[np.uint8]) -> None:
    """Undo `compress` into `out`. Raises `StoreError` when the bytes are no such frame."""
    try:
        found = blosc.decompress(stored)
    except (RuntimeError, ValueError) as error:
        raise StoreError(f"a chunk cannot be decompressed: {error}") from error
    if len(found) != out.nbytes:
        raise StoreError(f"a chunk has {len(found)} bytes after decompression, not {out.nbytes}")
    out[:] = np.frombuffer(found, dtype=np.uint8)


def quantise(rows: Tensor, codec: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
    """Codes [n, d] and scales [n] of rows [n, d] of any float dtype.

    scale = max|x| / 127 (int8) or / 448 (fp8, e4m3); code = x / scale, rounded half to even. The
    error of int8 is at most scale / 2; that of fp8 at most 2⁻⁴ of the value, or of the smallest
    normal code. A row of zeros has scale 0. Raises `NonFiniteError` for NaN and infinity.
    """
    x = rows.float()
    largest = x.abs().amax(1) if x.shape[1] else x.new_zeros(len(x))
    if not torch.isfinite(largest).all():
        bad = int(torch.nonzero(~torch.isfinite(largest))[0])
        raise NonFiniteError(
            f"Row {bad} holds NaN or infinity, which codec {codec} cannot keep. Use "
            "store.codec=none, or find where the model makes it."
        )
    scales = largest / _LARGEST[codec]
    # A largest value below 127 times the smallest float32 has no scale: it counts as zero.
    scaled = torch.where(scales[:, None] > 0, x / scales[:, None], 0.0)
    scaled = scaled.clamp(-_LARGEST[codec], _LARGEST[codec])
    if codec == INT8:
        return scaled.round().to(torch.int8).numpy(), scales.numpy()
    return scaled.to(torch.float8_e4m3fn).view(torch.uint8).numpy(), scales.numpy()


def dequantise(codes: npt.NDArray[Any], scales: npt.NDArray[np.float32], codec: str) -> Tensor:
    """Rows [n, d], float32, from what `quantise` gave."""
    bits = torch.from_numpy(codes)
    if codec == FP8:
        bits = bits.view(torch.float8_e4m3fn)
    return bits.float() * torch.from_numpy(scales)[:, None]
