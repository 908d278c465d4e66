"""What a training takes of memory, before it starts: weights, Adam, gradients, step, checkpoint.

All of it follows from shapes. Weights, moments and the checkpoint's copies stay for as long as the
training lasts; gradients and what a step computes come and go, so that of several dictionaries in
one pass the largest counts, once. A checkpoint is written from a copy while steps go on.

Counted for a batch in which every latent that k allows has a gradient, while an eighth of all are
dead; a training with more dead latents takes more for AuxK. Predictions are compared with the peak
of the resident set in `tests/benchmarks/train_footprint.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bathyscope.dictionaries.activation_function import MOST_ENTRIES
from bathyscope.dictionaries.dictionary import Dictionary
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.errors import ConfigError
from bathyscope.training.grid import Grid, share_of_latents
from bathyscope.training.shard import split_tensors
from bathyscope_kernels.dispatch import use_dense
from bathyscope_kernels.workspace import WORKSPACE_BYTES

_FLOAT, _STORED, _LONG = 4, 2, 8
# Entries before the choice, as a multiple of k: ReLU and Gated start with four times k, what may be
# in BatchTopK is searched above a guess, and JumpReLU has the lower half of its band as well.
_ENTRIES = {"topk": 1, "batch_topk": 2, "jumprelu": 4, "relu": 4, "gated": 4}
# Value, latent, row and place by latent, the gradient, and what is made of them in between.
_ENTRY_BYTES = 48
_AUX_ENTRY_BYTES = 56
# Activations of dead latents and their gradients, where all of them are held.
_AUX_DENSE_BYTES = 9
DEAD_SHARE = 1 / 8
"""Share of the latents that AuxK is planned for."""
# ŷ, y - ŷ, and three more while it is squared backwards; of several prefixes also their running
# sum, and what turns it around backwards.
_LOSS_COPIES, _RUNNING_COPIES = 5, 4
# Starts and places of the lists by latent.
_LATENT_BYTES = 40
# The copy of the state, its file as it is put together, and as it is handed to the store.
_CHECKPOINT_COPIES = 3


class Footprint(NamedTuple):
    """Bytes on one process. On a GPU all but `checkpoint` and `reader` lie there."""

    weights: int
    gradients: int
    """Of the matrices row by row, at the moment when most of them are there."""
    adam: int
    """Both moments, and for how long each latent has been silent."""
    workspace: int
    """The rows, the reconstructions, the entries and their lists, AuxK."""
    checkpoint: int
    """What is being written; 0 without checkpoints."""
    reader: int = 0
    """Rows that are kept or read ahead."""

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


def footprint(
    dictionary: AnyDictionary,
    *,
    batch_rows: int,
    grid: Grid | None = None,
    auxk: bool = True,
    dead_share: float = DEAD_SHARE,
    clips: bool = False,
    checkpoints: bool = True,
    reader_bytes: int = 0,
) -> Footprint:
    """The bytes of a training on each process of a grid; the dictionary may be on `meta`.

    `batch_rows` are those of all processes. `auxk` says whether dead latents are revived,
    `dead_share` how many are planned for, `clips` whether gradients are scaled down to a norm.
    `reader_bytes` are what the reader of the batches holds. Raises `ConfigError` where latents do
    not divide over the grid.
    """
    grid = grid or Grid()
    for part in dictionary.parts:
        share_of_latents(part.num_latents, grid, 0)
    split = split_tensors(dictionary)

    def held(name: str, count: int) -> int:
        return count // grid.latents if name in split else count

    tensors, parameters = dictionary.state_dict(), dict(dictionary.named_parameters())
    weights = sum(held(n, t.numel()) * t.element_size() for n, t in tensors.items())
    moments = 2 * sum(held(n, p.numel()) * p.element_size() for n, p in parameters.items())
    latents = dictionary.num_latents // grid.latents
    adam = moments + _LONG * latents
    rows = batch_rows // grid.data
    dead = dead_share if auxk else 0.0
    gradients = _gradients(dictionary, rows, grid, dead=dead, clips=clips)
    return Footprint(
        weights=weights,
        gradients=gradients,
        adam=adam,
        workspace=_workspace(dictionary, rows, grid, gradients, dead=dead),
        checkpoint=_CHECKPOINT_COPIES * (weights + adam) if checkpoints else 0,
        reader=reader_bytes,
    )


def together(footprints: Sequence[Footprint]) -> Footprint:
    """What dictionaries take that are trained on one stream of batches, a step after the other.

    All have copies and files of a checkpoint at once where storage is slow; the files are put
    together one at a time.
    """
    last = [f.checkpoint // _CHECKPOINT_COPIES for f in footprints]
    return Footprint(
        weights=sum(f.weights for f in footprints),
        gradients=max(f.gradients for f in footprints),
        adam=sum(f.adam for f in footprints),
        workspace=max(f.workspace for f in footprints),
        checkpoint=sum(f.checkpoint for f in footprints) - sum(last) + max(last),
        reader=max(f.reader for f in footprints),
    )


def check_memory(
    footprints: Sequence[Footprint], available: int, *, host_available: int | None = None
) -> None:
    """Raise `ConfigError` where dictionaries that are trained together do not fit.

    `available` bytes are those of this process where steps are computed. For a GPU
    `host_available` are those of its host; None means that both are one.
    """
    needed, count = together(footprints), len(footprints)
    if host_available is None:
        _check(count, needed, available, "memory")
        return
    on_gpu = needed._replace(checkpoint=0, reader=0)
    on_host = Footprint(0, 0, 0, 0, needed.checkpoint, needed.reader)
    _check(count, on_gpu, available, "the GPU's memory")
    _check(count, on_host, host_available, "the host's memory")


def described(needed: Footprint) -> str:
    """The uses in words, largest first."""
    uses = {
        "weights": needed.weights,
        "gradients": needed.gradients,
        "Adam": needed.adam,
        "a step": needed.workspace,
        "a checkpoint on its way": needed.checkpoint,
        "the reader": needed.reader,
    }
    order = sorted(uses, key=lambda use: -uses[use])
    return ", ".join(f"{use} {size(uses[use])}" for use in order if uses[use])


def _check(count: int, needed: Footprint, available: int, where: str) -> None:
    if needed.total <= available:
        return
    what = "The training needs" if count == 1 else f"Training {count} dictionaries together needs"
    fewer = "" if count == 1 else "set a smaller sweep.together, "
    raise ConfigError(
        f"{what} {size(needed.total)} of {where} on each process ({described(needed)}), and "
        f"{size(available)} are free. To make it fit: {fewer}choose a smaller train.batch_rows, "
        "fewer latents, train.latent_parallel over more processes, or train.checkpoint_steps=0."
    )


def _entries(part: Dictionary, rows: int, grid: Grid) -> int:
    """Entries of rows that are at hand at once, of the latents here."""
    activation = part.activation
    found = min(_ENTRIES.get(activation.name, 4) * activation.k, part.num_latents)
    return min(rows * found // grid.latents, MOST_ENTRIES)


def _gradients(
    dictionary: AnyDictionary, rows: int, grid: Grid, *, dead: float, clips: bool
) -> int:
    """Row-sparse gradients of the matrices, dense ones of the rest, and copies under way."""
    total, copied = 0, 0
    for part in dictionary.parts:
        latents = part.num_latents // grid.latents
        both, widest = _FLOAT * (part.d_in + part.d_out), _FLOAT * max(part.d_in, part.d_out)
        listed = min(latents, _entries(part, rows, grid) + int(dead * latents))
        total += listed * both
        copies = [
            # The gradient of a matrix is a sum of two with AuxK, which are there until it is.
            listed * widest if dead else 0,
            # AuxK makes those of the dead latents twice.
            int(dead * latents) * both,
            # Rows of all processes, beside those of this one in order.
            2 * listed * widest if grid.data > 1 else 0,
            # In float64, and squared.
            4 * listed * widest if clips else 0,
        ]
        copied = max(copied, *copies)
    small = sum(p.numel() for p in dictionary.parameters() if p.ndim == 1)
    skip = dictionary.W_skip if isinstance(dictionary, Dictionary) else None
    return total + copied + _FLOAT * (small + (0 if skip is None else skip.numel()))


def _workspace(
    dictionary: AnyDictionary, rows: int, grid: Grid, gradients: int, *, dead: float
) -> int:
    """The most that a step holds beside weights, moments and gradients."""
    d_in, d_out = dictionary.d_in, dictionary.d_out
    columns = d_in if dictionary.writes_what_it_reads else d_in + d_out
    held = rows * columns * (_STORED + _FLOAT) + rows * d_in * _FLOAT
    entries = sum(_entries(part, rows, grid) for part in dictionary.parts)
    latents = dictionary.num_latents // grid.latents
    lists = _ENTRY_BYTES * entries + _LATENT_BYTES * latents
    prefixes = max(len(dictionary.prefixes), 1)
    if dictionary.parts[0].activation.name == "gated":
        prefixes += 1
    y_hats = _FLOAT * rows * d_out * prefixes
    aux = 0
    if dead:
        aux = 4 * _FLOAT * rows * d_out
        aux += max(_aux(part, rows, int(dead * latents)) for part in dictionary.parts)
    # Gradients are not there yet while a batch is encoded and the loss is made.
    encoding = held + WORKSPACE_BYTES + lists - gradients
    copies = _LOSS_COPIES + (_RUNNING_COPIES if len(dictionary.prefixes) > 1 else 0)
    loss = held + copies * y_hats + lists + aux - gradients
    return max(encoding, loss, held + 2 * y_hats + lists + aux)


def _aux(part: Dictionary, rows: int, dead: int) -> int:
    """The activations of dead latents: all of them where they fit, else lists (`auxk_products`)."""
    k = min(max(part.d_in // 2, 1), max(dead, 1))
    fits = 2 * _FLOAT * rows * dead <= WORKSPACE_BYTES
    if fits and use_dense(dead, k):
        return _AUX_DENSE_BYTES * rows * dead
    return _AUX_ENTRY_BYTES * rows * k


def size(count: int) -> str:
    """Bytes for a person."""
    if count >= 10**9:
        return f"{count / 1e9:,.2f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 10**6 else f"{count / 1e3:.0f} kB"
