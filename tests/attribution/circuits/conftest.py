"""A linear model whose latents are its coordinates, so that every number is known by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bathyscope.attribution.nodes import Pairs
from bathyscope.dictionaries.dictionary import Dictionary
from bathyscope.dictionaries.kinds import make_dictionary
from bathyscope.dictionaries.layout import columns_of
from double_decoders import make_model


class Chain(nn.Module):
    """out = b(a(x)) + a(x): site b lies between site a and the output, and a passes it too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Linear(2, 2, bias=False).double() for _ in range(2))
        self.a.weight.data = torch.eye(2).double()
        self.b.weight.data = torch.tensor([[1.0, 2.0], [0.0, 3.0]]).double()

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        return self.b(a) + a  # type: ignore[no-any-return]


def coordinates(place: str) -> Dictionary:
    """Latent i is coordinate i where it is positive."""
    columns = columns_of([(place, 2)])
    made = make_dictionary(
        "autoencoder", columns, columns, activation="relu", k=2, num_latents=2,
        dtype=torch.float64, subtracts_b_dec=False,
    )  # fmt: skip
    for name, parameter in made.named_parameters():
        parameter.data = torch.eye(2).double() if name.startswith("W") else torch.zeros(2).double()
    assert isinstance(made, Dictionary)
    return made.eval().requires_grad_(False)


@pytest.fixture
def chain() -> tuple[Chain, Pairs, list[Dictionary]]:
    """One pair of one position: x = (1, 2) and x' = (3, 1)."""
    x, other = torch.tensor([[[1.0, 2.0]]]).double(), torch.tensor([[[3.0, 1.0]]]).double()
    pairs = Pairs(x, other, torch.ones(1, 1, dtype=torch.bool), torch.tensor([0]))
    return Chain().eval(), pairs, [coordinates("b"), coordinates("a")]


def first_coordinate(logits: Tensor) -> Tensor:
    """The first output at the last position."""
    return logits[:, -1, 0]


@pytest.fixture
def metric() -> Callable[[Tensor], Tensor]:
    return first_coordinate


@pytest.fixture(scope="session")
def llama() -> Any:
    return make_model("llama")


@pytest.fixture(scope="session")
def token_pairs() -> Pairs:
    """Three pairs of eight tokens that differ in one."""
    generator = torch.Generator().manual_seed(1)
    clean = torch.randint(3, 64, (3, 8), generator=generator)
    corrupted = clean.clone()
    corrupted[:, 3] = (clean[:, 3] + 7) % 61 + 3
    return Pairs.of_tokens(clean.tolist(), corrupted.tolist(), answers=[5, 6, 7], wrong=[8, 9, 10])


def random_dictionary(kind: str, read: str, written: str, activation: str = "topk") -> Dictionary:
    columns = columns_of([(read, 32)]), columns_of([(written, 32)])
    made = make_dictionary(
        kind, *columns, activation=activation, k=4, num_latents=24, dtype=torch.float64
    )
    torch.manual_seed(3)
    for parameter in made.parameters():
        parameter.data.normal_().mul_(0.3)
    assert isinstance(made, Dictionary)
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def dictionaries() -> list[Dictionary]:
    """An autoencoder, a transcoder and one with a skip, in three layers."""
    return [
        random_dictionary("skip_transcoder", "mlp_in.2", "mlp_out.2"),
        random_dictionary("autoencoder", "resid_post.0", "resid_post.0"),
        random_dictionary("transcoder", "mlp_in.1", "mlp_out.1", "relu"),
    ]
