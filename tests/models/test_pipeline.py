"""Stages in processes of their own, over gloo: the captures are those of the whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as spawn
from torch import Tensor

from bathyscope.errors import ModelError
from bathyscope.models.capture import capture
from bathyscope.models.hook_points import resolve
from bathyscope.models.load import load_model, read_config
from bathyscope.models.pipeline import PipelineStage, stage_blocks

POINTS = ("resid_pre.0", "attn_out.0", "resid_post.1", "resid_mid.2", "mlp_out.2")


def batches(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(3, 128, (2, 9), generator=generator) for _ in range(count)]


def stage(rank: int, world: int, folder: str, count: int, names: list[str], out: str) -> None:
    """One process of the pipeline."""
    dist.init_process_group("gloo", init_method=f"file://{out}/meet", rank=rank, world_size=world)
    config = read_config(folder)
    points = [resolve(config, name) for name in names]
    blocks = stage_blocks([1, 1, 1], world)[rank]
    attention = "eager" if config.model_type == "gemma2" else "sdpa"
    part = PipelineStage(folder, blocks, points, dtype=torch.float32, attention=attention)
    found = [
        {name: x.clone() for name, x in seen.items()} for seen in part.run(iter(batches(count)))
    ]
    torch.save({"rank": rank, "layers": part.loaded.layers, "found": found}, f"{out}/{rank}.pt")
    dist.destroy_process_group()


def run(folder: Path, out: Path, *, world: int, count: int, names: list[str]) -> list[Any]:
    spawn.spawn(stage, (world, str(folder), count, names, str(out)), nprocs=world)
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(world)]


@pytest.mark.parametrize(("family", "world"), [("llama", 3), ("gpt2", 2), ("gemma2", 2)])
def test_captures_are_those_of_the_whole_model(
    folders: dict[str, Path], tmp_path: Path, family: str, world: int
) -> None:
    parts = run(folders[family], tmp_path, world=world, count=7, names=list(POINTS))
    attention = "eager" if family == "gemma2" else "sdpa"
    whole = load_model(folders[family], dtype=torch.float32, attention=attention)
    for number, tokens in enumerate(batches(7)):
        wanted = capture(whole.model, POINTS, tokens)
        found = {name: x for part in parts for name, x in part["found"][number].items()}
        assert found.keys() == wanted.keys()
        for name, x in wanted.items():
            assert torch.equal(found[name], x), name


def test_a_stage_without_a_hook_point_passes_on(llama_folder: Path, tmp_path: Path) -> None:
    first, last = run(llama_folder, tmp_path, world=2, count=2, names=["resid_post.2"])
    assert [first["layers"], last["layers"]] == [(0, 1), (1, 3)], "its own blocks only"
    assert first["found"] == [{}, {}]
    whole = load_model(llama_folder, dtype=torch.float32)
    wanted = capture(whole.model, ["resid_post.2"], batches(2)[1])["resid_post.2"]
    assert torch.equal(last["found"][1]["resid_post.2"], wanted)


def test_blocks_are_shared_out_by_size() -> None:
    assert stage_blocks([1, 1, 1, 1], 2) == [(0, 2), (2, 4)]
    assert stage_blocks([1, 1, 1], 3) == [(0, 1), (1, 2), (2, 3)]
    assert stage_blocks([5, 1, 1, 1, 1, 1], 2) == [(0, 1), (1, 6)]
    assert stage_blocks([1, 1, 1, 9], 3) == [(0, 2), (2, 3), (3, 4)]
    assert stage_blocks([7], 1) == [(0, 1)]
    with pytest.raises(ModelError, match="3 blocks cannot be spread over 4 stages"):
        stage_blocks([1, 1, 1], 4)
