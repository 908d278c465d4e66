"""A tiny real path for everybody: model, tokenizer and text, made once per session."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

# One thread before torch is imported: many small matmuls, and results that do not depend on load.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's metrics agent and usage reports are of no use to a test.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Without a GPU Triton kernels run in its interpreter, which Triton decides when it is imported.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

import bathyscope
from bathyscope.commands.run import run as run_stages
from bathyscope.config import Config
from bathyscope.corpora.documentation import documentation
from bathyscope.runs.run import Run
from support import changed

JOBS = Path(__file__).parent / "jobs"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several workers a file stays on one: its fixtures are made once.

    All that starts clusters stays on one too: their timeouts are not made for two at a time.
    """
    for item in items:
        group = "jobs" if JOBS in item.path.parents else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


END_OF_TEXT = "<|endoftext|>"


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def texts(cache_folder: Path) -> list[str]:
    """Real prose: the language reference that comes with Python."""
    return [d.text for d in documentation(["topics"], cache_folder=cache_folder)]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    """A random Llama of 4 layers and width 32, with a tokenizer trained on the text."""
    folder = tmp_path_factory.mktemp("tiny_model")
    _train_tokenizer(texts).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        bos_token_id=0, eos_token_id=0, tie_word_embeddings=True,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def broken_model(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The tiny model with one NaN in layer 1."""
    folder = tmp_path_factory.mktemp("broken_model")
    for file in tiny_model.iterdir():
        if file.is_file() and not file.name.startswith("."):
            (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][3, 5] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    """The text as JSON lines, in pieces of a few hundred words."""
    path = tmp_path_factory.mktemp("text") / "topics.jsonl"
    pieces = [text[i : i + 1500] for text in texts for i in range(0, len(text), 1500)]
    lines = (json.dumps({"id": f"piece-{i}", "text": t}) for i, t in enumerate(pieces[:120]))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_config(tiny_model: Path, tiny_text: Path, cache_folder: Path) -> Callable[..., Config]:
    """A configuration of the whole path that runs in seconds: `tiny_config(url, train__lr=…)`."""

    def make(url: Path | str, **settings: Any) -> Config:
        config = Config(url=str(url), cache=str(cache_folder))
        defaults: dict[str, Any] = {
            # Not `auto`: expected values must not depend on the instruction set of the machine.
            "model__kind": "folder", "model__path": str(tiny_model), "model__dtype": "float32",
            "data__kind": "jsonl", "data__paths": [str(tiny_text)], "data__id_key": "id",
            "data__train_tokens": 9000, "data__held_out_tokens": 2000,
            "data__sequence_length": 32, "data__held_out_share": 0.25,
            "hooks__points": ["resid_post.1"], "hooks__batch_items": 4,
            "dictionary__num_latents": 64, "dictionary__k": 4,
            "train__epochs": 2, "train__batch_rows": 256, "train__lr": 3e-3,
            "store__chunk_bytes": 4096, "store__streams": 4, "store__window_chunks": 4,
            "cluster__kind": "inline", "cluster__threads": 1,
            "evaluate__splice_tokens": 600, "evaluate__train_splice_tokens": 300,
            "evaluate__control_components": 4,
            "evaluate__resamples": 50,
            "describe__top_examples": 3, "describe__sampled_examples": 8,
            "describe__promoted_tokens": 3,
        }  # fmt: skip
        return changed(config, **{**defaults, **settings})

    return make


@pytest.fixture(scope="session")
def finished_config(
    tiny_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory
) -> Config:
    """The configuration of one finished run of the whole path."""
    config = tiny_config(tmp_path_factory.mktemp("runs") / "tiny")
    run_stages(config, resolved=dataclasses.asdict(config))
    return config


@pytest.fixture(scope="session")
def finished(finished_config: Config) -> Run:
    """That run, for reading only."""
    return bathyscope.open(finished_config.url)


def _train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT)
