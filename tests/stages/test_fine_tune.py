"""Fine-tuning on the real path: what it changes, what it leaves, how it stops and goes on."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from bathyscope.commands.run import run as run_stages
from bathyscope.commands.summary import of_fine_tuning
from bathyscope.commands.verify import verify
from bathyscope.config import Config
from bathyscope.config_rules import validate
from bathyscope.errors import ConfigError, IdentityMismatch, MissingArtifact
from bathyscope.runs.run import Run
from bathyscope.stages import fine_tune
from bathyscope.stages.sequence_batches import drawn
from bathyscope.training.fine_tune import FineTuned, FineTuning, Sequences
from support import changed, listing


def settings(config: Config, **more: Any) -> Config:
    given = {"tokens": 4000, "batch_items": 8, "lr": 3e-3, **more}
    return changed(config, **{f"fine_tune__{name}": value for name, value in given.items()})


@pytest.mark.parametrize(
    ("activation", "loss"),
    [
        ("topk", "kl"), ("batch_topk", "ce"), ("jumprelu", "kl"), ("relu", "ce"),
    ],
)  # fmt: skip
def test_it_costs_the_model_less_at_the_same_l0(copied: Config, activation: str, loss: str) -> None:
    config = settings(
        changed(
            copied, dictionary__activation=activation, dictionary__name="mine",
            dictionary__group_rows=128, train__epochs=6,
        ),
        loss=loss, tokens=8000,
    )  # fmt: skip
    run_stages(config, stages=["train"])
    before = listing(f"{config.url}/dictionaries/mine")
    run_stages(config, stages=["fine_tune"])
    assert listing(f"{config.url}/dictionaries/mine") == before
    facts = Run(config.url).manifest(f"dictionaries/mine_{loss}").facts["fine_tune"]
    first, last = facts["held_out"]["before"], facts["held_out"]["after"]
    assert first["targets"] == last["targets"] >= 600
    # The model is random, so what it makes of the text is too: ΔCE falls where it is trained on.
    key = {"kl": "kl", "ce": "delta_ce"}[loss]
    assert last[key] < first[key] - 0.03 * first["kl"]
    assert last["l0"] == pytest.approx(
        first["l0"], rel={"topk": 0.0, "relu": 0.3}.get(activation, 0.1)
    )


def test_a_fixed_weight_of_the_penalty_keeps_its_l0(copied: Config) -> None:
    config = settings(
        changed(
            copied, dictionary__activation="relu", dictionary__name="fixed", train__l1_weight=1e-3
        ),
        tokens=512, lr=1e-12,
    )  # fmt: skip
    run_stages(config, stages=["train", "fine_tune"])
    before, after = (Run(config.url).dictionaries[name] for name in ("fixed", "fixed_kl"))
    # Nothing is learned at this rate, and no bias is moved towards k.
    torch.testing.assert_close(after.parts[0].b_enc, before.parts[0].b_enc, rtol=1e-4, atol=1e-6)


def test_the_result_is_a_dictionary_like_any_other(copied: Config) -> None:
    config = settings(copied)
    told: list[str] = []
    run_stages(config, stages=["fine_tune"])
    run = Run(config.url)
    facts = run.manifest("dictionaries/main_kl").facts
    assert facts["fine_tune"]["source"] == "main"
    assert facts["fine_tune"]["steps"] == 16
    assert facts["fine_tune"]["tokens"] == 16 * 8 * 31
    after, first = run.dictionaries["main_kl"], run.dictionaries["main"]
    assert after.settings() == first.settings()
    assert after.W_dec.norm(dim=1).sub(1).abs().max() < 1e-5
    assert not after.W_dec.equal(first.W_dec)
    curve = run.curve("main_kl")
    assert curve.column("step").to_pylist() == [1, 11, 16]
    assert all(0 < kl < 1 for kl in curve.column("model_kl").to_pylist())
    text = of_fine_tuning(config)
    assert "dictionary.name=main_kl" in text
    assert "KL 0." in text
    assert text.endswith("L0 4.0 to 4.0")
    later = changed(config, dictionary__name="main_kl")
    run_stages(later, stages=["encode", "evaluate", "describe"])
    run_stages(changed(later, force=True), stages=["report"])
    figures = run.manifest("evaluations/main_kl").facts
    assert figures["kl"] == pytest.approx(facts["fine_tune"]["held_out"]["after"]["kl"], rel=1e-5)
    assert verify(config, told.append), "\n".join(told)
    # Where the first one is replaced, the other is told to be older, with what makes it again.
    run_stages(changed(config, train__seed=1, force=True), stages=["train"])
    told.clear()
    assert not verify(config, told.append)
    assert "made from another dictionary" in told[told.index(_line_of(told, "main_kl")) + 1]
    assert "bathyscope fine-tune" in _line_of(told, "fine_tune.name=main_kl")
    assert "dictionary.name=main " in _line_of(told, "fine_tune.name=main_kl")


def _line_of(told: list[str], text: str) -> str:
    return next(line for line in told if text in line)


def test_the_same_again_does_nothing_and_other_settings_are_refused(copied: Config) -> None:
    config = settings(copied)
    run_stages(config, stages=["fine_tune"])
    before = listing(f"{config.url}/dictionaries/main_kl")
    run_stages(config, stages=["fine_tune"])
    assert listing(f"{config.url}/dictionaries/main_kl") == before
    with pytest.raises(IdentityMismatch, match=r"fine_tune\.lr"):
        run_stages(settings(copied, lr=1e-3), stages=["fine_tune"])
    # Another name is no other result, and another result has another name.
    run_stages(settings(copied, name="other"), stages=["fine_tune"])
    other = listing(f"{config.url}/dictionaries/other")
    assert other["model.safetensors"] == before["model.safetensors"]


def test_it_goes_on_from_its_checkpoint_to_the_bit(
    copied: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(changed(copied, train__checkpoint_steps=5), name="whole")
    run_stages(config, stages=["fine_tune"])
    config = changed(config, fine_tune__name="stopped")
    step, done = FineTuning.step, itertools.count()

    def dies(self: FineTuning, batch: Sequences) -> FineTuned:
        if next(done) == 12:
            raise RuntimeError("the power is gone")
        return step(self, batch)

    monkeypatch.setattr(FineTuning, "step", dies)
    with pytest.raises(RuntimeError, match="power"):
        run_stages(config, stages=["fine_tune"])
    with pytest.raises(MissingArtifact, match="no complete dictionaries/stopped"):
        Run(config.url).manifest("dictionaries/stopped")
    run_stages(config, stages=["fine_tune"])
    # Twelve steps, then those after the tenth.
    assert next(done) == 12 + 1 + 6
    whole, stopped = (listing(f"{config.url}/dictionaries/{n}") for n in ("whole", "stopped"))
    for name in ("model.safetensors", "config.json", "curve.parquet"):
        assert stopped[name] == whole[name], name
    assert not any("checkpoints" in name for name in stopped)


def test_what_cannot_be_fine_tuned_is_refused_before_a_model_is_loaded(copied: Config) -> None:
    gated = changed(copied, dictionary__activation="gated", dictionary__name="gated")
    run_stages(gated, stages=["train"])
    with pytest.raises(ConfigError, match=r"'gated', a gated autoencoder\. Fine-tuned"):
        fine_tune.units(gated)
    with pytest.raises(ConfigError, match="the dictionary itself"):
        fine_tune.units(settings(copied, name="main"))
    with pytest.raises(MissingArtifact, match="no complete dictionaries/none"):
        fine_tune.units(changed(copied, dictionary__name="none"))
    with pytest.raises(ConfigError, match=r"reads 'resid_post\.1', and the settings say 'mlp_out"):
        fine_tune.units(changed(copied, hooks__points=["mlp_out.1"]))
    transcoder = changed(copied, dictionary__kind="transcoder")
    with pytest.raises(ConfigError, match="fine_tune reads autoencoders only"):
        run_stages(transcoder, stages=["fine_tune"])
    with pytest.raises(ConfigError, match=r"reconstruction_share is 1\.0"):
        validate(settings(copied, reconstruction_share=1.0))
    with pytest.raises(ConfigError, match=r"fine_tune\.loss is 'mse'"):
        validate(settings(copied, loss="mse"))


def test_a_hook_point_inside_a_block_is_spliced_into_the_whole_model(copied: Config) -> None:
    config = changed(
        copied, hooks__points=["mlp_out.1"], dictionary__name="inside", force=True,
    )  # fmt: skip
    run_stages(config, stages=["harvest", "train"])
    run_stages(settings(config), stages=["fine_tune"])
    found = Run(config.url).manifest("dictionaries/inside_kl").facts["fine_tune"]["held_out"]
    assert found["after"]["kl"] < found["before"]["kl"]


def test_items_come_once_then_again_in_another_order() -> None:
    order = list(itertools.islice(drawn(range(5, 25), seed=3), 40))
    assert sorted(order[:20]) == sorted(order[20:]) == list(range(5, 25))
    assert order[:20] != order[20:]
    assert order == list(itertools.islice(drawn(range(5, 25), seed=3), 40))
    many = range(2**17 + 3)
    first = list(itertools.islice(drawn(many, seed=0), len(many)))
    assert sorted(first) == list(many)
