"""`bathyscope intervene` and `bathyscope.intervene` on a finished run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bathyscope
from bathyscope import cli
from bathyscope.attribution.interventions.changes import Scale
from bathyscope.attribution.interventions.intervention import Intervention, Latents
from bathyscope.config import Config
from bathyscope.errors import (
    BathyscopeError,
    ConfigError,
    HookPointError,
    IdentityMismatch,
    MissingArtifact,
    ModelError,
)
from bathyscope.runs.run import Run

PROMPT = "The value of a string"


@pytest.fixture(scope="module")
def words(finished_config: Config) -> Callable[..., list[str]]:
    """The words of a command on the finished run."""

    def make(*settings: str) -> list[str]:
        shared = [f"cache={finished_config.cache}", f"intervene.prompt='{PROMPT}'"]
        return ["intervene", finished_config.url, *shared, *settings]

    return make


def test_the_command_prints_and_writes_what_changes(
    words: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "report.json"
    argv = words(
        "intervene.latents=[3,5]", "intervene.values=[0,30]", "intervene.tokens=6",
        "intervene.held_out_items=2", "intervene.also=[{layer:2,head:1,ablate:mean}]",
        "intervene.reference_items=2", f"intervene.to={to}",
    )  # fmt: skip
    assert cli.run_command(argv) == 0
    out = capsys.readouterr().out
    for text in ("steer 0 ", "steer 30", "held-out ΔCE", "latent     3: active on", "continuation"):
        assert text in out, text
    made = json.loads(to.read_text(encoding="utf-8"))
    assert made["prompt"] == PROMPT
    assert "".join(made["tokens"]) == PROMPT
    assert [v["name"] for v in made["variants"]] == ["steer 0", "steer 30"]
    first = made["variants"][1]
    assert first["interventions"] == [
        "steer latent 3, 5 of main by 30", "ablate head 2.1 to its mean",
    ]  # fmt: skip
    assert len(first["kl"]) == len(made["tokens"]) == len(first["clean_ce"]) + 1
    assert first["mean_kl"] > made["variants"][0]["mean_kl"] > 0
    assert first["held_out"]["num_tokens"] > 50
    assert first["top_after"][0]["text"]


def test_python_takes_words_or_values_and_nothing_changes_nothing(finished: Run) -> None:
    report = bathyscope.intervene(
        finished,
        PROMPT,
        {
            "none": [Intervention(Latents(finished.dictionaries["main"], (1, 2)), Scale(1.0))],
            "strong": [{"latent": 3, "steer": 100.0}, {"hook": "mlp_out.3", "ablate": "zero"}],
        },
        tokens=8,
        temperature=1.0,
        seed=4,
        held_out_items=2,
    )
    none, strong = report.variants
    assert none.effect.mean_delta_ce == 0.0
    assert none.held_out is not None
    assert none.held_out.delta_ce == 0.0
    assert report.clean is not None
    assert none.continuation == report.clean
    assert strong.continuation != report.clean
    assert strong.held_out is not None
    assert strong.held_out.kl > 0.01
    one = bathyscope.intervene(finished, PROMPT, [{"latent": 3, "steer": 100.0}], tokens=0)
    assert [v.name for v in one.variants] == ["changed"]
    assert one.clean is None
    assert one.variants[0].effect.mean_kl > 0


@pytest.mark.parametrize(
    ("prompt", "interventions", "options", "error", "message"),
    [
        ("", [{"latent": 1, "steer": 1}], {}, ConfigError, "The prompt is empty"),
        (PROMPT, {"latent": 1, "steer": 1}, {}, ConfigError, "'latent' stands for 1. A list"),
        (PROMPT, [], {}, ConfigError, r"'changed' stands for \[\]. A list"),
        ("a " * 70, [{"latent": 1, "steer": 1}], {}, ModelError, "at most 64"),
        (PROMPT, [{"latent": 1, "steer": 1}], {"tokens": 60}, ModelError, "60 are to be generated"),
        (PROMPT, [{"latent": 64, "steer": 1}], {}, ConfigError, "'main' has latents 0 to 63"),
        (PROMPT, [{"latent": 1, "steer": float("nan")}], {}, ConfigError, "steer is nan"),
        (PROMPT, [{"layer": 1, "head": 4, "ablate": "zero"}], {}, HookPointError, "heads 0 to 3"),
        (PROMPT, [{"hook": "resid_mid.1", "scale": 0}], {}, HookPointError, "not changed"),
        (PROMPT, [{"hook": "mlp_out.9", "scale": 0}], {}, HookPointError, "asks for layer 9"),
        (
            PROMPT, [{"latent": 1, "steer": 1}], {"dictionary": "mai"},
            MissingArtifact, "Did you mean main",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_weights_are_loaded(
    prompt: str,
    interventions: Any,
    options: dict[str, Any],
    error: type[BathyscopeError],
    message: str,
    finished: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from bathyscope.commands import interventions as command

    def too_late(_: Config) -> None:
        raise AssertionError("weights were asked for")

    monkeypatch.setattr(command, "load_whole", too_late)
    with pytest.raises(error, match=message):
        bathyscope.intervene(finished, prompt, interventions, **options)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([], "Nothing is changed: set intervene.latents"),
        (["intervene.latents=[1]"], "needs a number: set intervene.values"),
        (["intervene.latents=[1]", "intervene.change=mean", "intervene.values=[1]"], "takes none"),
        (["intervene.latents=[1]", "intervene.change=stear"], "intervene.change is 'stear'"),
        (["intervene.latents=[1]", "intervene.values=[nan]"], "intervene.values has nan"),
        (["intervene.latents=[1]", "intervene.positions=last"], "intervene.positions is 'last'"),
        (["intervene.latents=[1]", "intervene.positions=[1.5]"], r"positions is \[1.5\]"),
        (["intervene.latents=[1]", "intervene.values=[1]", "intervene.temperature=-1"], "is -1"),
        (["intervene.latents=[1]", "intervene.values=[1]", "intervene.to=no/x.json"], "no folder"),
        (["intervene.latent=[1]"], "Did you mean intervene.latents"),
    ],
)
def test_settings_that_cannot_work(
    settings: list[str],
    message: str,
    words: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    import re

    assert cli.run_command(words(*settings)) == 2
    err = capsys.readouterr().err
    assert re.search(message, err), err
    assert "Traceback" not in err


def test_a_prompt_is_needed(finished_config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(["intervene", finished_config.url, "intervene.latents=[1]"]) == 2
    assert "intervene.prompt is not set" in capsys.readouterr().err


def test_another_model_than_the_run_was_made_with(
    finished_config: Config,
    broken_model: Path,
    words: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = words("intervene.latents=[1]", "intervene.values=[1]", f"model.path={broken_model}")
    assert cli.run_command(argv) == 2
    err = capsys.readouterr().err
    assert IdentityMismatch.__name__ in err
    assert "is another model than the one" in err


def test_a_run_without_dictionaries(finished_config: Config, tmp_path: Path) -> None:
    record = json.loads((Path(finished_config.url) / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(MissingArtifact, match="The run has no dictionary"):
        bathyscope.intervene(bathyscope.open(str(tmp_path)), PROMPT, [{"latent": 1, "steer": 1.0}])
