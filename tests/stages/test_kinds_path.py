"""Every kind of dictionary from activations to latents, and those of one hook point to a report."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bathyscope.commands.run import run as run_stages
from bathyscope.commands.summary import of_run
from bathyscope.commands.verify import verify
from bathyscope.config import Config
from bathyscope.errors import ConfigError
from bathyscope.runs.run import Run
from bathyscope.values import HELD_OUT
from support import changed

POINTS = ["mlp_in.1", "mlp_out.1", "mlp_in.2", "mlp_out.2", "resid_post.1"]


@pytest.fixture(scope="module")
def harvested(
    tiny_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory
) -> Config:
    config = tiny_config(
        tmp_path_factory.mktemp("kinds") / "run", hooks__points=POINTS,
        dictionary__hook="resid_post.1", dictionary__group_rows=128, train__epochs=6,
    )  # fmt: skip
    run_stages(config, stages=["corpus", "harvest"])
    return config


@pytest.fixture
def config(harvested: Config, tmp_path: Path) -> Config:
    shutil.copytree(harvested.url, tmp_path / "copy")
    return changed(harvested, url=str(tmp_path / "copy"))


@pytest.mark.parametrize(
    "settings",
    [
        {"activation": "batch_topk"},
        {"activation": "jumprelu"},
        {"activation": "relu"},
        {"activation": "gated"},
        {"activation": "batch_topk", "prefixes": [0.25, 1.0]},
    ],
    ids=lambda s: "-".join([s["activation"], *(["matryoshka"] if "prefixes" in s else [])]),
)
def test_an_autoencoder_from_training_to_report(config: Config, settings: dict[str, Any]) -> None:
    config = changed(config, **{f"dictionary__{k}": v for k, v in settings.items()})
    facts = run_stages(config)
    run = Run(config.url)
    dictionary, latents = run.dictionaries["main"], run.latents["main"]
    assert latents.is_ragged
    values, indices = (torch.from_numpy(part) for part in latents.items(3, 9))
    rows = run.activations["resid_post.1"].items(3, 9).flatten(0, 1).float()
    wanted = dictionary.encode(rows)
    width = wanted.values.shape[1]
    assert not values[:, width:].any()
    assert torch.equal(indices[:, :width].int(), wanted.indices)
    assert torch.equal(values[:, :width], wanted.values.bfloat16().float())
    found = run.evaluations["main"]["reconstruction"][HELD_OUT]
    # L1 shrinks latents, and 200 steps do not make up for it.
    bound = 0.8 if settings["activation"] == "relu" else found["random"]["fvu"]
    assert found["dictionary"]["fvu"] < bound
    assert facts["evaluate"]["l0"] == pytest.approx(4, rel=0.5)
    told: list[str] = []
    assert verify(config, told.append), "\n".join(told)


def test_only_shards_with_latents_are_written(config: Config) -> None:
    config = changed(config, dictionary__activation="batch_topk")
    run_stages(config, stages=["train", "encode"])
    run = Run(config.url)
    values = list(run.objects.at("latents.zarr/main").walk("values"))
    segment = run.manifest("latents.zarr/main").segments[0]
    shards = [key for key, _ in values if "/c." in key]
    assert 0 < len(shards) < segment.unit_shards("values") * segment.plan.num_units / 4


@pytest.mark.parametrize(
    ("kind", "inputs", "outputs", "activation"),
    [
        ("transcoder", ["mlp_in.1"], ["mlp_out.1"], "topk"),
        ("transcoder", ["mlp_in.1"], ["mlp_out.1"], "jumprelu"),
        ("skip_transcoder", ["mlp_in.1"], ["mlp_out.1"], "batch_topk"),
        ("crosscoder", ["resid_post.1", "mlp_out.2"], [], "batch_topk"),
        ("cross_layer_transcoder", ["mlp_in.1", "mlp_in.2"], ["mlp_out.1", "mlp_out.2"], "topk"),
    ],
)
def test_other_kinds_from_training_to_latents(
    config: Config, kind: str, inputs: list[str], outputs: list[str], activation: str
) -> None:
    config = changed(
        config, dictionary__kind=kind, dictionary__hook=None, dictionary__inputs=inputs,
        dictionary__outputs=outputs, dictionary__activation=activation,
    )  # fmt: skip
    facts = run_stages(config)
    more = {"evaluate"} if kind == "crosscoder" else set()
    assert set(facts) == {"corpus", "harvest", "train", "encode", "describe", *more}
    assert facts["describe"]["latents"] == facts["train"]["num_latents"]
    run = Run(config.url)
    dictionary = run.dictionaries["main"]
    assert [block.hook_point for block in dictionary.inputs] == inputs
    items = run.corpus.split_range(HELD_OUT)
    x, y = (
        torch.cat([run.activations[n].items(*_ends(items)).flatten(0, 1) for n in names], 1).float()
        for names in (inputs, outputs or inputs)
    )
    wanted, y_hat = dictionary.reconstruct(x)
    for block in dictionary.outputs:
        rows = y[:, block.columns]
        left = (rows - y_hat[:, block.columns]).square().sum()
        assert float(left / (rows - rows.mean(0)).square().sum()) < 0.9, block.hook_point
    values, _ = run.latents["main"].items(*_ends(items))
    assert (values > 0).sum(1).tolist() == wanted.count.tolist()
    told: list[str] = []
    assert verify(config, told.append), "\n".join(told)


@pytest.mark.parametrize("inputs", [["resid_post.1", "mlp_out.2"], ["mlp_in.1", "resid_post.1"]])
def test_a_crosscoder_is_evaluated_per_hook_point(config: Config, inputs: list[str]) -> None:
    config = changed(
        config, dictionary__kind="crosscoder", dictionary__hook=None, dictionary__inputs=inputs,
        dictionary__activation="batch_topk",
    )  # fmt: skip
    facts = run_stages(config, stages=["train", "evaluate"])["evaluate"]
    run = Run(config.url)
    dictionary, items = run.dictionaries["main"], run.corpus.split_range(HELD_OUT)
    rows = [run.activations[n].items(*_ends(items))[:, 1:].flatten(0, 1).float() for n in inputs]
    x = torch.cat(rows, 1)
    latents, x_hat = dictionary.reconstruct(x)
    for block in dictionary.outputs:
        y, y_hat = x[:, block.columns], x_hat[:, block.columns]
        wanted = float((y - y_hat).square().sum() / (y - y.mean(0)).square().sum())
        assert facts["fvu_per_hook"][block.hook_point] == pytest.approx(wanted, rel=1e-5)
    assert facts["l0"] == pytest.approx(float(latents.count.float().mean()))
    table = run.scalings("main")
    shares = torch.stack([torch.tensor(table[f"norm_share/{n}"].to_pylist()) for n in inputs])
    torch.testing.assert_close(shares.sum(0), torch.ones(dictionary.num_latents))
    assert sum(table["rows"].to_pylist()) == int(latents.count.sum())
    told = of_run(config)
    assert all(name in told for name in inputs)
    assert "after latent scaling" in told


def test_evaluate_alone_says_what_it_reads(config: Config) -> None:
    config = changed(
        config, dictionary__kind="transcoder", dictionary__hook=None,
        dictionary__inputs=["mlp_in.1"], dictionary__outputs=["mlp_out.1"],
    )  # fmt: skip
    with pytest.raises(ConfigError, match="evaluate reads autoencoders only so far"):
        run_stages(config, stages=["evaluate"])


def _ends(items: range) -> tuple[int, int]:
    return items.start, items.stop


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "transcoder"}, "one to read and another to write"),
        ({"kind": "crosscoder"}, "a crosscoder several"),
        ({"k": 65}, "k is 65 and the dictionary has 64"),
        ({"prefixes": [0.5]}, "ascend from at least 1 to 64"),
        ({"prefixes": [0.5, 1.5]}, "up to 1 are wanted"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_done(
    config: Config, settings: dict[str, Any], message: str
) -> None:
    config = changed(config, **{f"dictionary__{k}": v for k, v in settings.items()})
    with pytest.raises(ConfigError, match=message):
        run_stages(config, stages=["train"])
    assert not Run(config.url).objects.children("dictionaries")
