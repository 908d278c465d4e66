"""Sizes from configs alone, against the published totals and against models that are loaded."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from bathyscope.errors import ModelError
from bathyscope.models.footprint import Footprint, footprint, split
from bathyscope.models.load import load_model
from bathyscope.models.placement import size_bytes


def llama(hidden: int, inner: int, layers: int, heads: int, **settings: Any) -> Any:
    return hf.LlamaConfig(
        vocab_size=128_256, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=8, tie_word_embeddings=False, **settings,
    )  # fmt: skip


def mixtral() -> Any:
    return hf.MixtralConfig(
        vocab_size=32_000, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, num_local_experts=8, num_experts_per_tok=2,
        tie_word_embeddings=False,
    )  # fmt: skip


LLAMA_405B = llama(16_384, 53_248, 126, 128)
PUBLISHED = {
    "Llama-3.1-8B": (llama(4096, 14_336, 32, 32), 8_030_261_248),
    "Llama-3.1-70B": (llama(8192, 28_672, 80, 64), 70_553_706_496),
    "Llama-3.1-405B": (LLAMA_405B, 405_853_388_800),
    "Mixtral-8x7B": (mixtral(), 46_702_792_704),
    "Pythia-70m": (
        hf.GPTNeoXConfig(
            vocab_size=50_304, hidden_size=512, intermediate_size=2048, num_hidden_layers=6,
            num_attention_heads=8, tie_word_embeddings=False,
        ),
        70_426_624,
    ),
    "Qwen3-8B": (
        hf.Qwen3Config(
            vocab_size=151_936, hidden_size=4096, intermediate_size=12_288, num_hidden_layers=36,
            num_attention_heads=32, num_key_value_heads=8, head_dim=128,
            tie_word_embeddings=False,
        ),
        8_190_735_360,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_totals_are_the_published_ones(name: str) -> None:
    config, published = PUBLISHED[name]
    started = time.monotonic()
    assert footprint(config).total == published
    assert time.monotonic() - started < 20, "nothing is allocated"


def test_what_is_not_needed_is_not_counted() -> None:
    whole, half = footprint(LLAMA_405B), footprint(LLAMA_405B, 63)
    embedding = 128_256 * 16_384
    assert whole.before_blocks == embedding
    # Head and final norm are never loaded.
    assert whole.needed == whole.total - embedding - 16_384
    assert half.needed == embedding + 63 * whole.blocks[0]


def test_a_token_goes_through_two_of_eight_experts() -> None:
    found = footprint(mixtral())
    experts = 8 * 3 * 4096 * 14_336
    assert found.blocks[0] - found.active_blocks[0] == experts * 6 // 8
    # The model is known as one of 12.9 billion active parameters, embeddings and head included.
    embeddings = 2 * 32_000 * 4096
    assert sum(found.active_blocks) + embeddings == pytest.approx(12.9e9, rel=0.01)


def test_operations_per_token_by_hand() -> None:
    found = Footprint(0, 1000, (10, 20), (10, 20), attention_width=8)
    assert found.flops_per_token(5) == 2 * 30 + 4 * 5 * 8 * 2


def test_two_billion_tokens_of_405b_at_full_depth() -> None:
    # 17.6 h on 64 GPUs at 400 TFLOP/s, for all weights and without attention.
    found = footprint(LLAMA_405B)
    hours = 2 * found.total * 2e9 / (64 * 400e12) / 3600
    assert hours == pytest.approx(17.6, abs=0.05)
    # The embedding is looked up, the head is not run, and attention over 256 positions is added.
    exact = found.flops_per_token(256) * 2e9 / (64 * 400e12) / 3600
    assert exact == pytest.approx(hours, rel=0.02)


@pytest.mark.parametrize("blocks", [1, 3])
def test_bytes_are_those_of_the_model_that_is_loaded(blocks: int, folders: dict[str, Path]) -> None:
    for folder in folders.values():
        config = hf.AutoConfig.from_pretrained(folder)
        if blocks > config.num_hidden_layers:
            continue
        attention = "eager" if config.model_type == "gemma2" else "sdpa"
        loaded = load_model(
            folder, dtype=torch.float32, layers=(0, blocks), head=False, attention=attention
        )
        # Buffers are there besides: rotary tables.
        assert size_bytes(loaded.model) == pytest.approx(
            4 * footprint(config, blocks).needed, rel=0.1
        )


def test_devices_are_filled_in_order() -> None:
    assert split([4, 4, 4, 4], first=2, room=10) == [2, 2]
    assert split([4, 4, 4], first=6, room=10) == [1, 2]
    assert split([4, 4, 4], first=8, room=10) == [0, 2, 1]
    assert split([4], first=0, room=4) == [1]
    assert split([], first=3, room=4) == [0]
    assert split([11], first=0, room=10) is None
    assert split([1], first=11, room=10) is None


def test_405b_needs_sixteen_devices_of_eighty_gigabytes() -> None:
    found = footprint(LLAMA_405B)
    sizes = [2.0 * n for n in found.blocks]
    devices = split(sizes, first=2.0 * found.before_blocks, room=80e9 - 12e9)
    assert devices is not None
    # 812 GB over 68 GB: twelve at least, and whole blocks only; one node of eight is too few.
    assert 12 <= len(devices) <= 16
    assert sum(devices) == 126


def test_models_of_no_family_and_blocks_beyond_the_last_are_refused() -> None:
    with pytest.raises(ModelError, match="'t5' cannot be planned"):
        footprint(hf.T5Config())
    with pytest.raises(ModelError, match=r"127 blocks are asked for, but the model has 126"):
        footprint(LLAMA_405B, 127)
