"""Nights from end to end: what is new is done, what is not is left, and all of it is published."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bathyscope.commands.nightly import nightly
from bathyscope.config import Config
from bathyscope.errors import ConfigError, IdentityMismatch, JobError, MissingArtifact
from bathyscope.runs.run import Run
from bathyscope.stages.nights.history import open_nights
from bathyscope.stages.nights.lease import one_night
from bathyscope.stores.objects import Objects
from support import changed

PIECES = 30


class Inbox:
    """Watched folders, and what lies in them."""

    def __init__(self, folder: Path, model: Path, texts: list[str]) -> None:
        self.checkpoints, self.files = folder / "checkpoints", folder / "inbox"
        self.checkpoints.mkdir(parents=True)
        self.files.mkdir()
        self._model = model
        pieces = [text[i : i + 900] for text in texts for i in range(0, len(text), 900)]
        self._pieces = iter(pieces)

    def checkpoint(self, name: str, noise: float = 0.0) -> Path:
        """A checkpoint, its weights moved a little."""
        folder = self.checkpoints / name
        shutil.copytree(self._model, folder, ignore=shutil.ignore_patterns(".*"))
        weights = load_file(folder / "model.safetensors")
        generator = torch.Generator().manual_seed(len(name))
        key = "model.layers.1.mlp.down_proj.weight"
        weights[key] += noise * torch.randn(weights[key].shape, generator=generator)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    def text(self, name: str) -> Path:
        """A file of documents that no other file has."""
        path = self.files / name
        lines = [json.dumps({"text": next(self._pieces)}) for _ in range(PIECES)]
        path.write_text("\n".join(lines), encoding="utf-8")
        return path


@pytest.fixture
def inbox(tmp_path: Path, tiny_model: Path, texts: list[str]) -> Inbox:
    return Inbox(tmp_path, tiny_model, texts)


@pytest.fixture
def watching(
    tiny_config: Callable[..., Config], finished_config: Config, inbox: Inbox, tmp_path: Path
) -> Config:
    return tiny_config(
        tmp_path / "nightly",
        data__paths=[str(inbox.files / "*.jsonl")],
        data__id_key=None,
        dictionary__run=finished_config.url,
        nightly__checkpoints=[str(inbox.checkpoints)],
        nightly__settle_s=0.0,
        evaluate__splice_tokens=200,
    )


def night_of(config: Config, **settings: object) -> list[str]:
    """Do a night that must not fail, and return what it said."""
    said: list[str] = []
    assert nightly(changed(config, **settings), said.append), said
    return said


def results_of(config: Config) -> dict:  # type: ignore[type-arg]
    """The results of the last night."""
    run = Run(config.url)
    objects = run.objects.at("nights")
    return json.loads(objects.get(run.night()["results_key"]))


def files_in(config: Config) -> set[str]:
    return {key for key, _ in Objects(config.url).walk()}


def test_a_night_reads_what_is_new_and_the_next_has_nothing_to_do(
    watching: Config, inbox: Inbox
) -> None:
    inbox.checkpoint("step-1")
    inbox.text("a.jsonl")
    assert "1 extraction(s), nothing to compare with yet" in night_of(watching)[0]
    results = results_of(watching)
    [extraction] = results["extractions"]
    assert extraction["documents"] == PIECES
    assert 3 < extraction["l0"] <= 4
    assert 0 < extraction["fvu"] < 1
    assert results["slice"]["files"] == 1
    before = files_in(watching)
    assert night_of(watching) == ["nightly    nothing new since night 1"]
    assert files_in(watching) == before | {"nights/heartbeat.json"}


def test_new_text_is_one_slice_that_is_compared_with_earlier_ones(
    watching: Config, inbox: Inbox
) -> None:
    inbox.checkpoint("step-1")
    inbox.text("a.jsonl")
    night_of(watching)
    inbox.text("b.jsonl")
    inbox.text("c.jsonl")
    night_of(watching)
    results = results_of(watching)
    assert results["slice"]["files"] == 2
    [made] = results["comparisons"]
    assert (made["kind"], made["slice"]) == ("text", "000002")
    assert made["against"] == [f"{made['checkpoint']}/000001"]
    # Three numbers of a latent and four series, of one dictionary.
    assert made["num_tests"] == 3 * 64 + 4
    assert [each["density"] for each in made["power"]] == [1e-5, 1e-4, 1e-3, 1e-2]


def test_a_new_checkpoint_reads_earlier_text_and_is_compared_on_it(
    watching: Config, inbox: Inbox
) -> None:
    inbox.checkpoint("step-9")
    inbox.text("a.jsonl")
    night_of(watching)
    inbox.checkpoint("step-10", noise=0.5)
    night_of(watching)
    results = results_of(watching)
    [extraction] = results["extractions"]
    assert extraction["checkpoint"].startswith("step-10-")
    assert extraction["slice"] == "000001"
    [made] = results["comparisons"]
    assert made["kind"] == "checkpoint"
    assert made["against"][0].startswith("step-9-")
    # So much noise in the layer that the dictionary reads is seen.
    assert made["raised"]
    assert {each["name"] for each in made["series"] if each["changed"]} >= {"fvu"}
    # The number in the name counts as a number: new text is read by step-10 alone.
    inbox.text("b.jsonl")
    night_of(watching)
    assert [e["checkpoint"][:8] for e in results_of(watching)["extractions"]] == ["step-10-"]


def test_statistics_and_examples_are_merged_over_slices(watching: Config, inbox: Inbox) -> None:
    inbox.checkpoint("step-1")
    for name in ("a.jsonl", "b.jsonl"):
        inbox.text(name)
        night_of(watching)
    run = Run(watching.url)
    [checkpoint] = run.night()["tables"]
    merged, examples = run.night_features(checkpoint), run.night_examples(checkpoint)
    parts = [Run(f"{watching.url}/extractions/{checkpoint}/{s}") for s in ("000001", "000002")]
    counts = [part.features().column("count").to_numpy() for part in parts]
    assert merged.column("count").to_pylist() == (counts[0] + counts[1]).tolist()
    largest = max(value for part in parts for value in part.features()["max"].to_pylist() if value)
    assert max(v for v in merged["max"].to_pylist() if v) == largest
    assert set(examples["slice"].to_pylist()) == {"000001", "000002"}
    assert max(examples["rank"].to_pylist()) == watching.describe.top_examples - 1


def test_only_what_is_asked_for_is_kept(watching: Config, inbox: Inbox) -> None:
    inbox.checkpoint("step-1")
    inbox.text("a.jsonl")
    night_of(watching, nightly__keep_latents="sample", nightly__sample_share=0.25)
    folder = next(Path(watching.url, "extractions").glob("*/*"))
    assert not (folder / "activations.zarr").exists()
    assert not (folder / "latents.zarr").exists()
    [sample] = (folder / "observations" / "main").glob("sample.*.parquet")
    assert sample.stat().st_size > 0


def test_old_nights_are_let_go_and_not_read_again(watching: Config, inbox: Inbox) -> None:
    inbox.checkpoint("step-1")
    kept = {"nightly__keep_nights": 2, "nightly__baseline": 1}
    for name in "abcd":
        inbox.text(f"{name}.jsonl")
        night_of(watching, **kept)
    folder = Path(watching.url)
    assert sorted(path.name for path in (folder / "slices").iterdir()) == ["000003", "000004"]
    [checkpoint] = (folder / "extractions").iterdir()
    assert sorted(path.name for path in checkpoint.iterdir()) == ["000003", "000004"]
    assert len(list((folder / "nights" / "reports").iterdir())) == 2
    assert results_of(watching)["comparisons"][0]["against"] == [f"{checkpoint.name}/000003"]
    # The merged statistics are of all four nights, and of every night there is still a line.
    rows = Run(watching.url).night_features(checkpoint.name).schema.metadata[b"rows"]
    assert int(rows) > 3 * results_of(watching)["extractions"][0]["rows"] * 0.8
    nights = Run(watching.url).nights()
    assert [each["night"] for each in nights] == [1, 2, 3, 4]
    assert nights[0]["told"] == "1 extraction(s), nothing to compare with yet"
    assert len(list((folder / "nights" / "manifests").iterdir())) == 4
    with pytest.raises(MissingArtifact, match=r"Night 1 .* was let go \(nightly.keep_nights\)"):
        Run(watching.url).night(1)
    with pytest.raises(MissingArtifact, match="has no night 9"):
        Run(watching.url).night(9)
    assert night_of(watching, **kept) == ["nightly    nothing new since night 4"]


def test_a_file_that_cannot_be_read_is_named_and_keeps_nobody_waiting(
    watching: Config, inbox: Inbox
) -> None:
    inbox.checkpoint("step-1")
    inbox.text("a.jsonl")
    (inbox.files / "broken.jsonl").write_text('{"text": "cut sho', encoding="utf-8")
    said: list[str] = []
    assert not nightly(watching, said.append)
    assert "broken.jsonl: CorpusError" in said[0]
    assert results_of(watching)["slice"]["files"] == 1
    # Mended, it is new text.
    inbox.text("broken.jsonl")
    night_of(watching)
    assert results_of(watching)["slice"]["files"] == 1


def test_a_checkpoint_that_fails_is_tried_again(watching: Config, inbox: Inbox) -> None:
    inbox.checkpoint("step-1")
    inbox.text("a.jsonl")
    broken = inbox.checkpoint("step-2")
    weights = load_file(broken / "model.safetensors")
    whole = dict(weights)
    weights["model.layers.0.mlp.down_proj.weight"][0, 0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    said: list[str] = []
    assert not nightly(watching, said.append)
    assert "NonFiniteError" in said[0]
    assert [e["checkpoint"][:6] for e in results_of(watching)["extractions"]] == ["step-1"]
    assert not nightly(watching, said.append)
    # Other weights are another checkpoint; the one that failed is no longer there.
    whole["model.layers.0.mlp.down_proj.weight"][0, 0] = 0.25
    save_file(whole, broken / "model.safetensors", metadata={"format": "pt"})
    night_of(watching)
    assert [e["checkpoint"][:6] for e in results_of(watching)["extractions"]] == ["step-2"]


def test_what_is_half_written_waits(watching: Config, inbox: Inbox) -> None:
    inbox.checkpoint("step-1")
    inbox.text("a.jsonl")
    config = changed(watching, nightly__settle_s=3600.0)
    assert night_of(config) == ["nightly    nothing new since night 0"]
    old = time.time() - 7200
    for path in [*inbox.files.rglob("*"), *inbox.checkpoints.rglob("*")]:
        os.utime(path, (old, old))
    (inbox.checkpoints / "step-2").mkdir()
    (inbox.checkpoints / "step-2" / "config.json").write_text("{}", encoding="utf-8")
    night_of(config)
    assert len(results_of(config)["extractions"]) == 1


def test_an_interrupted_night_goes_on_with_what_it_had(
    watching: Config, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox.checkpoint("step-1")
    inbox.text("a.jsonl")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("bathyscope.stages.observe.finish", stop)
        with pytest.raises(KeyboardInterrupt):
            nightly(watching, print)
    assert open_nights(watching).agenda is not None
    inbox.text("b.jsonl")
    night_of(watching)
    # Its own text first, and in the same call what has come in since.
    assert Run(watching.url).night(1)["night"] == 1
    assert results_of(watching)["night"] == 2
    assert results_of(watching)["slice"]["files"] == 1


def test_one_night_at_a_time(watching: Config, inbox: Inbox) -> None:
    inbox.checkpoint("step-1")
    inbox.text("a.jsonl")
    with one_night(Objects(watching.url).at("nights"), seconds=60.0):
        code = (
            "from bathyscope.stages.nights.lease import one_night\n"
            "from bathyscope.stores.objects import Objects\n"
            f"one_night(Objects({watching.url!r}).at('nights'), seconds=60.0).__enter__()\n"
        )
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"Another night is under way in {watching.url}/nights: process" in other.stderr
    assert JobError.__name__ in other.stderr
    night_of(watching)


def test_another_dictionary_is_refused(
    watching: Config, inbox: Inbox, finished_config: Config, tmp_path: Path
) -> None:
    inbox.checkpoint("step-1")
    inbox.text("a.jsonl")
    night_of(watching)
    with pytest.raises(IdentityMismatch, match=r"splice_tokens: 200 -> 100"):
        nightly(changed(watching, evaluate__splice_tokens=100), print)
    with pytest.raises(ConfigError, match=r"dictionary\.run is not set"):
        nightly(changed(watching, dictionary__run=None), print)
    with pytest.raises(ConfigError, match="which is no folder"):
        nightly(changed(watching, nightly__checkpoints=[str(tmp_path / "nothing")]), print)
    with pytest.raises(ConfigError, match="Text of kind 'documentation' is no files"):
        nightly(changed(watching, data__kind="documentation", url=str(tmp_path / "x")), print)


def test_a_program_is_started_with_the_report(
    watching: Config, inbox: Inbox, tmp_path: Path
) -> None:
    inbox.checkpoint("step-1")
    inbox.text("a.jsonl")
    noted = tmp_path / "noted"
    code = f"import sys, pathlib; pathlib.Path({str(noted)!r}).write_text(sys.argv[1])"
    night_of(watching, nightly__command=f'{sys.executable} -c "{code}"')
    report = Path(noted.read_text(encoding="utf-8"))
    assert "<title>Night 1</title>" in report.read_text(encoding="utf-8")
    inbox.text("b.jsonl")
    said: list[str] = []
    failing = changed(watching, nightly__command=f"{sys.executable} -c 'raise SystemExit(3)'")
    assert not nightly(failing, said.append)
    assert Run(watching.url).night()["night"] == 2
