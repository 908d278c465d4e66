"""Order keys: one int64 per score that carries both the value and the index.

Flow: float32 scores and their indices go in, int64 keys come out; comparing two keys as signed
integers compares (value, smaller index first), so any sort or top-k of keys is exact and has one
answer. The high 32 bits hold the value mapped to an integer of the same order, the low 32 bits
hold the index reversed. This is the unsigned radix-sort key with its sign bit flipped, because
collectives on the CPU reject unsigned types.
"""

import torch
from torch import Tensor

_LOW_32 = 0xFFFFFFFF
_MAGNITUDE = 0x7FFFFFFF


def pack_keys(values: Tensor, indices: Tensor) -> Tensor:
    """Pack float32 values and their indices into int64 order keys.

    A larger value gives a larger key; of two equal values the one with the smaller index does.
    NaN of any sign and payload counts as one value above +inf, and -0.0 equals 0.0.

    `values` is float32 of any shape, `indices` an integer tensor that broadcasts to it, with
    0 <= index < 2**32. Raises ValueError for any other dtype.
    """
    if values.dtype != torch.float32:
        raise ValueError(
            f"pack_keys got values of {values.dtype}, wanted torch.float32 because a key has "
            "32 bits for the value; convert them first"
        )
    if indices.is_floating_point() or indices.dtype == torch.bool:
        raise ValueError(f"pack_keys got indices of {indices.dtype}, wanted an integer dtype")
    # Adding 0.0 turns -0.0 into 0.0, which else would sort below it.
    bits = (values + 0.0).view(torch.int32)
    orderable = bits ^ ((bits >> 31) & _MAGNITUDE)
    orderable = orderable.masked_fill(values.isnan(), _MAGNITUDE)
    return (orderable.to(torch.int64) << 32) | (_LOW_32 - indices.to(torch.int64))


def unpack_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return the float32 values and the int64 indices that `pack_keys` put into `keys`.

    NaN comes back as NaN (its payload is lost) and -0.0 as 0.0. Raises ValueError if `keys` is
    not int64.
    """
    if keys.dtype != torch.int64:
        raise ValueError(f"unpack_keys got {keys.dtype}, wanted the torch.int64 of pack_keys")
    orderable = (keys >> 32).to(torch.int32)
    bits = orderable ^ ((orderable >> 31) & _MAGNITUDE)
    return bits.view(torch.float32), _LOW_32 - (keys & _LOW_32)
