"""The whole path with activations stored in other ways, and in other places."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import bathyscope
from bathyscope.commands.run import run as run_stages
from bathyscope.config import Config
from bathyscope.errors import IdentityMismatch
from bathyscope.runs.run import REPORT, Run
from s3_server import BUCKET, environment, s3_server
from support import changed

MakeConfig = Callable[..., Config]


def fvu_of(run: Run) -> float:
    return float(run.evaluations["main"]["reconstruction"]["held_out"]["dictionary"]["fvu"])


def rows_of(run: Run) -> torch.Tensor:
    return run.activations["resid_post.1"].items(0, run.corpus.num_items).float()


@pytest.mark.parametrize("codec", ["zstd_bitshuffle", "int8", "fp8"])
def test_a_run_goes_through_with_every_codec(
    tiny_config: MakeConfig, finished: Run, tmp_path: Path, codec: str
) -> None:
    config = tiny_config(tmp_path / codec, store__codec=codec)
    run_stages(config)
    run = bathyscope.open(config.url)

    assert list(run.activations) == ["resid_post.1"]
    plain, stored = rows_of(finished), rows_of(run)
    if codec == "zstd_bitshuffle":
        assert torch.equal(stored, plain)
        assert fvu_of(run) == fvu_of(finished)
    else:
        # The largest value has half a code of 1/127, or 2⁻⁴ of itself; then bfloat16's 2⁻⁸.
        bound = plain.abs().amax(-1, keepdim=True) * (0.5 / 127 if codec == "int8" else 2**-4)
        assert not torch.equal(stored, plain)
        assert ((stored - plain).abs() <= bound + plain.abs() * 2**-8).all()
        assert abs(fvu_of(run) - fvu_of(finished)) < 0.05
    with pytest.raises(IdentityMismatch, match="codec"):
        run_stages(changed(config, store__codec="none"), stages=("harvest",))


def test_a_run_goes_through_on_a_server_that_speaks_s3(
    tiny_config: MakeConfig, finished: Run, tmp_path: Path
) -> None:
    with s3_server(tmp_path / "server.log") as server, environment(server):
        config = tiny_config(f"s3://{BUCKET}/runs/tiny")
        run_stages(config)
        run = bathyscope.open(config.url)

        assert torch.equal(rows_of(run), rows_of(finished))
        there, here = run.dictionaries["main"].W_enc, finished.dictionaries["main"].W_enc
        assert torch.equal(there, here)
        assert fvu_of(run) == fvu_of(finished)
        assert "index.html" in run.objects.files(REPORT)
        # Once more: everything is found complete.
        before = sorted(run.objects.walk())
        run_stages(config)
        unchanged = {"run.json", "report"}
        assert [k for k in sorted(run.objects.walk()) if k[0].split("/")[0] not in unchanged] == [
            k for k in before if k[0].split("/")[0] not in unchanged
        ]
