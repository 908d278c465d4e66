"""Sampled dots: a batch of gradients against the decoder rows of the active latents.

Flow: gradients [batch, positions, d] at the places a dictionary writes to, and the active latents
as lists of positions, latents and activations go in; scores [batch, n] come out. The first-order
effect of an active latent is its activation times (gradient . decoder row).
"""

import torch
from torch import Tensor

from bathyscope_kernels.dispatch import on_gpu
from bathyscope_kernels.workspace import WORKSPACE_BYTES, accumulate_dtype, blocks


@torch.no_grad()
def sampled_dot(
    gradients: Tensor,
    W_dec: Tensor,
    positions: Tensor,
    latents: Tensor,
    activations: Tensor | None = None,
    *,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> Tensor:
    """Return activations[i] * gradients[b, positions[i]] . W_dec[latents[i]], [batch, n].

    gradients [batch, positions, d], W_dec [latents, d] and activations [n] (1 if None) are
    float32, bfloat16 or float16 in any mix, accumulated and returned in float32; or all float64.
    positions and latents are int32 or int64 [n], in any order and with repeats; scores come in
    the order of the lists. No gradient flows.

    Entries are sorted by position, and each position is one [batch, d] x [d, entries] matmul, so
    no [batch, n, d] exists. At most `workspace_bytes` of temporaries are alive at a time, beside
    lists of n entries. Raises ValueError for shapes, dtypes or devices that do not fit together,
    and for positions or latents out of range.
    """
    _check(gradients, W_dec, positions, latents, activations)
    return _sampled_dot(gradients, W_dec, positions, latents, activations, workspace_bytes)


@torch.library.custom_op("bathyscope::sampled_dot", mutates_args=())
def _sampled_dot(
    gradients: Tensor,
    W_dec: Tensor,
    positions: Tensor,
    latents: Tensor,
    activations: Tensor | None,
    workspace_bytes: int,
) -> Tensor:
    # Part of the operation, as it reads the data.
    _check_range("positions", positions, gradients.shape[1], "dimension 1 of the gradients")
    _check_range("latents", latents, W_dec.shape[0], "the rows of W_dec")
    if on_gpu(gradients, W_dec, activations):
        from bathyscope_kernels.gpu import dots

        return dots.sampled_dot(gradients, W_dec, positions, latents, activations)
    dtype = accumulate_dtype(gradients=gradients, W_dec=W_dec)
    scores = gradients.new_empty(gradients.shape[0], positions.numel(), dtype=dtype)
    ascending, order = torch.sort(positions.to(torch.int64), stable=True)
    latents = latents.to(torch.int64)[order]
    scale = None if activations is None else activations.to(dtype)[order]
    counts = torch.bincount(ascending, minlength=gradients.shape[1])
    present = counts.nonzero().squeeze(1).tolist()
    # Read once as Python numbers: on a GPU one wait in all, not one per position.
    start = 0
    per_block = _entries_per_block(gradients, W_dec, workspace_bytes)
    for position, count in zip(present, counts[present].tolist(), strict=True):
        at_position = gradients[:, position].to(dtype)
        for part in blocks(count, per_block):
            entries = slice(start + part.start, start + part.stop)
            found = at_position @ W_dec[latents[entries]].to(dtype).T
            if scale is not None:
                found *= scale[entries]
            scores[:, order[entries]] = found
        start += count
    return scores


@_sampled_dot.register_fake
def _(
    gradients: Tensor,
    W_dec: Tensor,
    positions: Tensor,
    latents: Tensor,
    activations: Tensor | None,
    workspace_bytes: int,
) -> Tensor:
    dtype = accumulate_dtype(gradients=gradients, W_dec=W_dec)
    return gradients.new_empty(gradients.shape[0], positions.shape[0], dtype=dtype)


def _entries_per_block(gradients: Tensor, W_dec: Tensor, workspace_bytes: int) -> int:
    """Return how many entries to score at a time: gathered rows, converted rows and scores."""
    dtype = accumulate_dtype(gradients=gradients, W_dec=W_dec)
    converted = 0 if W_dec.dtype == dtype else dtype.itemsize
    per_entry = W_dec.shape[1] * (W_dec.dtype.itemsize + converted)
    # The scores exist twice while they are put in their places.
    per_entry += 2 * gradients.shape[0] * dtype.itemsize
    of_position = 0
    if gradients.dtype != dtype:
        of_position = gradients.shape[0] * gradients.shape[2] * dtype.itemsize
    return max(1, (workspace_bytes - of_position) // max(1, per_entry))


def _check(
    gradients: Tensor,
    W_dec: Tensor,
    positions: Tensor,
    latents: Tensor,
    activations: Tensor | None,
) -> None:
    if gradients.ndim != 3 or W_dec.ndim != 2 or gradients.shape[2] != W_dec.shape[1]:
        raise ValueError(
            f"got gradients {list(gradients.shape)}, W_dec {list(W_dec.shape)}; wanted gradients "
            "[batch, positions, d] and W_dec [latents, d] of one d; rows of W_dec are latents, "
            "transpose it if they are not"
        )
    lists = {"positions": positions, "latents": latents}
    tensors = {"gradients": gradients, "W_dec": W_dec}
    if activations is not None:
        tensors["activations"] = lists["activations"] = activations
    if any(given.shape != (positions.numel(),) for given in lists.values()):
        got = ", ".join(f"{name} {list(given.shape)}" for name, given in lists.items())
        raise ValueError(f"got {got}; wanted lists [n] of one length")
    accumulate_dtype(**tensors)
    devices = {given.device for given in (*lists.values(), *tensors.values())}
    if len(devices) > 1:
        raise ValueError(f"got tensors on {sorted(map(str, devices))}, wanted one device")
    for name in ("positions", "latents"):
        if lists[name].dtype not in (torch.int32, torch.int64):
            raise ValueError(
                f"got {name} of {lists[name].dtype}, wanted torch.int32 or torch.int64"
            )


def _check_range(name: str, given: Tensor, size: int, what: str) -> None:
    if given.numel() == 0:
        return
    smallest, largest = (int(end) for end in torch.aminmax(given))
    if smallest < 0 or largest >= size:
        raise ValueError(f"got {name} from {smallest} to {largest}, wanted 0 to {size - 1}, {what}")
