"""Capacities from configurations alone: published models on H100s, by hand, and refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bathyscope.cli import run_command
from bathyscope.commands.capacity import Capacity, capacity
from bathyscope.commands.capacity_lines import capacity_lines
from bathyscope.commands.plan import plan
from bathyscope.composition import compose
from bathyscope.errors import ModelError
from bathyscope.stages.model import plan_model

LAST = {"llama3_1_8b": 31, "llama3_1_70b": 79, "llama3_1_405b": 125, "mixtral_8x7b": 31}
TWO_BILLION = ["data.train_tokens=1999998976", "data.held_out_tokens=1024"]


def planned(model: str, *settings: str) -> tuple[Capacity, list[str]]:
    last = LAST[model]
    points = f"hooks.points=[resid_post.{last // 4},resid_post.{last // 2},resid_post.{last}]"
    hook = f"dictionary.hook=resid_post.{last}"
    config, _ = compose(
        [f"model={model}", "hardware=h100_8x8", points, hook, *TWO_BILLION, *settings],
        planned=True,
    )
    described = plan_model(config)
    found = capacity(config, described)
    return found, capacity_lines(config, described, found)


def test_two_billion_tokens_of_405b() -> None:
    found, lines = planned("llama3_1_405b", "cluster.replica=pipeline")
    # 3 hook points of 16,384 dimensions in bfloat16: 196.6 TB.
    assert found.bytes_per_token == 98_304
    assert found.tokens * found.bytes_per_token == pytest.approx(196.6e12, rel=1e-3)
    # 17.6 h at 400 TFLOP/s on 64 GPUs that are all busy.
    assert found.seconds is not None
    assert found.replica is not None
    busy = found.seconds / 3600 * found.replica.balance
    assert busy == pytest.approx(17.6, rel=0.02)
    assert (found.replicas, found.replica.gpus) == (4, 16)
    text = "\n".join(lines)
    assert "196.6 TB" not in text, "three digits are enough"
    for words in (
        "blocks 0 to 125 of 126",
        "98.3 kB per token, 32.8 kB per hook point; 197 TB in all",
        "pipeline: 16 GPU(s) on 2 node(s)",
        "4 replica(s) on 64 of 64 GPUs",
        "cluster.replica=pipeline cluster.workers=4 cluster.gpus_per_worker=16",
    ):
        assert words in text


def test_405b_with_accelerate_is_refused_with_what_would_fit() -> None:
    found, lines = planned("llama3_1_405b")
    assert found.replica is None
    assert found.refusal is not None
    for words in (
        "No accelerate replica of this model fits: its 126 blocks are 808 GB of weights",
        "8 GPUs of one node have 80 GB each",
        "cluster.replica=pipeline cluster.gpus_per_worker=16",
        "hook points up to block ",
    ):
        assert words in found.refusal
    assert lines[-1] == f"refused    {found.refusal}"


def test_what_would_fit_does_fit() -> None:
    found, _ = planned("llama3_1_405b")
    assert found.refusal is not None
    block = int(found.refusal.split("hook points up to block ")[1].split(";")[0])
    points = f"hooks.points=[resid_post.{block}]"
    fits, _ = planned("llama3_1_405b", points, "dictionary.hook=null")
    assert fits.refusal is None
    size = float(found.refusal.rsplit("8 GPUs of ", 1)[1].split(" GB")[0])
    larger, _ = planned("llama3_1_405b", f"hardware.gpu_bytes={size}e9")
    assert larger.refusal is None


@pytest.mark.parametrize(
    ("model", "gpus", "replicas"), [("llama3_1_8b", 1, 64), ("llama3_1_70b", 2, 32)]
)
def test_smaller_models_take_few_gpus(model: str, gpus: int, replicas: int) -> None:
    found, lines = planned(model)
    assert found.replica is not None
    assert (found.replica.gpus, found.replicas) == (gpus, replicas)
    assert ("model.device_map=balanced" in lines[-1]) == (gpus > 1)


def test_a_disk_that_is_slower_than_the_model_sets_the_pace() -> None:
    found, lines = planned("llama3_1_8b", "hardware.write_bytes_per_s=1e9")
    assert found.disk_tokens_per_s == pytest.approx(8 * 1e9 / (3 * 2 * 4096))
    assert found.tokens_per_s == found.disk_tokens_per_s
    assert found.gpu_hours == pytest.approx(2e9 / found.disk_tokens_per_s / 3600 * 64, rel=1e-3)
    assert any("SLOWER than the model" in line for line in lines)


def test_experts_that_a_token_does_not_go_to_take_memory_but_no_time() -> None:
    found, lines = planned("mixtral_8x7b")
    assert found.weight_bytes == pytest.approx(2 * 46.57e9, rel=0.01)
    attention = 4 * 256 * 4096 * 32
    assert found.flops_per_token - attention == pytest.approx(2 * 12.62e9, rel=0.01)
    assert "of them for one token" in lines[0]


def test_units_that_are_too_short_name_the_setting_that_mends_it() -> None:
    found, lines = planned("llama3_1_8b")
    assert found.unit_seconds is not None
    assert found.unit_seconds < 30
    (line,) = [line for line in lines if "store.unit_tokens=" in line]
    tokens = line.split("store.unit_tokens=")[1].split(" ")[0]
    mended, lines = planned("llama3_1_8b", f"store.unit_tokens={tokens}")
    assert mended.unit_seconds == pytest.approx(60, rel=0.1)
    assert not any("store.unit_tokens=" in line for line in lines)


def test_workers_that_were_asked_for_are_counted() -> None:
    found, _ = planned("llama3_1_8b", "cluster.workers=3", "cluster.gpus_per_worker=2")
    assert found.replica is not None
    assert (found.replica.gpus, found.replicas) == (2, 3)
    refused, _ = planned("llama3_1_70b", "cluster.gpus_per_worker=1")
    assert refused.refusal is not None
    assert "and 1 GPUs of one node" in refused.refusal


def test_float32_takes_twice_the_room() -> None:
    found, _ = planned("llama3_1_70b", "model.dtype=float32")
    assert found.replica is not None
    assert sum(found.replica.weight_bytes) == found.weight_bytes == 4 * found.needs.needed
    assert found.replica.gpus > 2
    refused, _ = planned("llama3_1_70b", "model.dtype=float32", "hardware.gpu_bytes=40e9")
    assert refused.refusal is not None
    assert "278 GB of weights" in refused.refusal


def test_a_row_for_a_whole_sequence_is_counted_once(tmp_path: Any) -> None:
    bert = [
        "model=hub", "model.repo=a/b", "+model.architecture.model_type=bert",
        "hooks.points=[bert.encoder.layer.1,cls.predictions.transform.dense]",
        "dictionary.hook=bert.encoder.layer.1", "hardware=h100_8",
    ]  # fmt: skip
    config, _ = compose([*bert, *TWO_BILLION], planned=True)
    described = plan_model(config)
    assert described.shape.positions == [None, None]
    pooled = described.shape._replace(positions=[None, 1])
    one = capacity(config, replace(described, shape=pooled))
    # 768 dimensions for every token, and once more for every 256 of them.
    assert one.bytes_per_token == 2 * 768 * (1 + 1 / 256)
    both = capacity(config, described)
    assert both.bytes_per_token == 2 * 768 * 2
    assert one.shards < both.shards


def test_a_codec_takes_fewer_bytes() -> None:
    found, _ = planned("llama3_1_8b", "store.codec=fp8")
    # A byte for each value, and a float32 for each row.
    assert found.bytes_per_token == 3 * (4096 + 4)


def test_a_corpus_without_a_limit_has_no_time() -> None:
    found, lines = planned("llama3_1_8b", "data.train_tokens=0", "data.held_out_tokens=0")
    assert found.seconds is None
    assert not any(line.startswith("time") for line in lines)


def test_without_gpus_what_is_needed_is_still_said(tiny_config: Any, tmp_path: Any) -> None:
    config = tiny_config(tmp_path / "run")
    found = plan(config)
    text = "\n".join(found["lines"])
    assert "no GPU; speed is planned for GPUs only" in text
    assert found["refusal"] is None


def test_the_command_ends_with_the_refusal(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["plan", "model=llama3_1_405b", "hardware=h100_8x8", "hooks.points=[resid_post.125]"]
    assert run_command(asked) == 2
    assert "refused    No accelerate replica" in capsys.readouterr().out
    assert run_command([*asked, "cluster.replica=pipeline"]) == 0
    assert "settings   cluster.replica=pipeline" in capsys.readouterr().out


def no_family(kind: str) -> list[str]:
    return [
        "model=hub",
        "model.repo=a/b",
        f"+model.architecture.model_type={kind}",
        "hooks.points=[transformer.h.0.mlp]",
    ]


def test_a_model_of_no_family_says_that_its_size_is_unknown() -> None:
    config, _ = compose(no_family("bloom"), planned=True)
    assert "needs      unknown: the model is in no family" in "\n".join(plan(config)["lines"])
    with pytest.raises(ModelError, match="cannot be planned"):
        capacity(config, plan_model(config))


def test_a_model_that_cannot_be_built_is_refused_in_a_line() -> None:
    config, _ = compose(no_family("t5"), planned=True)
    with pytest.raises(ModelError, match=r"'t5' cannot be built.*Unrecognized") as raised:
        plan(config)
    assert len(str(raised.value)) < 300
