"""What the hardware allows at best: the arithmetic and the memory traffic that cannot be avoided.

Each formula counts what an operation must do: a multiply-add is two FLOPs, an input is read once,
an output written once, and of a weight matrix that is gathered from only the `touched` rows. What
a measured rate allows for that is the floor.
"""

from collections.abc import Sequence
from typing import NamedTuple

_VALUE = 4  # bytes of a value, and of an index, of an active latent


class Work(NamedTuple):
    """What has to be done."""

    flops: float
    bytes: float


class Rates(NamedTuple):
    """What a machine can do, measured."""

    flops_per_s: float
    """At a large square matmul, in bfloat16 on CUDA and in float32 on a CPU."""
    bytes_per_s: float
    """Read and written by a large copy."""


def floor_ms(phases: Sequence[Work], rates: Rates) -> tuple[float, str]:
    """Return the least time, and which of "flops" and "bytes" takes most of it.

    Within a phase arithmetic and traffic overlap, so the longer one counts; phases follow each
    other: floor = sum over phases of max(flops / rate, bytes / bandwidth).
    """
    total, spent = 0.0, {"flops": 0.0, "bytes": 0.0}
    for work in phases:
        needed = {"flops": work.flops / rates.flops_per_s, "bytes": work.bytes / rates.bytes_per_s}
        longer = max(needed, key=lambda name: needed[name])
        spent[longer] += needed[longer]
        total += needed[longer]
    return 1e3 * total, max(spent, key=lambda name: spent[name])


def matmul(n: int, m: int, d: int, *, itemsize: int) -> Work:
    """[n, d] @ [d, m]: 2nmd FLOPs; both inputs and the result once."""
    return Work(2 * n * m * d, (n * d + m * d + n * m) * itemsize)


def encode(tokens: int, d: int, latents: int, entries: int, *, itemsize: int) -> Work:
    """TopK, BatchTopK, AuxK (latents = those of the subset) and JumpReLU: 2TFd FLOPs.

    Rows and encoder once, a value and an index for each of the `entries` that are kept.
    """
    return Work(2 * tokens * latents * d, (tokens + latents) * d * itemsize + 2 * _VALUE * entries)


def decode(tokens: int, d: int, k: int, touched: int, *, itemsize: int) -> Work:
    """2Tkd FLOPs; values and indices, each touched decoder row once, float32 rows out."""
    entries = 2 * _VALUE * tokens * k
    return Work(2 * tokens * k * d, touched * d * itemsize + entries + 4 * tokens * d)


def backward(tokens: int, d: int, k: int, touched: int, *, itemsize: int) -> Work:
    """6Tkd FLOPs: the sampled dots, dW_dec and dW_enc.

    Gradient and rows once, values and indices, each touched row of W_dec read and of dW_dec and
    dW_enc written, and db_enc.
    """
    rows = (2 * tokens + 3 * touched) * d * itemsize
    return Work(6 * tokens * k * d, rows + 2 * _VALUE * tokens * k + touched * itemsize)


def adam(latents: int, d: int, touched: int) -> Work:
    """Read and write the weights and two moments in float32, 24 bytes per weight, and read the
    gradients that there are; about 12 FLOPs per weight.

    With a dense gradient (touched = latents) that is 28 bytes per weight.
    """
    return Work(12 * latents * d, 24 * latents * d + 4 * touched * d)


def edges(targets: int, sources: int, d: int, k: int, *, itemsize: int) -> Work:
    """2nmd FLOPs; both sets once, a value and an index for each kept edge."""
    return Work(
        2 * targets * sources * d, (targets + sources) * d * itemsize + 2 * _VALUE * targets * k
    )


def sampled_dot(
    batch: int, positions: int, entries: int, d: int, touched: int, *, itemsize: int
) -> Work:
    """2Bnd FLOPs; gradients once, each touched decoder row once, the lists, float32 scores out."""
    read = (batch * positions + touched) * d * itemsize
    return Work(2 * batch * entries * d, read + 3 * _VALUE * entries + 4 * batch * entries)


def examples(tokens: int, k: int) -> Work:
    """One comparison per active latent; 12 bytes for its value, latent and row.

    Writing what enters the state is left out: after some batches it is next to nothing.
    """
    return Work(tokens * k, 3 * _VALUE * tokens * k)


def expected_touched(latents: int, draws: int) -> float:
    """Return how many latents are drawn at least once: F (1 - (1 - 1/F) ** n), uniform use."""
    return latents * (1.0 - (1.0 - 1.0 / latents) ** draws)
