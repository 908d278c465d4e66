"""The schema, the values in `conf/`, and every rule that joins settings."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass
from importlib import resources
from typing import Any

import pytest
import yaml

from bathyscope.command_help import GROUPS, choices
from bathyscope.composition import compose
from bathyscope.config import Config, setting_names
from bathyscope.config.option import ABOVE, LEAST
from bathyscope.config.ranges import collapsed, expanded
from bathyscope.config_rules import validate
from bathyscope.dictionaries.kinds import ACTIVATIONS, KINDS
from bathyscope.errors import ConfigError
from support import changed

NEEDED = {
    "model=folder": ["model.path=weights"],
    "model=hub": ["model.repo=a/b", "model.revision=0123456789abcdef0123456789abcdef01234567"],
    "data=jsonl": ["data.paths=[text.jsonl]"],
    "data=parquet": ["data.paths=[text.parquet]"],
    "data=chat": ["data.paths=[talk.jsonl]"],
    "data=tokens_bin": ["data.paths=[text.bin]"],
    "data=images": ["data.paths=[pictures]"],
    "data=tar": ["data.paths=[pictures.tar]"],
    "data=arrays": ["data.paths=[pictures.npy]"],
    "model=module": [
        "model.factory=a:b",
        "model.weights=c.safetensors",
        "data=images",
        "data.paths=[pictures]",
    ],
    "data=hf": ["data.dataset=a/b"],
    "family=efficientnet_lite": ["data.paths=[pictures]"],
    "cluster=address": ["cluster.address=ray://head:10001"],
}
"""What a choice asks its user for."""
FILES = [(group, choice) for group in GROUPS for choice in choices(group)]
BESIDE = {
    "model=efficientnet_lite0": ["data=images", "data.paths=[pictures]"],
    # Its grid says which layer, for a sweep.
    "experiment=layers": ["dictionary.layer=0"],
}
"""What a choice goes together with."""
PLANNED = ("pythia", "llama3", "qwen3", "mixtral")
# Their dimensions are there; only who runs them must say which commit is meant.
NEEDED |= {
    f"model={choice}": [f"model.revision={'0' * 40}"]
    for choice in choices("model")
    if choice.startswith(PLANNED)
}


def given(override: str) -> list[str]:
    return NEEDED.get(override, []) + BESIDE.get(override, [])


def default() -> Config:
    """The dataclass defaults, with the one value that they ask for."""
    return changed(Config(), model__path="weights")


def settings(kind: type = Config, prefix: str = "") -> Iterator[tuple[str, Field[Any]]]:
    """Every setting that is not a group, with its field."""
    for item in fields(kind):
        inner = item.default_factory
        if isinstance(inner, type) and is_dataclass(inner):
            yield from settings(inner, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", item


ABOVE_ZERO = [name for name, item in settings() if ABOVE in item.metadata]
NOT_NEGATIVE = [name for name, item in settings() if LEAST in item.metadata]


def test_groups_of_the_help_are_the_folders_of_conf() -> None:
    folder = resources.files("bathyscope.conf")
    folders = {e.name for e in folder.iterdir() if e.is_dir() and e.name != "__pycache__"}
    assert folders == set(GROUPS)
    assert all(choices(group) for group in GROUPS)


@pytest.mark.parametrize(("group", "choice"), FILES)
def test_every_file_of_every_group_composes_and_validates(group: str, choice: str) -> None:
    override = f"{group}={choice}"
    config, _ = compose([override, *given(override)])
    assert isinstance(config, Config)


@pytest.mark.parametrize(("group", "choice"), FILES)
def test_values_of_a_file_arrive(group: str, choice: str) -> None:
    text = (resources.files("bathyscope.conf") / group / f"{choice}.yaml").read_text()
    values = yaml.safe_load(text)
    values.pop("defaults", None)
    override = f"{group}={choice}"
    config, _ = compose([override, *given(override)])
    whole = group in ("experiment", "ladder", "family")
    for name, value in values.items():
        if whole and isinstance(value, dict):
            for inner, wanted in value.items():
                found = getattr(getattr(config, name), inner)
                assert found == (expanded(wanted) if inner == "points" else wanted)
        else:
            assert getattr(config if whole else getattr(config, group), name) == value


@pytest.mark.parametrize("override", NEEDED)
def test_a_choice_without_its_value_says_which(override: str) -> None:
    with pytest.raises(ConfigError, match=f"{NEEDED[override][0].split('=')[0]} is not set"):
        compose([override])


def test_the_default_is_the_demo() -> None:
    config, _ = compose([])
    assert (config.model.kind, config.data.kind) == ("smollm2_135m", "documentation")
    assert config.cluster.kind == "local"
    demo, _ = compose(["experiment=demo"])
    assert changed(demo, url=config.url) == config


def test_every_setting_has_a_line_of_help_with_no_full_stop() -> None:
    for name, item in settings():
        text = item.metadata.get("help", "")
        assert 10 <= len(text) <= 90, name
        assert "\n" not in text, name
        assert not text.endswith("."), name


def test_setting_names_are_all_settings_and_all_groups() -> None:
    names = setting_names()
    assert len(names) == len(set(names))
    assert {name for name, _ in settings()} | set(GROUPS) <= set(names)
    assert {"url", "train.lr", "describe.window_after", "evaluate"} <= set(names)


def test_lists_and_dicts_are_not_shared_between_two_configs() -> None:
    one, other = Config(), Config()
    one.hooks.points.append("mlp_out.1")
    one.model.max_memory["cpu"] = "1GiB"
    assert other.hooks.points == ["resid_post.9"]
    assert other.model.max_memory == {}


def test_the_dictionary_reads_the_only_hook_point_or_the_named_one() -> None:
    assert changed(default(), hooks__points=["mlp_out.2"]).hook == "mlp_out.2"
    two = changed(default(), hooks__points=["mlp_out.2", "a"], dictionary__hook="a")
    validate(two)
    assert two.hook == "a"


def with_value(name: str, value: Any) -> Config:
    return changed(default(), **{name.replace(".", "__"): value})


@pytest.mark.parametrize("name", ABOVE_ZERO)
def test_numbers_that_must_be_above_zero(name: str) -> None:
    for value in (0, -1):
        with pytest.raises(ConfigError, match=rf"^{name} is {value}\. A number above 0"):
            validate(with_value(name, value))
    # These have bounds of their own, which a share, a number of graphs and a probability need.
    fine = {"study.false_edges": 0.1, "study.null_graphs": 2, "nightly.error": 0.1}
    validate(with_value(name, fine.get(name, 1)))


@pytest.mark.parametrize("name", NOT_NEGATIVE)
def test_numbers_that_may_be_zero(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} is -1\. 0 or a number above it"):
        validate(with_value(name, -1))
    validate(with_value(name, 0))


@pytest.mark.parametrize("name", ["train.lr", "train.auxk_weight", "store.lease_s"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_infinity_are_no_numbers(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} is {value}"):
        validate(with_value(name, value))


@pytest.mark.parametrize("name", ["cluster.audit", "verify.share"])
def test_shares_lie_between_zero_and_one(name: str) -> None:
    for value in (-0.1, 1.1, math.nan):
        with pytest.raises(ConfigError, match=rf"^{name} is {value}"):
            validate(with_value(name, value))
    for value in (0.0, 1.0):
        validate(with_value(name, value))


def test_no_more_workers_are_needed_than_are_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"min_workers is 3, but cluster\.workers is 2"):
        validate(changed(default(), cluster__workers=2, cluster__min_workers=3))


def test_every_number_is_checked() -> None:
    """A new number has a bound beside it, or stands here with its own rule."""
    own_rule = {
        "attribute.row_share",
        "cluster.audit",
        "data.held_out_share",
        "data.sequence_length",
        "ladder.vocabulary",
        "fine_tune.reconstruction_share",
        "nightly.sample_share",
        "verify.share",
    }
    # Ray checks it against the memory of the machine.
    foreign = {"cluster.object_store_bytes"}
    numbers = {
        name
        for name, item in settings()
        if type(item.default) in (int, float) and not isinstance(item.default, bool)
    }
    # None is no number, so what may be left out has a bound and no default that shows it.
    assert numbers - {*ABOVE_ZERO, *NOT_NEGATIVE} == {*own_rule, *foreign}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("model.kind", "smollm2_135m, folder, hub, module"),
        ("model.dtype", "auto, bfloat16, float16, float32"),
        ("model.attention", "sdpa, eager"),
        (
            "data.kind",
            "documentation, hf, linux_doc, nlp_corpus, jsonl, parquet, chat, tokens_bin, images, "
            "tar, arrays",
        ),
        ("dictionary.kind", ", ".join(KINDS)),
        ("dictionary.activation", ", ".join(ACTIVATIONS)),
        ("train.decoder_norm", "unit, free"),
        ("ladder.dtype", "float32, bfloat16"),
        ("cluster.kind", "inline, local, address"),
    ],
)
def test_choices_that_are_text(name: str, wanted: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} is 'other'\. One of {wanted} is wanted"):
        validate(with_value(name, "other"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__path": None}, r"model\.path is not set"),
        ({"model__kind": "hub"}, r"model\.repo is not set"),
        ({"model__kind": "hub", "model__repo": "a/b"}, r"model\.revision is not set"),
        ({"data__kind": "jsonl"}, r"data\.paths is not set"),
        ({"data__kind": "hf"}, r"data\.dataset is not set"),
        ({"cluster__kind": "address"}, r"cluster\.address is not set"),
        ({"data__also": ["wiki"]}, r"data\.also is 'wiki'\. One of linux_doc, nlp_corpus"),
        ({"data__also": ["linux_doc", "linux_doc"]}, r"Name each corpus once"),
        (
            {"data__kind": "tokens_bin", "data__paths": ["a"], "data__also": ["linux_doc"]},
            r"data\.kind is tokens_bin, which has none",
        ),
        ({"ladder__families": ["mamba"]}, r"520 tokens/s of 0.07 M"),
        ({"ladder__families": ["bert"]}, r"ladder\.families is 'bert'\. One of gpt2, llama"),
        ({"ladder__vocabulary": 256}, r"More than 256 is wanted"),
        ({"ladder__warmup_share": 0.8}, r"ladder\.warmup_share and ladder\.decay_share add up"),
        ({"study__shares": [0.5, 1.2]}, r"study\.shares is \[0\.5, 1\.2\]\. Different shares"),
        ({"study__shares": [0.5, 0.5]}, r"Different shares above 0 and up to 1"),
        ({"study__shares": []}, r"study\.shares is \[\]"),
        ({"study__shares": [math.nan]}, r"study\.shares is \[nan\]"),
        ({"study__bits": [8, 1]}, r"study\.bits is \[8, 1\]\. Different numbers from 2 to 8"),
        ({"study__bits": []}, r"study\.bits is \[\]"),
        ({"study__false_edges": 1.0}, r"study\.false_edges is 1\.0\. A share below 1"),
        ({"study__null_graphs": 1}, r"study\.null_graphs is 1\. At least 2 are wanted"),
        ({"study__neighbours": 0}, r"study\.neighbours"),
        ({"nightly__error": 1.0}, r"nightly\.error is 1\.0\. A probability below 1"),
        ({"nightly__least_ratio": 0.5}, r"nightly\.least_ratio is 0\.5\. A factor of at least 1"),
        ({"nightly__sample_share": 0.0}, r"nightly\.sample_share is 0\.0\. A share above 0"),
        ({"nightly__sample_share": 1.5}, r"nightly\.sample_share is 1\.5"),
        ({"nightly__keep_latents": "some"}, r"One of none, sample, all is wanted"),
        ({"nightly__keep_nights": 7}, r"nightly\.keep_nights is 7.*At least 8 is wanted"),
        ({"nightly__revisions": ["abc"]}, r"nightly\.revisions are commits of model\.repo"),
        ({"hooks__points": []}, r"hooks\.points is not set"),
        ({"url": ""}, r"url is not set"),
        (
            {"train__processes": 3, "train__latent_parallel": 2, "cluster__kind": "local"},
            "in whole sets",
        ),
        ({"train__processes": 2, "cluster__kind": "inline"}, "this process alone"),
        (
            {"train__processes": 3, "cluster__kind": "local"},
            "which 3 processes cannot split evenly",
        ),
        ({"dictionary__hook": "mlp_out.1"}, r"hooks\.points are \['resid_post\.9'\]\. Add it"),
        ({"hooks__points": ["a", "b"]}, r"say which of them .* dictionary\.hook"),
        (
            {"dictionary__outputs": ["mlp_out.1"]},
            r"dictionary\.outputs has 'mlp_out\.1', but hooks\.points are",
        ),
        (
            {"dictionary__inputs": ["resid_post.9", "resid_post.9"]},
            r"dictionary\.inputs are .*once",
        ),
        (
            {"dictionary__hook": "resid_post.9", "dictionary__inputs": ["resid_post.9"]},
            r"Set one of them",
        ),
        ({"data__held_out_share": 0.0}, r"data\.held_out_share is 0\.0"),
        ({"data__held_out_share": 1.0}, r"data\.held_out_share is 1\.0"),
        ({"data__held_out_share": math.nan}, r"data\.held_out_share is nan"),
        ({"data__sequence_length": 2}, r"data\.sequence_length is 2\. At least 3"),
        ({"train__warmup_share": 0.8, "train__decay_share": 0.3}, r"add up to more than 1"),
    ],
)
def test_rules_that_join_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(changed(default(), **changes))


def test_the_edges_of_those_rules_are_allowed() -> None:
    validate(changed(default(), train__warmup_share=0.5, train__decay_share=0.5))
    validate(changed(default(), data__sequence_length=3, data__held_out_share=0.99))


def test_a_pipeline_needs_processes_and_no_offload() -> None:
    pipeline = changed(default(), cluster__replica="pipeline", cluster__stages=2)
    validate(pipeline)
    validate(changed(pipeline, cluster__stages=0, cluster__gpus_per_worker=16))
    validate(changed(pipeline, cluster__stages=0), planned=True)
    for wrong, said in (
        ({"cluster__stages": 0}, "neither cluster.gpus_per_worker nor cluster.stages"),
        ({"cluster__gpus_per_worker": 3}, "gpus_per_worker is 3, which cannot be spread over"),
        ({"cluster__kind": "inline"}, "takes several processes, and cluster.kind is inline"),
        ({"model__offload_folder": "/tmp"}, "moving weights under them is not safe"),
        ({"model__max_memory": {"cpu": "1GiB"}}, "moving weights under them is not safe"),
    ):
        with pytest.raises(ConfigError, match=said):
            validate(changed(pipeline, **wrong))


def test_stated_gpus_need_their_memory() -> None:
    with pytest.raises(ConfigError, match=r"gpus_per_node is 8, but hardware.gpu_bytes is not"):
        validate(changed(default(), hardware__gpus_per_node=8))
    with pytest.raises(ConfigError, match=r"gpu_bytes is 80, and hardware.gpu_reserved_bytes"):
        validate(changed(default(), hardware__gpus_per_node=8, hardware__gpu_bytes=80.0))


def test_only_a_plan_does_without_a_commit() -> None:
    given = ["model=llama3_1_8b"]
    assert compose(given, planned=True)[0].model.repo == "meta-llama/Llama-3.1-8B"
    with pytest.raises(ConfigError, match=r"model\.revision is not set"):
        compose(given)
    with pytest.raises(ConfigError, match=r"model\.revision is not set"):
        compose(["model=hub", "model.repo=a/b"], planned=True)


def test_a_module_is_shown_pictures() -> None:
    with pytest.raises(ConfigError, match=r"model\.kind is module, which has no tokenizer"):
        compose(["model=efficientnet_lite0"])
    compose(["model=efficientnet_lite0", "data=tar", "data.paths=[pictures.tar]"])


def test_a_range_names_a_hook_point_for_each_layer() -> None:
    config, _ = compose(["hooks.points=[mlp_in.0-2,mlp_out.9-10]", "dictionary.layer=null",
                         "dictionary.hook=mlp_in.1"])  # fmt: skip
    assert config.hooks.points == ["mlp_in.0", "mlp_in.1", "mlp_in.2", "mlp_out.9", "mlp_out.10"]
    with pytest.raises(ConfigError, match=r"'mlp_in.3-1' is a range that ends before it begins"):
        compose(["hooks.points=[mlp_in.3-1]"])


def test_what_was_expanded_is_told_as_a_range() -> None:
    names = ["mlp_in.0", "mlp_in.1", "mlp_in.2", "mlp_out.9", "mlp_out.10", "model.norm:in"]
    assert collapsed(names) == ["mlp_in.0-2", "mlp_out.9", "mlp_out.10", "model.norm:in"]
    assert expanded(collapsed(names)) == names


def test_a_layer_says_what_a_transcoder_reads_and_writes() -> None:
    given = ["hooks.points=[mlp_in.0-2,mlp_out.0-2]", "dictionary=transcoder"]
    config, _ = compose([*given, "dictionary.layer=1"])
    assert (config.inputs, config.outputs) == (["mlp_in.1"], ["mlp_out.1"])
    with pytest.raises(ConfigError, match=r"dictionary.layer has 'mlp_in.3', but hooks.points are"):
        compose([*given, "dictionary.layer=3"])
    with pytest.raises(ConfigError, match=r"hook, inputs or outputs are set as well"):
        compose([*given, "dictionary.layer=1", "dictionary.hook=mlp_in.1"])
    with pytest.raises(ConfigError, match=r"dictionary.kind is autoencoder. A layer is that"):
        compose(["dictionary.layer=1", given[0]])
