"""What the values of a configuration may be, checked before anything is computed."""

from __future__ import annotations

import math
from typing import Any

from bathyscope.config import Config
from bathyscope.errors import ConfigError

_FILE_KINDS = ("jsonl", "parquet", "chat", "tokens_bin")
_ADDED_KINDS = ("linux_doc", "nlp_corpus")
_TEXT_KINDS = ("documentation", "hf", *_ADDED_KINDS, *_FILE_KINDS)
_IMAGE_KINDS = ("images", "tar", "arrays")
_DICTIONARIES = (
    "autoencoder",
    "transcoder",
    "skip_transcoder",
    "crosscoder",
    "cross_layer_transcoder",
)
_LADDER_FAMILIES = ("gpt2", "llama")
_ACTIVATIONS = ("topk", "batch_topk", "jumprelu", "relu", "gated")


def validate(config: Config, *, planned: bool = False) -> None:
    """Check every rule that joins settings. Raises `ConfigError` that says which to change.

    What is only `planned` needs no commit of a hub's repository where the dimensions are given.
    """
    _one_of("model.kind", config.model.kind, ("smollm2_135m", "folder", "hub", "module"))
    _one_of("model.dtype", config.model.dtype, ("auto", "bfloat16", "float16", "float32"))
    _one_of("model.attention", config.model.attention, ("sdpa", "eager"))
    _one_of("data.kind", config.data.kind, (*_TEXT_KINDS, *_IMAGE_KINDS))
    _one_of("data.token_dtype", config.data.token_dtype, ("uint16", "uint32", "int32"))
    _one_of("dictionary.kind", config.dictionary.kind, _DICTIONARIES)
    _one_of("dictionary.activation", config.dictionary.activation, _ACTIVATIONS)
    _one_of("train.decoder_norm", config.train.decoder_norm, ("unit", "free"))
    _one_of("logging.kind", config.logging.kind, ("tensorboard", "wandb", "none"))
    _one_of("logging.mode", config.logging.mode, ("online", "offline"))
    _one_of("fine_tune.loss", config.fine_tune.loss, ("kl", "ce"))
    _one_of("store.codec", config.store.codec, ("none", "zstd_bitshuffle", "int8", "fp8"))
    _one_of("ladder.dtype", config.ladder.dtype, ("float32", "bfloat16"))
    _one_of("cluster.kind", config.cluster.kind, ("inline", "local", "address"))
    _one_of("cluster.replica", config.cluster.replica, ("accelerate", "pipeline"))
    _needed(config, planned=planned)
    _positive(config)
    _not_negative(config)
    _hook(config)
    _hardware(config)
    _pipeline(config, planned=planned)
    _images(config)
    _processes(config)
    _stream(config)
    _added_text(config)
    _ladder(config)
    _revival(config)
    if not 0 < config.data.held_out_share < 1:
        raise ConfigError(
            f"data.held_out_share is {config.data.held_out_share}. A share between 0 and 1 is "
            "wanted: every figure is reported on held-out documents."
        )
    if not 0 <= config.fine_tune.reconstruction_share < 1:
        raise ConfigError(
            f"fine_tune.reconstruction_share is {config.fine_tune.reconstruction_share}. A share "
            "from 0 (the model's loss alone) to below 1 (ordinary training) is wanted."
        )
    if not 0 <= config.verify.share <= 1:
        raise ConfigError(
            f"verify.share is {config.verify.share}. A share from 0 (sizes and receipts only) to 1 "
            "(every byte) is wanted."
        )
    if not 0 <= config.cluster.audit <= 1:
        raise ConfigError(
            f"cluster.audit is {config.cluster.audit}. A share from 0 (none) to 1 (every unit is "
            "done twice) is wanted."
        )
    if config.cluster.min_workers > config.cluster.workers:
        raise ConfigError(
            f"cluster.min_workers is {config.cluster.min_workers}, but cluster.workers is "
            f"{config.cluster.workers}. Ask for more workers, or for fewer at least."
        )
    if config.data.sequence_length < 3:
        raise ConfigError(
            f"data.sequence_length is {config.data.sequence_length}. At least 3 is wanted: "
            "position 0 is left out and the last position has no target."
        )
    if config.train.warmup_share + config.train.decay_share > 1:
        raise ConfigError(
            "train.warmup_share and train.decay_share add up to more than 1. Make one smaller."
        )


def _revival(config: Config) -> None:
    if any(step < 1 for step in config.train.resample_steps):
        raise ConfigError(
            f"train.resample_steps are {list(config.train.resample_steps)}. Numbers of steps from "
            "1 on are wanted, after which dead latents start anew."
        )
    weight, activation = config.train.preact_weight, config.dictionary.activation
    if weight and activation != "jumprelu":
        raise ConfigError(
            f"train.preact_weight is {weight}, and latents of {activation} have no thresholds of "
            "their own. Set it to 0, or choose dictionary.activation=jumprelu."
        )


def _one_of(name: str, got: str, allowed: tuple[str, ...]) -> None:
    if got not in allowed:
        raise ConfigError(f"{name} is {got!r}. One of {', '.join(allowed)} is wanted.")


def _needed(config: Config, *, planned: bool) -> None:
    from_hub = config.model.kind == "hub" and not (planned and config.model.architecture)
    for name, wanted, value in (
        ("model.path", config.model.kind == "folder", config.model.path),
        ("model.repo", config.model.kind == "hub", config.model.repo),
        ("model.revision", from_hub, config.model.revision),
        ("model.factory", config.model.kind == "module", config.model.factory),
        ("model.weights", config.model.kind == "module", config.model.weights),
        ("data.paths", config.data.kind in (*_FILE_KINDS, *_IMAGE_KINDS), config.data.paths),
        ("data.dataset", config.data.kind == "hf", config.data.dataset),
        ("cluster.address", config.cluster.kind == "address", config.cluster.address),
        ("hooks.points", True, config.hooks.points),
        ("url", True, config.url),
    ):
        if wanted and not value:
            raise ConfigError(f"{name} is not set, but this configuration needs it.")


def _positive(config: Config) -> None:
    for name in (
        "data.image_size",
        "hooks.batch_items",
        "hooks.writers",
        "dictionary.k",
        "dictionary.expansion",
        "dictionary.group_rows",
        "dictionary.bandwidth",
        "train.epochs",
        "train.batch_rows",
        "train.lr",
        "train.dead_after_epochs",
        "train.log_every",
        "train.processes",
        "train.latent_parallel",
        "train.timeout_s",
        "sweep.together",
        "logging.flush_s",
        "fine_tune.tokens",
        "fine_tune.batch_items",
        "fine_tune.lr",
        "store.unit_tokens",
        "store.min_units",
        "store.chunk_bytes",
        "store.shard_bytes",
        "store.streams",
        "store.window_chunks",
        "store.lease_s",
        "ladder.tokens",
        "ladder.most_epochs",
        "ladder.batch_items",
        "ladder.lr",
        "ladder.evaluations",
        "ladder.watched_tokens",
        "ladder.checkpoints",
        "ladder.state_steps",
        "ladder.tokenizer_chars",
        "cluster.workers",
        "cluster.min_workers",
        "cluster.straggler_factor",
        "cluster.straggler_least_s",
        "cluster.start_s",
        "hardware.nodes",
        "evaluate.control_components",
        "evaluate.batch_items",
        "evaluate.resamples",
        "describe.top_examples",
        "describe.sampled_examples",
        "describe.bands",
        "describe.promoted_tokens",
        "verify.threads",
    ):
        value = _value(config, name)
        # NaN compares false with everything, so the accepted range is what is asked for.
        if not 0 < value < math.inf:
            raise ConfigError(f"{name} is {value}. A number above 0 is wanted.")


def _not_negative(config: Config) -> None:
    for name in (
        "data.min_chars",
        "data.train_tokens",
        "data.held_out_tokens",
        "data.train_images",
        "data.held_out_images",
        "data.crops",
        "data.seed",
        "hooks.ring_bytes",
        "dictionary.num_latents",
        "train.warmup_share",
        "train.decay_share",
        "train.calibration_rows",
        "train.auxk_weight",
        "train.preact_weight",
        "train.l0_weight",
        "train.l1_weight",
        "train.clip_norm",
        "train.checkpoint_steps",
        "train.seed",
        "train.order_seed",
        "ladder.lr_power",
        "ladder.warmup_share",
        "ladder.decay_share",
        "ladder.weight_decay",
        "ladder.clip_norm",
        "ladder.patience",
        "fine_tune.seed",
        "store.items_per_unit",
        "store.memory_bytes",
        "store.limit_bytes",
        "store.stream_units",
        "cluster.threads",
        "cluster.gpus_per_worker",
        "cluster.stages",
        "cluster.max_failures",
        "cluster.drain_s",
        "hardware.gpus_per_node",
        "hardware.gpu_bytes",
        "hardware.gpu_reserved_bytes",
        "hardware.gpu_flops",
        "hardware.write_bytes_per_s",
        "evaluate.splice_tokens",
        "evaluate.train_splice_tokens",
        "evaluate.seed",
        "describe.examples_per_band",
        "describe.window_before",
        "describe.window_after",
        "describe.seed",
        "verify.seed",
    ):
        value = _value(config, name)
        if value is not None and not 0 <= value < math.inf:
            raise ConfigError(f"{name} is {value}. 0 or a number above it is wanted.")


def _value(config: Config, name: str) -> Any:
    group, _, setting = name.partition(".")
    value: Any = getattr(getattr(config, group), setting)
    return value


def _hook(config: Config) -> None:
    points, chosen = config.hooks.points, config.dictionary
    if chosen.hook is not None and chosen.inputs:
        raise ConfigError(
            f"dictionary.hook is {chosen.hook!r} and dictionary.inputs are {chosen.inputs}. Set "
            "one of them: hook where the dictionary reads one hook point."
        )
    named = [chosen.hook] if chosen.hook is not None else chosen.inputs
    for setting, names in (
        ("hook" if chosen.hook else "inputs", named),
        ("outputs", chosen.outputs),
    ):
        for name in names:
            if name not in points:
                raise ConfigError(
                    f"dictionary.{setting} has {name!r}, but hooks.points are {points}. Add it "
                    "there, or choose one of them."
                )
        if len(set(names)) < len(names):
            raise ConfigError(f"dictionary.{setting} are {names}: name each hook point once.")
    if not named and len(points) > 1:
        raise ConfigError(
            f"hooks.points are {points}: say which of them the dictionary reads with "
            "dictionary.hook, or with dictionary.inputs."
        )


def _processes(config: Config) -> None:
    processes, latents = config.train.processes, config.train.latent_parallel
    if processes % latents:
        raise ConfigError(
            f"train.processes is {processes} and train.latent_parallel is {latents}. Processes "
            "come in whole sets that hold all latents together: wanted a multiple."
        )
    if processes > 1 and config.cluster.kind == "inline":
        raise ConfigError(
            f"train.processes is {processes}, but cluster.kind is inline: this process alone. "
            "Choose cluster=local or cluster=address."
        )
    if config.train.batch_rows % (processes // latents):
        raise ConfigError(
            f"train.batch_rows is {config.train.batch_rows}, which {processes // latents} "
            "processes cannot split evenly. Choose a multiple."
        )


def _stream(config: Config) -> None:
    if config.store.limit_bytes and config.train.epochs != 1:
        raise ConfigError(
            f"store.limit_bytes is {config.store.limit_bytes} and train.epochs is "
            f"{config.train.epochs}. What a stream has passed is deleted: wanted train.epochs=1, "
            "and more data.train_tokens instead."
        )


def _hardware(config: Config) -> None:
    stated = config.hardware
    if stated.gpus_per_node and not stated.gpu_bytes:
        raise ConfigError(
            f"hardware.gpus_per_node is {stated.gpus_per_node}, but hardware.gpu_bytes is not set. "
            "Give the memory of a GPU in bytes, or leave both to this machine."
        )
    if stated.gpu_bytes and stated.gpu_bytes <= stated.gpu_reserved_bytes:
        raise ConfigError(
            f"hardware.gpu_bytes is {stated.gpu_bytes:g}, and hardware.gpu_reserved_bytes, which "
            f"is kept free of it, is {stated.gpu_reserved_bytes:g}. Give bytes, such as 80e9."
        )


def _pipeline(config: Config, *, planned: bool) -> None:
    cluster = config.cluster
    if cluster.replica != "pipeline":
        return
    if config.model.offload_folder is not None or "cpu" in config.model.max_memory:
        raise ConfigError(
            "cluster.replica is pipeline, and weights may go to the CPU or to a folder. Several "
            "batches are under way in a pipeline, and moving weights under them is not safe: leave "
            "model.offload_folder and model.max_memory.cpu out, or take cluster.replica=accelerate."
        )
    if planned:
        return
    if cluster.kind == "inline":
        raise ConfigError(
            "cluster.replica is pipeline, which takes several processes, and cluster.kind is "
            "inline. Take cluster=local or cluster=address, or cluster.replica=accelerate."
        )
    if not cluster.stages and not cluster.gpus_per_worker:
        raise ConfigError(
            "cluster.replica is pipeline, but neither cluster.gpus_per_worker nor cluster.stages "
            "is set. Give the GPUs of a replica, or on CPUs the number of its processes."
        )
    if cluster.stages and cluster.gpus_per_worker % cluster.stages:
        raise ConfigError(
            f"cluster.gpus_per_worker is {cluster.gpus_per_worker}, which cannot be spread over "
            f"cluster.stages, {cluster.stages}. Choose a multiple of it."
        )


def _images(config: Config) -> None:
    for name, values in (
        ("model.image_mean", config.model.image_mean),
        ("model.image_std", config.model.image_std),
    ):
        if len(values) != 3 or (name.endswith("std") and min(values) <= 0):
            raise ConfigError(
                f"{name} is {values}. Three numbers are wanted, of red, green and blue, and "
                "deviations above 0."
            )
    extra = set(config.hooks.channels_last) - set(config.hooks.points)
    if extra:
        raise ConfigError(
            f"hooks.channels_last names {', '.join(sorted(extra))}, which hooks.points do not."
        )
    if config.model.kind == "module" and config.data.kind not in _IMAGE_KINDS:
        raise ConfigError(
            f"model.kind is module, which has no tokenizer, and data.kind is {config.data.kind}. "
            f"Show it pictures: data={', data='.join(_IMAGE_KINDS)}."
        )
    if config.cluster.replica == "pipeline" and config.data.kind in _IMAGE_KINDS:
        raise ConfigError(
            "cluster.replica is pipeline, which passes on hidden states of token sequences, and "
            f"data.kind is {config.data.kind}. Take cluster.replica=accelerate."
        )


def _added_text(config: Config) -> None:
    data = config.data
    for kind in data.also:
        _one_of("data.also", kind, _ADDED_KINDS)
    kinds = [data.kind, *data.also]
    if len(set(kinds)) < len(kinds):
        raise ConfigError(
            f"data.kind is {data.kind} and data.also is {list(data.also)}. Name each corpus once."
        )
    if data.also and data.kind in ("tokens_bin", *_IMAGE_KINDS):
        raise ConfigError(
            f"data.also adds text, and data.kind is {data.kind}, which has none. Leave data.also "
            "empty, or choose a kind of text."
        )


def _ladder(config: Config) -> None:
    ladder = config.ladder
    if "mamba" in ladder.families:
        raise ConfigError(
            "ladder.families has 'mamba'. Its scan runs in transformers as a loop over positions "
            "unless CUDA kernels of another package are there: 520 tokens/s of 0.07 M parameters "
            f"on a core where llama makes 35,000. Families are {', '.join(_LADDER_FAMILIES)}."
        )
    for family in ladder.families:
        _one_of("ladder.families", family, _LADDER_FAMILIES)
    if ladder.vocabulary <= 256:
        raise ConfigError(
            f"ladder.vocabulary is {ladder.vocabulary}. More than 256 is wanted: every byte is a "
            "token, and one more parts documents."
        )
    if ladder.warmup_share + ladder.decay_share > 1:
        raise ConfigError(
            "ladder.warmup_share and ladder.decay_share add up to more than 1. Make one smaller."
        )
