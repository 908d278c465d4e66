"""A run and two nights that an earlier version wrote: every later one must open them."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

import bathyscope
from bathyscope.commands.status import status
from bathyscope.commands.verify import verify
from bathyscope.config import Config
from bathyscope.errors import FormatVersionError, ModelError
from bathyscope.runs.run import Run

GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden"
VERSIONS = sorted(path.name.removesuffix(".tar.gz") for path in GOLDEN.glob("*.tar.gz"))


@pytest.fixture(scope="module", params=VERSIONS)
def golden(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of a format version, unpacked; for reading only."""
    folder = tmp_path_factory.mktemp("golden")
    with tarfile.open(GOLDEN / f"{request.param}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def noted(golden: Path) -> dict[str, Any]:
    """What its writer noted of it."""
    found: dict[str, Any] = json.loads((golden / "noted.json").read_text(encoding="utf-8"))
    return found


def test_there_is_one_of_this_version() -> None:
    assert "format-1" in VERSIONS


def test_what_was_written_is_read_as_it_was(golden: Path, noted: dict[str, Any]) -> None:
    run = bathyscope.open(str(golden / "main"))
    assert run.corpus.num_items == noted["items"]
    assert int(run.corpus.tokens(0, 10).sum()) == noted["tokens_sum"]
    rows = run.activations["resid_post.0"].items(0, 10)
    assert float(rows.double().sum()) == noted["rows_sum"]
    held_out = run.evaluations["main"]["reconstruction"]["held_out"]
    assert held_out["dictionary"]["fvu"] == noted["fvu"]
    assert run.features().column("count").to_pylist() == noted["counts"]
    assert len(run.examples()) == noted["examples"]
    assert run.curve().num_rows > 0


def test_its_dictionary_encodes_as_it_did(golden: Path) -> None:
    run = bathyscope.open(str(golden / "main"))
    rows = run.activations["resid_post.0"].items(0, 4).flatten(0, 1).float()
    latents = run.dictionaries["main"].encode(rows)
    values, indices = run.latents["main"].items(0, 4)
    order, stored = latents.indices.sort(dim=1), torch.from_numpy(indices).sort(dim=1)
    assert torch.equal(order.values, stored.values)
    mine = latents.values.gather(1, order.indices)
    theirs = torch.from_numpy(values).gather(1, stored.indices)
    # They are stored in bfloat16.
    assert torch.allclose(mine, theirs, rtol=2**-8)


def test_its_nights_are_there(golden: Path, noted: dict[str, Any]) -> None:
    run = Run(str(golden / "nights"))
    assert run.night()["night"] == noted["night"]
    assert run.night()["told"] == noted["told"]
    assert run.night_features(noted["checkpoint"]).num_rows == 64
    assert set(run.night_examples(noted["checkpoint"])["slice"].to_pylist()) == {
        "000001",
        "000002",
    }


def test_commands_that_read_runs_read_it(golden: Path) -> None:
    said: list[str] = []
    assert verify(Config(url=str(golden / "main")), said.append)
    assert said[-1].endswith("no fault")
    status(Config(url=str(golden / "nights")), said.append)
    assert any("after night 2" in line for line in said)


@pytest.mark.parametrize(
    ("place", "wanted"),
    [
        ("run.json", "was written in format version 99; this Bathyscope reads version 1"),
        ("corpus.zarr/manifests", "was written in format version 99; this Bathyscope reads"),
    ],
)
def test_an_unknown_version_is_refused_in_plain_words(
    golden: Path, tmp_path: Path, place: str, wanted: str
) -> None:
    folder = tmp_path / "run"
    with tarfile.open(GOLDEN / f"{VERSIONS[-1]}.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "main").rename(folder)
    found = folder / place
    for path in [found] if found.is_file() else found.iterdir():
        record = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**record, "format_version": 99}), encoding="utf-8")
    with pytest.raises(FormatVersionError, match=wanted):
        _ = bathyscope.open(str(folder)).corpus


def test_a_dictionary_of_an_unknown_version_is_refused(golden: Path, tmp_path: Path) -> None:
    with tarfile.open(GOLDEN / f"{VERSIONS[-1]}.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    path = tmp_path / "main" / "dictionaries" / "main" / "config.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**record, "format_version": 99}), encoding="utf-8")
    with pytest.raises(ModelError, match="says format version 99"):
        _ = bathyscope.open(str(tmp_path / "main")).dictionaries["main"]
