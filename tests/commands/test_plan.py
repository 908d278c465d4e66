"""The plan: estimates that hold, and refusals before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bathyscope.commands.disk import Estimate, check_disk, estimate
from bathyscope.commands.plan import lines, plan
from bathyscope.commands.run import run as run_stages
from bathyscope.config import Config
from bathyscope.errors import ConfigError, DiskSpaceError
from bathyscope.stages.model import describe_model


def folder_bytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def test_bytes_by_hand(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "run")
    found = estimate(config, describe_model(config))
    # 11,000 tokens of 32 dimensions in bfloat16; 4 latents of 6 bytes; 64 rows of 2 matrices.
    assert found.activations == 11_000 * 32 * 2
    assert found.latents == 11_000 * 4 * 6
    assert found.dictionary == 64 * 32 * 2 * 4


def test_activations_take_what_was_planned(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny_config(tmp_path / "run", store__items_per_unit=32)
    run_stages(config, stages=["corpus", "harvest"])
    stored = folder_bytes(tmp_path / "run" / "activations.zarr" / "resid_post.1")
    planned = estimate(config, describe_model(config)).activations
    # Whole units and whole documents: up to a unit per split and a document more than planned.
    assert planned <= stored <= 1.5 * planned


def test_lines_name_everything_that_matters(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny_config(tmp_path / "run")
    model = describe_model(config)
    text = "\n".join(lines(config, model, estimate(config, model)))
    for word in ("resid_post.1 (d 32)", "stops after layer 1", "float32", "64 latents", "jsonl"):
        assert word in text
    assert plan(config)["parameters"] == model.shape.num_parameters
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("kept", "told"),
    [("none", "none of it"), ("sample", "0.25 of the units, 66 kB"), ("all", "all of it")],
)
def test_what_nights_keep_of_latents_is_counted(
    tiny_config: Callable[..., Config], tmp_path: Path, kept: str, told: str
) -> None:
    config = tiny_config(tmp_path / "run", nightly__keep_latents=kept, nightly__sample_share=0.25)
    found = plan(config)
    # 11,000 rows with 4 latents of 6 bytes.
    assert found["bytes"]["latents"] == 264_000
    assert (
        "latents    264 kB: 24 B per row with an index and a value for each of k 4; nights keep "
        f"{told} (nightly.keep_latents={kept})" in found["lines"]
    )


def test_too_little_disk_is_found_before_the_work_starts(
    tiny_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tmp_path / "run")
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10_000_000}))
    with pytest.raises(DiskSpaceError, match=r"10 MB free; this run needs 2\d\d MB more"):
        run_stages(config)
    assert not (tmp_path / "run").exists()


def test_what_is_there_already_need_not_be_free(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny_config(tmp_path / "run")
    needed = Estimate(activations=10**9, latents=0, dictionary=0, other=0)
    with pytest.raises(DiskSpaceError):
        check_disk(config, needed, free_bytes=10**9)
    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / "shard").open("wb") as file:
        file.truncate(900_000_000)
    check_disk(config, needed, free_bytes=10**9)


def test_sequences_longer_than_the_context_are_refused(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny_config(tmp_path / "run", data__sequence_length=65)
    with pytest.raises(ConfigError, match=r"at most 64 tokens"):
        run_stages(config)
