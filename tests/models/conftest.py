"""Tiny random models, saved the way users have them: config.json and safetensors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

SPECIAL: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LLAMA: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
} | SPECIAL


def random_model(config: Any) -> nn.Module:
    """A model whose every parameter matters: norms have gains, biases are not zero."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def save(tmp: Path, config: Any, **options: Any) -> Path:
    random_model(config).save_pretrained(tmp, **options)
    return tmp


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("llama"), LlamaConfig(**LLAMA))


@pytest.fixture(scope="session")
def sharded_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same Llama with tied embeddings, in several files."""
    config = LlamaConfig(**LLAMA, tie_word_embeddings=True)
    return save(tmp_path_factory.mktemp("sharded"), config, max_shard_size="40KB")


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = GPT2Config(
        n_layer=3, n_embd=32, n_head=4, vocab_size=128, n_positions=64,
        scale_attn_by_inverse_layer_idx=True, **SPECIAL,
    )  # fmt: skip
    return save(tmp_path_factory.mktemp("gpt2"), config)


@pytest.fixture(scope="session")
def neox_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = GPTNeoXConfig(
        num_hidden_layers=2, hidden_size=32, intermediate_size=64, num_attention_heads=4,
        vocab_size=128, max_position_embeddings=64, **SPECIAL,
    )  # fmt: skip
    return save(tmp_path_factory.mktemp("neox"), config)


@pytest.fixture(scope="session")
def gemma_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Norms after attention and MLP, scaled embeddings, and a window of 4 in even layers."""
    config = Gemma2Config(
        **LLAMA, head_dim=8, sliding_window=4, query_pre_attn_scalar=8, attn_implementation="eager"
    )
    return save(tmp_path_factory.mktemp("gemma"), config)


@pytest.fixture(scope="session")
def folders(
    llama_folder: Path, gpt2_folder: Path, neox_folder: Path, gemma_folder: Path
) -> dict[str, Path]:
    return {
        "llama": llama_folder,
        "gpt2": gpt2_folder,
        "gpt_neox": neox_folder,
        "gemma2": gemma_folder,
    }


@pytest.fixture(scope="session")
def plain() -> Callable[[Path], Any]:
    """A folder's model as transformers itself loads it: what ours is compared with."""

    @functools.cache
    def load(folder: Path) -> Any:
        attention = "eager" if "gemma" in folder.name else "sdpa"
        return AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation=attention
        ).eval()

    return load


@pytest.fixture(scope="session")
def ids() -> Tensor:
    """Two rows of nine tokens [2, 9]."""
    return torch.randint(3, 128, (2, 9), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE of 300 tokens with `<|endoftext|>`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_start|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the deep sea is deep", "the light of the sea"] * 4, trainer)
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", bos_token="<|im_start|>"
    ).save_pretrained(folder)
    return folder
