"""Every command in `deploy/` is one that exists, and its overrides compose."""

from __future__ import annotations

import pytest

from bathyscope import cli
from bathyscope.command_help import COMMANDS
from deploy_files import NOT_YET, Command, commands, job_specs

SLURM_ADDS = ["cluster=address", "cluster.address=10.0.0.1:20001"]
"""What `bathyscope.sbatch` puts after the words that it is given."""


def test_commands_are_found_in_every_kind_of_file() -> None:
    found = {command.file for command in commands()}
    assert {name for name, _ in job_specs()} <= found
    assert {
        "README.md",
        "slurm/bathyscope.sbatch",
        "slurm/nightly.scron",
        "kuberay/raycluster.yaml",
    } <= found


@pytest.mark.parametrize("command", commands(), ids=str)
def test_a_command_exists_and_its_overrides_compose(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *overrides = command.here
    if name in NOT_YET:
        assert name not in COMMANDS, f"bathyscope {name} exists now: take it out of NOT_YET"
        pytest.skip(f"bathyscope {name} does not exist yet")
    more = SLURM_ADDS if command.file.startswith("slurm/") else []
    code = cli.run_command([name, *overrides, *more, "--cfg"])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "cluster:" in said.out


def test_a_wrong_override_would_be_seen(capsys: pytest.CaptureFixture[str]) -> None:
    command = next(c for c in commands() if c.words[0] == "run")
    name, *overrides = command.here
    assert cli.run_command([name, *overrides, "dictionary.kay=3", "--cfg"]) == 2
    assert "dictionary.k" in capsys.readouterr().err


def test_commands_that_do_not_exist_yet_do_not() -> None:
    assert not NOT_YET & set(COMMANDS), "take these out of NOT_YET, so that they are composed"
