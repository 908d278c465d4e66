"""Secrets are hidden wherever text is written; a canary is looked for in all that a run leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bathyscope.cli import run_command
from bathyscope.commands.run import run as run_stages
from bathyscope.config import Config
from bathyscope.errors import CorpusError
from bathyscope.secrets import without_secrets
from support import changed

CANARY = "c4n4ry-5ecret-9f2"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("s3://user:hunter2@host/bucket failed", "s3://user:***@host/bucket failed"),
        ("http://host/a?X-Amz-Signature=abc123&b=1", "http://host/a?X-Amz-Signature=***&b=1"),
        ("https://host/x?sas_token=q%3D&y", "https://host/x?sas_token=***&y"),
        ("token tok-12345 was refused", "token *** was refused"),
        ("gs://bucket/run at 12:30 by a@b.org", "gs://bucket/run at 12:30 by a@b.org"),
        ("8,192 tokens of text", "8,192 tokens of text"),
    ],
)
def test_what_is_hidden_and_what_stays(given: str, wanted: str) -> None:
    # Too short to be a secret: hiding it would eat words.
    environment = {"HF_TOKEN": "tok-12345", "MY_TOKEN": "of", "HOME": "text"}
    assert without_secrets(given, environment) == wanted


def test_a_longer_secret_that_holds_another_is_hidden_whole() -> None:
    environment = {"A_SECRET": "abcdef", "B_SECRET": "abcdefgh"}
    assert without_secrets("x abcdefgh y abcdef z", environment) == "x *** y *** z"


@pytest.fixture
def canary(monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "DB_PASSWORD"):
        monkeypatch.setenv(name, CANARY)
    return CANARY


def test_no_file_of_a_run_holds_a_secret(
    tiny_config: Callable[..., Config], tmp_path: Path, canary: str
) -> None:
    config = tiny_config(tmp_path / "run", data__train_tokens=1500, data__held_out_tokens=320)
    overrides = [f"data.id_key={canary}"]
    run_stages(
        config, stages=("corpus", "harvest"), resolved={"token": canary}, overrides=overrides
    )
    broken = changed(config, force=True, data__paths=[f"/nowhere/{canary}.jsonl"])
    with pytest.raises(CorpusError, match="No file matches"):
        run_stages(broken, stages=("corpus",))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("events" in str(path) for path in files)
    assert [path for path in files if canary.encode() in path.read_bytes()] == []


def test_no_error_shows_a_secret(capsys: pytest.CaptureFixture[str], canary: str) -> None:
    assert run_command(["run", f"model=folder:{canary}"]) == 2
    assert run_command(["status", f"/nowhere/user:{canary}"]) == 2
    said = capsys.readouterr()
    assert canary not in said.err + said.out
    assert "***" in said.err
