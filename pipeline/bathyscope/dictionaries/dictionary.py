"""A dictionary: what it reads, what it writes, and the weights between.

    z = f(W_enc (x - centre) + b_enc),      ŷ = W_decᵀ z + b_dec (+ W_skip x)

f is the activation function. An autoencoder writes what it reads (y = x), and its centre is b_dec;
other kinds are in files of their own. Rows of both matrices are latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from bathyscope.dictionaries.activation_function import ActivationFunction
from bathyscope.dictionaries.layout import Columns, columns_of, width_of
from bathyscope.dictionaries.topk import TopK
from bathyscope.errors import ConfigError, ModelError
from bathyscope.values import Json
from bathyscope_kernels import Encoded, sparse_decode


class Dictionary(nn.Module):
    """One encoder and one decoder; an autoencoder where nothing else is said.

    `inputs` and `outputs` name the columns of W_enc and W_dec. `subtracts_b_dec` makes b_dec the
    centre. `prefixes` are numbers of latents, ascending to all, that reconstruct by themselves
    (Matryoshka). Without `has_b_dec` it is a part of a larger one that has it.
    """

    kind: ClassVar[str] = "autoencoder"
    subtracts_by_default: ClassVar[bool] = True
    has_skip: ClassVar[bool] = False

    def __init__(
        self,
        inputs: Columns,
        outputs: Columns,
        activation: ActivationFunction,
        *,
        dtype: torch.dtype = torch.float32,
        subtracts_b_dec: bool | None = None,
        prefixes: tuple[int, ...] = (),
        has_b_dec: bool = True,
    ) -> None:
        super().__init__()
        subtracts = self.subtracts_by_default if subtracts_b_dec is None else subtracts_b_dec
        num_latents, d_in, d_out = activation.num_latents, width_of(inputs), width_of(outputs)
        if subtracts and d_in != d_out:
            raise ConfigError(
                f"b_dec is to be subtracted from inputs of width {d_in}, but it has {d_out} "
                "numbers. Only a dictionary that writes what it reads can do that."
            )
        self.inputs, self.outputs = inputs, outputs
        self.subtracts_b_dec = subtracts and has_b_dec
        self.prefixes = checked_prefixes(prefixes, num_latents)
        self.activation = activation
        self.W_enc = nn.Parameter(torch.empty(num_latents, d_in, dtype=dtype))
        self.W_dec = nn.Parameter(torch.empty(num_latents, d_out, dtype=dtype))
        self.b_enc = nn.Parameter(torch.zeros(num_latents, dtype=dtype))
        self.b_dec = nn.Parameter(torch.zeros(d_out, dtype=dtype)) if has_b_dec else None
        self.W_skip = nn.Parameter(torch.zeros(d_out, d_in, dtype=dtype)) if self.has_skip else None

    @property
    def parts(self) -> tuple[Dictionary, ...]:
        """Encoders with their decoders, each with latents of its own: here only one."""
        return (self,)

    @property
    def read_columns(self) -> tuple[slice, ...]:
        """The columns of x that each part reads."""
        return (slice(0, self.d_in),)

    @property
    def written_columns(self) -> tuple[slice, ...]:
        """The columns of y that each part writes."""
        return (slice(0, self.d_out),)

    @property
    def num_latents(self) -> int:
        """Number of latents, the rows of both matrices."""
        return self.W_dec.shape[0]

    @property
    def d_in(self) -> int:
        """Width of the activations that it reads, over all hook points."""
        return self.W_enc.shape[1]

    @property
    def d_out(self) -> int:
        """Width of the activations that it writes, over all hook points."""
        return self.W_dec.shape[1]

    @property
    def k(self) -> int:
        """The number of active latents per row that is wanted. Raises where it is not known."""
        return self.activation.k

    @property
    def known_k(self) -> int | None:
        """The same; None where the file that it came from did not say."""
        return self.activation.known_k

    @property
    def writes_what_it_reads(self) -> bool:
        """Whether ŷ stands for x itself."""
        return self.inputs == self.outputs

    @property
    def centre(self) -> Tensor | None:
        """What is subtracted from rows before they are encoded [d_in]; None for nothing."""
        return self.b_dec if self.subtracts_b_dec else None

    def encode(self, x: Tensor) -> Encoded:
        """The active latents of rows x [rows, d_in]: values, indices [rows, width], counts."""
        centred = x if self.centre is None else x - self.centre
        return self.activation.encode(centred, self.W_enc, self.b_enc)

    def decode(self, latents: Encoded) -> Tensor:
        """W_decᵀ z + b_dec [rows, d_out]; of a kind with a skip connection all but that."""
        return self.decode_lists(latents.values, latents.indices)

    def decode_lists(self, values: Tensor, indices: Tensor) -> Tensor:
        """The same of lists [rows, width] as a store has them; a value of 0 is no latent."""
        return sparse_decode(values, indices, self.W_dec, self.b_dec)

    def skipped(self, x: Tensor) -> Tensor | None:
        """What the skip connection adds [rows, d_out]; None without one."""
        return None if self.W_skip is None else x.to(self.W_skip.dtype) @ self.W_skip.T

    def reconstruct(self, x: Tensor) -> tuple[Encoded, Tensor]:
        """The active latents of rows x [rows, d_in], and ŷ [rows, d_out]."""
        latents = self.encode(x)
        y_hat, skipped = self.decode(latents), self.skipped(x)
        return latents, y_hat if skipped is None else y_hat + skipped

    def forward(self, x: Tensor) -> Tensor:
        """ŷ for rows x [rows, d_in]."""
        return self.reconstruct(x)[1]

    @torch.no_grad()
    def normalize_decoder(self) -> None:
        """Set every decoder row to unit norm over all its columns, leaving rows of zeros alone."""
        norms = torch.linalg.vector_norm(self.W_dec, dim=1, keepdim=True)
        self.W_dec.div_(norms.clamp_min(torch.finfo(self.W_dec.dtype).tiny))

    @torch.no_grad()
    def fold_scales(self, inputs: Tensor, outputs: Tensor, *, same: bool | None = None) -> None:
        """Make a dictionary trained on x / inputs and y / outputs read x and write y.

        The scales are float [d_in] and [d_out]. Where all of `outputs` are one number s, latents
        grow by it and decoder rows keep their norm:

            s (W_enc (x / i - c) + b_enc) = (s W_enc / i) (x - i c) + s b_enc

        else, or where `same` is False, the decoder's columns take them. Activation functions
        commute with a positive factor.
        """
        same = bool((outputs == outputs[0]).all()) if same is None else same
        factor = float(outputs[0]) if same else 1.0
        dtype = self.W_enc.dtype
        # Where both scales are one number the matrix stays as it is, to the bit.
        if not (same and bool((inputs == factor).all())):
            self.W_enc.mul_((factor / inputs).to(dtype))
        self.b_enc.mul_(factor)
        self.activation.scale(factor)
        if not same:
            self.W_dec.mul_(outputs.to(dtype))
        if self.b_dec is not None:
            self.b_dec.mul_(outputs.to(dtype))
        if self.W_skip is not None:
            self.W_skip.mul_((outputs[:, None] / inputs).to(dtype))

    def settings(self) -> Json:
        """What config.json says of it, beside the dtype."""
        return {
            "kind": self.kind,
            "num_latents": self.num_latents,
            "d_in": self.d_in,
            "d_out": self.d_out,
            "inputs": [block.to_dict() for block in self.inputs],
            "outputs": [block.to_dict() for block in self.outputs],
            "subtracts_b_dec": self.subtracts_b_dec,
            "prefixes": list(self.prefixes),
            **self.activation.settings(),
        }


AnyKind = TypeVar("AnyKind", bound=nn.Module)


def filled(dictionary: AnyKind, tensors: Mapping[str, Tensor]) -> AnyKind:
    """The dictionary with these weights, ready to encode.

    Raises `ModelError` for tensors of other names or shapes.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in dictionary.state_dict().items()}
    got = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wanted != got:
        raise ModelError(
            f"The tensors stand for {got}, but the configuration describes {wanted}. The two files "
            "belong to different dictionaries."
        )
    dictionary.load_state_dict(dict(tensors))
    return dictionary.eval().requires_grad_(False)


def topk_autoencoder(
    *, d_in: int, num_latents: int, k: int, hook_point: str = "", dtype: torch.dtype
) -> Dictionary:
    """A TopK autoencoder over one hook point, its matrices not yet set."""
    columns = columns_of([(hook_point, d_in)])
    return Dictionary(columns, columns, TopK(k, num_latents, dtype), dtype=dtype)


def checked_prefixes(prefixes: tuple[int, ...], num_latents: int) -> tuple[int, ...]:
    """The prefixes, if they ascend from at least 1 to all latents. Raises `ConfigError`."""
    ascend = all(a < b for a, b in pairwise(prefixes))
    if prefixes and not (ascend and prefixes[0] >= 1 and prefixes[-1] == num_latents):
        raise ConfigError(
            f"The prefixes of a Matryoshka dictionary are {list(prefixes)}; wanted numbers of "
            f"latents that ascend from at least 1 to {num_latents}, all of them."
        )
    return prefixes
