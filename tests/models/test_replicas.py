"""How models lie on GPUs that are not there: by hand, and beside what loading does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from bathyscope.models.footprint import Footprint, footprint
from bathyscope.models.load import load_model, read_config
from bathyscope.models.replicas import (
    ACCELERATE,
    PIPELINE,
    Gpus,
    ReplicaShape,
    shape_of_replica,
    smallest_replica,
    working_bytes,
)

H100 = Gpus(nodes=8, per_node=8, num_bytes=80e9, reserved_bytes=4e9)


def llama(hidden: int, inner: int, layers: int, heads: int) -> Any:
    return hf.LlamaConfig(
        vocab_size=128_256, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=8, tie_word_embeddings=False,
    )  # fmt: skip


def smallest(kind: str, config: Any, gpus: Gpus = H100) -> ReplicaShape | None:
    return smallest_replica(kind, config, footprint(config), gpus, working_bytes=10**9)


@pytest.mark.parametrize("kind", [ACCELERATE, PIPELINE])
def test_8b_lies_on_one_gpu(kind: str) -> None:
    shape = smallest(kind, llama(4096, 14_336, 32, 32))
    assert shape is not None
    assert (shape.kind, shape.gpus, shape.blocks, shape.balance) == (kind, 1, (32,), 1.0)
    # 32 blocks and the embedding, in bfloat16.
    assert shape.weight_bytes == (2 * (32 * 218_112_000 + 128_256 * 4096),)


@pytest.mark.parametrize("kind", [ACCELERATE, PIPELINE])
def test_70b_lies_on_two(kind: str) -> None:
    shape = smallest(kind, llama(8192, 28_672, 80, 64))
    assert shape is not None
    assert shape.gpus == 2
    assert sum(shape.blocks) == 80
    assert shape.largest_bytes <= 76e9
    assert sum(shape.weight_bytes) == 2 * footprint(llama(8192, 28_672, 80, 64)).needed


def test_405b_needs_a_pipeline_over_nodes() -> None:
    config = llama(16_384, 53_248, 126, 128)
    assert smallest(ACCELERATE, config) is None
    shape = smallest(PIPELINE, config)
    assert shape is not None
    # Sixteen use all 64 GPUs; twelve would fit too, and leave four of them without work.
    assert (shape.gpus, sum(shape.blocks), max(shape.blocks)) == (16, 126, 8)
    assert shape.balance == pytest.approx(126 / (16 * 8))


def test_accelerate_holds_405b_on_a_node_of_larger_gpus() -> None:
    shape = smallest(ACCELERATE, llama(16_384, 53_248, 126, 128), Gpus(1, 8, 141e9, 4e9))
    assert shape is not None
    assert shape.gpus == 8
    assert shape.largest_bytes <= 137e9


def test_nothing_fits_without_room_or_with_one_block_too_large() -> None:
    config = llama(4096, 14_336, 32, 32)
    assert smallest(PIPELINE, config, Gpus(1, 8, 5e9, 4e9)) is None
    # A block is 436 MB, so it is one that does not fit.
    assert smallest(PIPELINE, config, Gpus(8, 8, 5.4e9, 4e9)) is None
    assert smallest(ACCELERATE, config, Gpus(1, 8, 5.4e9, 4e9)) is None


def test_groups_of_gpus() -> None:
    assert H100.total == 64
    assert [H100.groups(size, ACCELERATE) for size in (1, 2, 3, 8, 9)] == [64, 32, 16, 8, 0]
    assert [H100.groups(size, PIPELINE) for size in (3, 12, 16, 65)] == [16, 5, 4, 0]


def test_balance_by_hand() -> None:
    assert ReplicaShape(PIPELINE, (1, 2, 3), (0, 0, 0), 0).balance == pytest.approx(2 / 3)


def test_more_stages_than_blocks_are_none() -> None:
    needs = Footprint(100, 10, (20, 20), (20, 20), attention_width=0)
    config: Any = None
    found = shape_of_replica(PIPELINE, config, needs, gpus=3, room=1e9, working_bytes=0)
    assert found is None
    two = shape_of_replica(PIPELINE, config, needs, gpus=2, room=1e9, working_bytes=0)
    assert two is not None
    # The embedding is on the first.
    assert (two.blocks, two.weight_bytes) == ((1, 1), (60, 40))


def test_working_memory_by_hand() -> None:
    config = llama(8, 32, 2, 2)
    assert working_bytes(config, tokens=10, hook_points=2) == 2 * 10 * (6 * 8 + 3 * 32 + 4 * 2 * 8)
    moe = hf.Qwen3MoeConfig(hidden_size=8, moe_intermediate_size=4, num_experts_per_tok=3)
    assert working_bytes(moe, tokens=1, hook_points=0) == 2 * (6 * 8 + 3 * 3 * 4)


def test_every_family_lies_where_loading_puts_it(folders: dict[str, Path]) -> None:
    """The planned bytes against those of the loaded model, within 10 %, block by block."""
    for name, folder in folders.items():
        config = read_config(folder)
        needs = footprint(config)
        shape = shape_of_replica(ACCELERATE, config, needs, gpus=1, room=1e9, working_bytes=0)
        assert shape is not None, name
        attention = "eager" if config.model_type == "gemma2" else "sdpa"
        loaded = load_model(
            folder, dtype=torch.bfloat16, layers=(0, len(needs.blocks)), head=False,
            attention=attention,
        )  # fmt: skip
        held = sum(p.numel() * p.element_size() for p in loaded.model.parameters())
        assert shape.weight_bytes[0] == pytest.approx(held, rel=0.1), name
        assert shape.blocks == (len(needs.blocks),)


def test_a_model_whose_head_holds_its_output_embeddings_lies_on_gpus_too() -> None:
    config = hf.BertConfig()
    needs = footprint(config)
    shape = shape_of_replica(ACCELERATE, config, needs, gpus=2, room=1e9, working_bytes=0)
    assert shape is not None
    assert sum(shape.blocks) == 12
    assert sum(shape.weight_bytes) == 2 * needs.needed


def test_bytes_are_those_of_the_dtype() -> None:
    config = hf.BertConfig()
    needs = footprint(config)
    for kind in (ACCELERATE, PIPELINE):
        shape = shape_of_replica(
            kind, config, needs, gpus=2, room=1e9, working_bytes=0, dtype=torch.float32
        )
        assert shape is not None
        assert sum(shape.weight_bytes) == 4 * needs.needed
