"""verify and redo: faults of a real run are named, and the printed commands repair them."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bathyscope import cli
from bathyscope.commands.run import run as run_stages
from bathyscope.commands.verify import verify
from bathyscope.config import Config
from bathyscope.runs.run import Run
from support import changed, listing

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def config(finished_config: Config, tmp_path: Path) -> Config:
    """A finished run of its own, which may be damaged."""
    folder = tmp_path / "it's a run"
    shutil.copytree(finished_config.url, folder)
    return changed(finished_config, url=str(folder))


def told(config: Config) -> tuple[bool, list[str]]:
    lines: list[str] = []
    return verify(config, lines.append), lines


def commands(lines: list[str]) -> list[list[str]]:
    """The commands that repair, as a shell would split them."""
    return [shlex.split(line)[1:] for line in lines if line.strip().startswith("bathyscope ")]


def segment_of(config: Config, artifact: str) -> str:
    return Run(config.url).manifest(artifact).segments[0].name


def test_a_finished_run_is_sound_and_stays_as_it_is(config: Config) -> None:
    before = listing(config.url)

    sound, lines = told(config)

    assert sound
    assert [line.split()[0] for line in lines[:-1]] == [
        "activations.zarr", "corpus.zarr", "dictionaries/main", "evaluations/main",
        "features/main", "latents.zarr/main", "report",
    ]  # fmt: skip
    assert all(line.endswith(": sound") for line in lines[:-1])
    assert "GB/s: no fault" in lines[-1]
    assert listing(config.url) == before


def damage_shard(run: Path, segment: str) -> None:
    shard = run / "activations.zarr" / "resid_post.1" / segment / "c.2.0"
    data = bytearray(shard.read_bytes())
    data[100] ^= 4
    shard.write_bytes(data)


def damage_size(run: Path, segment: str) -> None:
    shard = run / "activations.zarr" / "resid_post.1" / segment / "c.2.0"
    shard.write_bytes(shard.read_bytes()[:50])


def damage_receipt(run: Path, segment: str) -> None:
    (run / "activations.zarr" / "receipts" / segment / "00000" / "00000002.json").write_text("")


def lose_receipt(run: Path, segment: str) -> None:
    (run / "activations.zarr" / "receipts" / segment / "00000" / "00000002.json").unlink()


def lose_shard(run: Path, segment: str) -> None:
    (run / "activations.zarr" / "resid_post.1" / segment / "c.2.0").unlink()


def damage_metadata(run: Path, segment: str) -> None:
    (run / "activations.zarr" / "resid_post.1" / segment / "zarr.json").write_text("{}")


@pytest.mark.parametrize(
    "damage",
    [damage_shard, damage_size, damage_receipt, lose_receipt, lose_shard, damage_metadata],
)
def test_the_printed_commands_repair_what_was_found(
    config: Config, damage: Callable[[Path, str], None], capsys: Captured
) -> None:
    before = listing(Path(config.url) / "activations.zarr" / "resid_post.1")
    damage(Path(config.url), segment_of(config, "activations.zarr"))

    sound, lines = told(config)

    assert not sound
    assert "1 fault" in lines[0]
    assert lines[-1].strip().startswith("bathyscope ")
    for words in commands(lines):
        if words[0] == "redo":
            assert cli.run_command(words) == 0
        else:
            # The tiny run was not started from the command line: its settings are given here.
            assert words[0] == "harvest"
            assert f"url={config.url}" in words
            run_stages(config, stages=["harvest"])
    assert told(config)[0], capsys.readouterr()
    assert listing(Path(config.url) / "activations.zarr" / "resid_post.1") == before


def test_files_that_no_unit_repairs_are_made_anew_as_a_whole(config: Config) -> None:
    weights = Path(config.url) / "dictionaries" / "main" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])

    sound, lines = told(config)

    assert not sound
    assert "  model.safetensors holds other bytes than the manifest says" in lines
    (words,) = commands(lines)
    assert words[0] == "train"
    assert "dictionary.name=main" in words
    assert words[-1] == "force=true"


def test_an_artifact_of_another_upstream_is_named(config: Config, tmp_path: Path) -> None:
    run_stages(changed(config, train__seed=7, force=True), stages=["train"])

    sound, lines = told(config)

    assert not sound
    assert lines.count("  it was made from another dictionary than the one that is there") >= 1


def test_a_manifest_that_cannot_be_read_is_named(config: Config) -> None:
    newest = max((Path(config.url) / "report" / "manifests").iterdir())
    newest.write_text("{")

    sound, lines = told(config)

    assert not sound
    assert any("its newest manifest cannot be read" in line for line in lines)


def test_the_command_line_takes_a_bare_path_and_says_1_for_faults(
    config: Config, capsys: Captured
) -> None:
    assert cli.run_command(["verify", config.url]) == 0
    lose_shard(Path(config.url), segment_of(config, "activations.zarr"))
    assert cli.run_command(["verify", config.url, "verify.share=0"]) == 1
    assert "has no object" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["verify", "nowhere"], "holds no artifact"),
        (["redo", "nowhere"], "is no artifact"),
        (["verify", "nowhere", "verify.share=2"], "verify.share is 2"),
    ],
)
def test_what_cannot_be_checked_is_refused(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)

    assert cli.run_command(words) == 2
    assert said in capsys.readouterr().err


def test_a_segment_that_is_not_there_is_refused_with_those_that_are(
    config: Config, capsys: Captured
) -> None:
    artifact = f"{config.url}/corpus.zarr"

    assert cli.run_command(["redo", artifact, "redo.segment=other", "redo.units=[0]"]) == 2
    assert segment_of(config, "corpus.zarr") in capsys.readouterr().err


def test_a_run_record_that_is_lost_still_gives_a_command(config: Config) -> None:
    (Path(config.url) / "run.json").write_text(json.dumps([]))
    lose_receipt(Path(config.url), segment_of(config, "activations.zarr"))

    (words,) = commands(told(config)[1])

    assert words == ["harvest", f"url={config.url}"]
