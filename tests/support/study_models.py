"""Small random models for studies: decoders, and a convolutional network of every kind of map."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

from bathyscope.models.build import build_model

SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "vocab_size": 64, "max_position_embeddings": 32,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


def llama(**changes: Any) -> Any:
    return randomised(hf.LlamaConfig(**SIZES | {"num_key_value_heads": 2} | changes))


def gpt2(**changes: Any) -> Any:
    settings: dict[str, Any] = {
        "n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 32, "vocab_size": 64,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    return randomised(hf.GPT2Config(**settings | changes))


def randomised(config: Any) -> Any:
    """A model whose every parameter matters: norms have gains, biases are not zero."""
    torch.manual_seed(0)
    model: Any = build_model(config, dtype=torch.float32, attention="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


class Convolutions(nn.Module):
    """Plain, grouped, depthwise and pointwise convolutions with a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(8, 12, (3, 1), padding="same", groups=4, dilation=2)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12, padding_mode="reflect")
        self.pointwise = nn.Conv2d(12, 6, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        for convolution in (self.plain, self.grouped, self.depthwise, self.pointwise):
            x = convolution(x).relu()
        pooled: Tensor = self.head(x.mean((2, 3)))
        return pooled


def convolutions() -> Convolutions:
    torch.manual_seed(0)
    return Convolutions().eval().requires_grad_(False)


def token_batches(count: int = 3, rows: int = 2, positions: int = 12) -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randint(3, 64, (rows, positions), generator=draw) for _ in range(count)]


def image_batches(count: int = 2, rows: int = 3, size: int = 9) -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(rows, 3, size, size, generator=draw) for _ in range(count)]
