"""The configuration: dataclasses are the schema, YAML files in `conf/` hold values.

Every field carries a line of help, which `bathyscope <command> --help` prints. What values may be
is in `config_rules`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any


def option(default: Any, help: str) -> Any:
    """A field with a default and a line of help."""
    if isinstance(default, list | dict):
        kind = type(default)
        return field(default_factory=lambda: kind(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass
class ModelConfig:
    """Which model is looked into, and how it is loaded."""

    kind: str = option("folder", "where weights come from: smollm2_135m, folder, hub or module")
    path: str | None = option(None, "folder with config.json and safetensors (kind folder)")
    repo: str | None = option(None, "hub repository (kind hub)")
    revision: str | None = option(None, "full commit hash of that repository (kind hub)")
    dtype: str = option(
        "auto", "bfloat16, float16, float32; auto takes bfloat16 where the hardware computes in it"
    )
    attention: str = option("sdpa", "attention kernel: sdpa or eager")
    device_map: str | None = option(
        None, "auto or balanced shards over devices with accelerate; null keeps one device"
    )
    max_memory: dict[str, str] = option(
        {}, "limit per device: +model.max_memory.0=70GiB +model.max_memory.cpu=200GiB"
    )
    offload_folder: str | None = option(None, "folder for weights that fit no device")
    factory: str | None = option(
        None, "package.module:function that builds any torch module (kind module)"
    )
    arguments: dict[str, Any] = option({}, "arguments of that function")
    weights: str | None = option(
        None, "its weights: a file, or package:path inside an installed package (kind module)"
    )
    image_mean: list[float] = option(
        [0.485, 0.456, 0.406], "mean of red, green and blue, of pixels from 0 to 1"
    )
    image_std: list[float] = option([0.229, 0.224, 0.225], "their deviation")
    architecture: dict[str, Any] = option(
        {}, "fields of the Hugging Face config, so that a plan needs neither hub nor checkpoint"
    )


@dataclass
class DataConfig:
    """Which text or images are read, and how they are cut."""

    kind: str = option(
        "documentation",
        "where text or pictures come from: a choice of the group data",
    )
    packages: list[str] = option(
        ["stdlib", "topics", "numpy", "torch"], "installed packages to read docstrings from"
    )
    min_chars: int = option(200, "shortest docstring taken, in characters")
    also: list[str] = option([], "corpora that are added: linux_doc, nlp_corpus")
    linux_doc: str | None = option(
        None, "folder of Debian's linux-doc; null looks in /usr/share/doc"
    )
    nlp_corpus: str | None = option(None, "the .tgz of npm's nlp-corpus, or a folder with it")
    paths: list[str] = option([], "files or globs, of some kinds folders too")
    text_key: str = option("text", "key or column that holds the text (jsonl, parquet, hf)")
    messages_key: str = option("messages", "key that holds the messages (kind chat)")
    id_key: str | None = option(None, "key that names a document (jsonl, parquet, chat)")
    token_dtype: str = option("uint16", "uint16, uint32 or int32 (kind tokens_bin)")
    dataset: str | None = option(None, "Hugging Face dataset (kind hf)")
    dataset_config: str | None = option(None, "configuration of that dataset")
    dataset_split: str = option("train", "split of that dataset")
    dataset_revision: str | None = option(None, "commit hash of that dataset")
    train_tokens: int = option(208_000, "training tokens wanted; 0 takes all there are")
    held_out_tokens: int = option(20_000, "held-out tokens wanted; 0 takes all there are")
    held_out_share: float = option(0.1, "share of documents that are held out")
    sequence_length: int = option(256, "tokens of a sequence")
    train_images: int = option(0, "training images wanted (kinds of images); 0 takes all")
    held_out_images: int = option(0, "held-out images wanted; 0 takes all there are")
    image_size: int = option(224, "pixels of a side of an image")
    crops: int = option(0, "random squares of a picture; 0 takes its middle")
    shuffle: bool = option(True, "seeded order of documents; needs all texts in memory")
    seed: int = option(0, "order of documents and the split")


@dataclass
class HooksConfig:
    """Where activations are taken."""

    points: list[str] = option(["resid_post.9"], "hook points, by alias or module path")
    batch_items: int = option(8, "items of a forward; part of the identity of the result")
    channels_last: list[str] = option([], "hook points that give [batch, height, width, channels]")
    ring_bytes: int = option(
        0, "host memory for rows between model and disk; 0: two shards per hook point"
    )
    writers: int = option(4, "threads that sum, hash and write shards; most of the time they wait")


@dataclass
class DictionaryConfig:
    """The sparse dictionary."""

    name: str = option("main", "its folder in the run; another name keeps both")
    kind: str = option(
        "autoencoder",
        "autoencoder, transcoder, skip_transcoder, crosscoder or cross_layer_transcoder",
    )
    activation: str = option("topk", "topk, batch_topk, jumprelu, relu or gated")
    hook: str | None = option(None, "hook point it reads; null takes the only one")
    inputs: list[str] = option([], "hook points it reads, where they are several; in their order")
    outputs: list[str] = option([], "hook points it writes, where they are others (transcoders)")
    expansion: int = option(8, "latents per input dimension, when num_latents is 0")
    num_latents: int = option(0, "number of latents, of each layer of a CLT; 0: by expansion")
    k: int = option(32, "active latents per row that are wanted, of each layer of a CLT")
    group_rows: int = option(1024, "rows that share k * group_rows active latents (batch_topk)")
    bandwidth: float = option(
        0.5, "band that trains thresholds, in deviations of pre-activations (jumprelu)"
    )
    prefixes: list[float] = option(
        [], "shares of the latents that reconstruct by themselves (Matryoshka), ascending to 1"
    )


@dataclass
class TrainConfig:
    """How the dictionary is trained."""

    epochs: int = option(5, "passes over the training rows")
    batch_rows: int = option(4096, "rows of a step")
    lr: float = option(3e-3, "peak learning rate of Adam")
    warmup_share: float = option(0.05, "share of the steps with a growing learning rate")
    decay_share: float = option(0.3, "share of the steps, at the end, with a falling rate")
    calibration_rows: int = option(
        65_536, "training rows, 5 % at most, that no step sees: thresholds are set on them"
    )
    auxk_weight: float = option(1 / 32, "weight of the AuxK loss; 0 turns it off")
    resample_steps: list[int] = option(
        [], "steps after which dead latents start anew from rows with a high loss"
    )
    preact_weight: float = option(
        0.0, "weight of what dead latents lack to their thresholds (jumprelu), such as 0.01"
    )
    dead_after_epochs: float = option(
        0.5, "a latent is dead after this many epochs of training tokens without firing"
    )
    l0_weight: float = option(1.0, "weight of (L0 / k - 1)^2 (jumprelu)")
    l1_weight: float = option(0.0, "weight of the L1 penalty (relu, gated); 0 lets it follow L0")
    decoder_norm: str = option("unit", "unit: decoder rows have norm 1; free: they are left alone")
    clip_norm: float = option(0.0, "gradients are scaled down to this norm; 0 never does")
    processes: int = option(1, "processes that train together, over a cluster")
    latent_parallel: int = option(1, "how many of them split the latents; the others split rows")
    timeout_s: float = option(600.0, "seconds after which one that does not answer is given up")
    checkpoint_steps: int = option(500, "steps between two checkpoints; 0 keeps none")
    seed: int = option(0, "initial weights")
    order_seed: int = option(0, "order of rows; dictionaries of one order can share their batches")
    log_every: int = option(10, "steps between two points of the training curve")


@dataclass
class LoggingConfig:
    """Where the scalars of a training go while it runs; `curve.parquet` has them in any case."""

    kind: str = option("tensorboard", "tensorboard, wandb (Weights & Biases) or none")
    flush_s: float = option(10.0, "seconds after which events are on the disk (tensorboard)")
    project: str = option("bathyscope", "project of the runs (wandb)")
    entity: str | None = option(None, "user or team (wandb); null takes the default of the account")
    mode: str = option("online", "online, or offline: files that `wandb sync` sends later (wandb)")


@dataclass
class FineTuneConfig:
    """How `bathyscope fine-tune` goes on with a dictionary, its loss through the model."""

    name: str | None = option(None, "name of the result; null adds the loss, as in main_kl")
    loss: str = option(
        "kl", "kl: divergence from what the model predicts itself; ce: cross-entropy of the text"
    )
    tokens: int = option(100_000, "training tokens; more than there are come again")
    batch_items: int = option(8, "sequences of a step")
    lr: float = option(1e-4, "peak learning rate of Adam; it falls to 0")
    reconstruction_share: float = option(
        0.5, "share of the reconstruction in the loss at the start; 0 leaves it to the model"
    )
    seed: int = option(0, "order of sequences")


@dataclass
class StoreConfig:
    """How stores are laid out and read."""

    items_per_unit: int = option(0, "items of a unit of work; 0 aims at unit_tokens")
    unit_tokens: int = option(200_000, "tokens of a unit when items_per_unit is 0")
    min_units: int = option(8, "small runs are cut into at least this many units")
    chunk_bytes: int = option(2 * 2**20, "size of a chunk, the unit of reading")
    shard_bytes: int = option(256 * 2**20, "largest shard, the unit of writing")
    streams: int = option(128, "virtual streams of a shuffled read; fewer with few chunks")
    window_chunks: int = option(16, "chunks of a stream that are shuffled together")
    memory_bytes: int = option(
        2 * 2**30, "training rows that take no more than this are kept in memory; 0 keeps none"
    )
    limit_bytes: int = option(
        0, "activations that are there at once, for `bathyscope stream`; 0 keeps all"
    )
    stream_units: int = option(
        0, "units whose rows are shuffled together in a stream; 0 takes half of limit_bytes"
    )
    codec: str = option(
        "none", "activations on disk: none, zstd_bitshuffle (loses nothing), int8 or fp8 (half)"
    )
    fsync: bool = option(True, "shards are on the local disk before their receipt is written")
    lease_s: float = option(600.0, "seconds after which a silent worker loses its unit")


@dataclass
class ClusterConfig:
    """Where units are run."""

    kind: str = option("local", "inline (this process), local (Ray here) or address (a cluster)")
    address: str | None = option(None, "address of a running Ray cluster (kind address)")
    workers: int = option(1, "worker processes wanted; the first one that is ready begins")
    min_workers: int = option(1, "the run stops when failures leave fewer worker slots")
    threads: int = option(0, "CPU threads of a worker; 0 takes all cores, split over workers")
    gpus_per_worker: int = option(0, "GPUs of a worker; a plan chooses where it is 0")
    replica: str = option(
        "accelerate", "accelerate (one process, on one node) or pipeline (several, also over nodes)"
    )
    stages: int = option(
        0, "processes of a pipeline, over which its GPUs are spread; 0: one for each GPU"
    )
    object_store_bytes: int = option(100 * 2**20, "Ray's shared memory (kind local)")
    max_failures: int = option(
        3, "failures of one unit, and deaths in a row in one worker slot, that are survived"
    )
    straggler_factor: float = option(
        4.0, "a unit that takes so many times the median is given to another worker as well"
    )
    straggler_least_s: float = option(60.0, "but not before so many seconds")
    start_s: float = option(
        1800.0, "seconds in which a worker must have loaded its model, or it is replaced"
    )
    drain_s: float = option(90.0, "seconds that units under way are given after SIGTERM or SIGUSR1")
    audit: float = option(
        0.0, "share of the units that another worker does again to compare, such as 0.001"
    )


@dataclass
class HardwareConfig:
    """What `bathyscope plan` counts with."""

    name: str = option("this machine", "what it is called")
    nodes: int = option(1, "number of nodes")
    gpus_per_node: int | None = option(None, "GPUs of a node; null asks this machine")
    gpu_bytes: float | None = option(None, "memory of a GPU; null asks this machine")
    gpu_reserved_bytes: float = option(
        4e9, "memory of a GPU that is kept for CUDA, workspaces and fragments"
    )
    gpu_flops: float | None = option(
        None, "operations per second that a GPU reaches in a forward, which is half its peak or so"
    )
    write_bytes_per_s: float | None = option(None, "bytes per second that a node writes")


@dataclass
class EvaluateConfig:
    """How the dictionary is measured."""

    splice_tokens: int = option(8_500, "held-out targets of the spliced model; 0 takes all")
    train_splice_tokens: int = option(2_000, "training targets of the spliced model, to compare")
    batch_items: int = option(2, "sequences of a spliced forward; bounds the memory of logits")
    control_components: int = option(32, "components of the PCA control")
    resamples: int = option(2000, "bootstrap resamples over documents")
    seed: int = option(0, "bootstrap and random dictionary")


@dataclass
class DescribeConfig:
    """What is kept about each latent."""

    top_examples: int = option(12, "examples with the largest activation")
    sampled_examples: int = option(64, "firings sampled uniformly, for the quantile bands")
    bands: int = option(4, "quantile bands")
    examples_per_band: int = option(3, "examples shown of each band")
    promoted_tokens: int = option(10, "promoted and suppressed tokens")
    window_before: int = option(24, "tokens shown before an example")
    window_after: int = option(8, "tokens shown after it")
    seed: int = option(0, "which firings are sampled")


@dataclass
class LadderConfig:
    """A ladder: small decoders of several families and sizes, all trained alike."""

    families: list[str] = option([], "gpt2, llama")
    rungs: list[dict[str, int]] = option(
        [], "sizes, each with parameters (embeddings included), width, layers and heads"
    )
    seeds: list[int] = option([0, 1], "initial weights; the order of the data is always the same")
    vocabulary: int = option(1024, "tokens of the byte-level BPE that is trained for the ladder")
    tokens: int = option(4_000_000, "training tokens that every model sees")
    most_epochs: int = option(1, "passes over the training text that this may take")
    batch_items: int = option(8, "sequences of a step")
    dtype: str = option("float32", "float32, or bfloat16 for the products; weights are float32")
    lr: float = option(4e-3, "peak learning rate of AdamW for a width of 64")
    lr_power: float = option(0.5, "other widths have lr * (64 / width)^lr_power")
    warmup_share: float = option(0.02, "share of the steps with a growing learning rate")
    decay_share: float = option(0.3, "share of the steps, at the end, with a falling rate")
    weight_decay: float = option(0.1, "of matrices; gains and biases have none")
    clip_norm: float = option(1.0, "gradients are scaled down to this norm; 0 never does")
    evaluations: int = option(
        12, "measurements of the held-out loss at equal ratios, and as many at equal distances"
    )
    watched_tokens: int = option(32_768, "held-out tokens of these; the last one takes all")
    patience: int = option(
        5, "measurements without a better held-out loss after which a model is done; 0: never"
    )
    checkpoints: int = option(8, "checkpoints at equal ratios of steps, beside the first weights")
    state_steps: int = option(200, "steps between two states from which a stopped training goes on")
    tokenizer_chars: int = option(20_000_000, "characters of training text that the BPE is made of")


@dataclass
class VerifyConfig:
    """How thoroughly `bathyscope verify` checks a run."""

    share: float = option(1.0, "share of the shards whose bytes are read; sizes are checked of all")
    seed: int = option(0, "which shards these are")
    threads: int = option(2, "shards that are read at once")


@dataclass
class RedoConfig:
    """What `bathyscope redo` takes back; url is the folder of the artifact."""

    segment: str | None = option(None, "segment, as `bathyscope verify` names it")
    units: list[int] = option([], "units that are to be done again")
    packs: list[int] = option([], "packs of receipts that cannot be read")
    reason: str = option("taken back by hand", "kept beside the receipts in quarantine/")


@dataclass
class ConvertConfig:
    """What `bathyscope convert` writes; url is the folder that it reads."""

    to: str | None = option(None, "folder to write")
    format: str = option(
        "saelens", "format to write: saelens, sparsify, circuit_tracer or bathyscope"
    )
    source_format: str | None = option(None, "format to read; null goes by the names of the files")
    layer: int | None = option(
        None,
        "layer to read of a set of transcoders (null: all), or to write as (null: by its hooks)",
    )
    k: int | None = option(None, "L0 of a dictionary whose file does not say it")
    inputs: list[str] = option([], "names for the hook points that it reads: [mlp_in.3]")
    outputs: list[str] = option([], "names for the hook points that it writes: [mlp_out.3]")


@dataclass
class SweepConfig:
    """Many dictionaries, for `bathyscope sweep`."""

    name: str = option("sweep", "its folder in the run, which holds the table")
    grid: dict[str, Any] = option(
        {}, "values of settings, {dictionary.k: [16, 32]}; or give them with commas, k=16,32"
    )
    together: int = option(8, "dictionaries that are trained at once on the same batches")
    evaluate: bool = option(True, "measure each dictionary on held-out rows")


@dataclass
class Config:
    """A run: one folder, and everything that decides what is in it."""

    url: str = option("runs/default", "folder of the run: a path, s3://… or gs://…")
    cache: str | None = option(None, "folder for converted models and extracted text")
    force: bool = option(False, "replace artifacts that were made from something else")
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    hooks: HooksConfig = field(default_factory=HooksConfig)
    dictionary: DictionaryConfig = field(default_factory=DictionaryConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    fine_tune: FineTuneConfig = field(default_factory=FineTuneConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    describe: DescribeConfig = field(default_factory=DescribeConfig)
    ladder: LadderConfig = field(default_factory=LadderConfig)
    verify: VerifyConfig = field(default_factory=VerifyConfig)
    redo: RedoConfig = field(default_factory=RedoConfig)
    convert: ConvertConfig = field(default_factory=ConvertConfig)

    @property
    def hook(self) -> str:
        """The hook point that the dictionary reads, the first of several."""
        return self.inputs[0]

    @property
    def inputs(self) -> list[str]:
        """The hook points that the dictionary reads."""
        chosen = self.dictionary
        return list(chosen.inputs) or [chosen.hook or self.hooks.points[0]]

    @property
    def outputs(self) -> list[str]:
        """The hook points that it writes; those that it reads where no others are set."""
        return list(self.dictionary.outputs) or self.inputs


def setting_names(kind: type = Config, prefix: str = "") -> list[str]:
    """Every setting as the command line spells it, and every group."""
    names: list[str] = []
    for item in fields(kind):
        names.append(f"{prefix}{item.name}")
        inner = item.default_factory
        if isinstance(inner, type) and is_dataclass(inner):
            names += setting_names(inner, f"{prefix}{item.name}.")
    return names if prefix else [*names, "experiment"]
