"""The command line: help, `--cfg`, the user's own YAML, and errors a person can act on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

import bathyscope
from bathyscope import cli
from bathyscope.command_help import COMMANDS, GROUPS, OF_A_FOLDER, choices
from bathyscope.commands import ladder as ladders
from bathyscope.commands import run as runs
from bathyscope.commands import summary
from bathyscope.composition import compose
from bathyscope.config import Config, setting_names
from bathyscope.errors import HookPointError

Captured = pytest.CaptureFixture[str]


def told(capsys: Captured, *argv: str) -> str:
    """What a command that succeeds prints."""
    assert cli.run_command(list(argv)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def refused(capsys: Captured, *argv: str) -> str:
    """What a command that fails says: on stderr alone, in one line, without a traceback."""
    assert cli.run_command(list(argv)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert err.count("\n") == 1
    return err


def resolved(capsys: Captured, *argv: str) -> dict[str, Any]:
    """The configuration that `--cfg` prints, read back."""
    found: dict[str, Any] = yaml.safe_load(told(capsys, "plan", *argv, "--cfg"))
    return found


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_help_lists_every_command_with_a_line(capsys: Captured, argv: list[str]) -> None:
    lines = told(capsys, *argv).splitlines()
    for name, about in COMMANDS.items():
        assert any(line.split(maxsplit=1) == [name, about] for line in lines), name


@pytest.mark.parametrize("command", OF_A_FOLDER)
def test_help_of_a_command_about_a_folder_lists_its_own_settings(
    capsys: Captured, command: str
) -> None:
    lines = [line.strip() for line in told(capsys, command, "--help").splitlines()]
    assert lines[0].startswith(f"bathyscope {command} ")
    settings = [line.split()[0] for line in lines[4:]]
    assert settings == [n for n in setting_names() if n.startswith(f"{command}.")]


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in OF_A_FOLDER])
def test_help_of_a_command_lists_groups_and_every_setting(capsys: Captured, command: str) -> None:
    lines = [line.strip() for line in told(capsys, command, "--help").splitlines()]
    assert COMMANDS[command] in lines
    for group in GROUPS:
        assert any(line.split(maxsplit=1) == [group, ", ".join(choices(group))] for line in lines)
    described = {line.split()[0]: line for line in lines if line.endswith("]")}
    leaves = {n for n in setting_names() if not any(o.startswith(n + ".") for o in setting_names())}
    assert set(described) == leaves - {"experiment"}
    for name, line in described.items():
        help_and_default = line.removeprefix(name).strip()
        assert len(help_and_default.partition("[")[0]) >= 10, name


def test_help_shows_defaults(capsys: Captured) -> None:
    text = told(capsys, "train", "--help")
    for line in (
        "passes over the training rows [5]",
        "folder for weights that fit no device [none]",
        "from something else [False]",
        "docstrings from [stdlib, topics, numpy, torch]",
    ):
        assert line in text


def test_version(capsys: Captured) -> None:
    assert told(capsys, "--version").strip() == bathyscope.__version__


def test_cfg_is_yaml_and_equals_the_configuration(capsys: Captured) -> None:
    overrides = ["experiment=smoke", "train.lr=0.5", "hooks.points=[mlp_out.1]"]
    printed = resolved(capsys, *overrides)
    config, _ = compose(overrides)
    assert printed == OmegaConf.to_container(OmegaConf.structured(config))
    assert printed["train"]["lr"] == 0.5
    assert printed["dictionary"]["expansion"] == 2


def test_cfg_computes_nothing(tmp_path: Path, capsys: Captured) -> None:
    resolved(capsys, f"url={tmp_path}/run")
    assert list(tmp_path.iterdir()) == []


def test_what_is_given_wins_over_the_experiment(capsys: Captured) -> None:
    printed = resolved(capsys, "url=elsewhere", "train=quick", "experiment=demo", "model=gpt2")
    assert printed["url"] == "elsewhere"
    assert printed["train"]["epochs"] == 1
    assert printed["model"]["repo"] == "openai-community/gpt2"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["rn"], ["no command 'rn'", "Did you mean run?", "harvest"]),
        (["model=gpt2", "run"], ["no command 'model=gpt2'"]),
        (["harvets", "--help"], ["Did you mean harvest?"]),
        (["run", "--hepl"], ["Unknown option --hepl", "Did you mean --help?"]),
        (["--verbose"], ["Unknown option --verbose"]),
        (["run", "--config-dir"], ["Unknown option --config-dir", "--config-dir=FOLDER"]),
        (["--cfg"], ["--cfg needs a command"]),
        (["run", "train.lrr=1"], ["'lrr'", "Did you mean train.lr"]),
        (["run", "+train.lrr=1"], ["no setting 'train.lrr'", "Did you mean train.lr"]),
        (["run", "++trian.lr=1"], ["no setting 'trian'", "Did you mean train.lr"]),
        (["run", "modle=gpt2"], ["'modle'", "Did you mean model?"]),
        (["run", "+modle=gpt2"], ["modle", "Did you mean model?"]),
        (["run", "model=smolm2"], ["Could not find 'model/smolm2'", "smollm2_135m"]),
        (["run", "experiment=dem"], ["'experiment/dem'", "demo"]),
        (["run", "cluster=addres"], ["'cluster/addres'", "address"]),
        (["run", "train=null"], ["train=null"]),
        (["run", "train=3"], ["train=3"]),
        (["run", "train.lr=fast"], ["train.lr: Value 'fast'", "Float"]),
        (["run", "dictionary.k=3.5"], ["dictionary.k: Value '3.5'", "Integer"]),
        (["run", "store.lease_s=null"], ["store.lease_s", "not Optional"]),
        (["run", "data.packages=numpy"], ["data.packages", "list"]),
        (["run", "model.max_memory={0:1GiB}"], ["model.max_memory.0", "Key 0 (int)"]),
        (["run", "train.lr"], ["train.lr", "EQUAL"]),
        (["run", "url=[a"], ["[a"]),
        (["run", "url=s3://b/x=1"], ["Quote a value", "url=s3://b/x=1"]),
        (["run", "url=${nowhere}"], ["url: Interpolation key 'nowhere' not found"]),
        (["run", "train.lr=1,2"], ["Ambiguous value", "quote the value"]),
        (["run", "~train.lr"], ["train.lr", "deletion"]),
        (["run", "train.lr=-1"], ["train.lr is -1.0", "above 0"]),
        (["run", "model=hub"], ["model.repo is not set"]),
        (["run", "train.warmup_share=0.9"], ["add up to more than 1"]),
    ],
)  # fmt: skip
def test_errors_of_the_user(capsys: Captured, argv: list[str], words: list[str]) -> None:
    message = refused(capsys, *argv)
    assert message.startswith("ConfigError: ")
    for word in words:
        assert word in message
    for internal in ("hydra.cc", "--multirun", "full_key", "object_type", "search path"):
        assert internal not in message


@pytest.mark.parametrize(
    ("override", "names", "wanted"),
    [
        ("url='runs/a,b'", ["url"], "runs/a,b"),
        ("url='s3://bucket/x=1'", ["url"], "s3://bucket/x=1"),
        ("url='a (b)'", ["url"], "a (b)"),
        ("url=/tmp/two words", ["url"], "/tmp/two words"),
        ("url=gs://bucket/run-1", ["url"], "gs://bucket/run-1"),
        ("url='it\\'s'", ["url"], "it's"),
        ("dictionary.hook=null", ["dictionary", "hook"], None),
        ("dictionary.name=null_space", ["dictionary", "name"], "null_space"),
        ("dictionary.name='1'", ["dictionary", "name"], "1"),
        ("data.packages=[numpy, torch]", ["data", "packages"], ["numpy", "torch"]),
        ("train.lr=1e-3", ["train", "lr"], 1e-3),
        ("train.lr=1", ["train", "lr"], 1.0),
        ("+model.max_memory={cpu:200GiB}", ["model", "max_memory"], {"cpu": "200GiB"}),
        ("+model.max_memory.0=70GiB", ["model", "max_memory"], {"0": "70GiB"}),
        ("model={path: x, kind: folder}", ["model", "path"], "x"),
        ("++train.epochs=2", ["train", "epochs"], 2),
    ],
)  # fmt: skip
def test_odd_values_arrive(capsys: Captured, override: str, names: list[str], wanted: Any) -> None:
    found: Any = resolved(capsys, override)
    for name in names:
        found = found[name]
    assert found == wanted
    assert type(found) is type(wanted)


@pytest.mark.parametrize("folder", ["own", "my conf, (a)", "it's=mine"])
def test_a_folder_of_ones_own_yaml(tmp_path: Path, capsys: Captured, folder: str) -> None:
    own = tmp_path / folder
    for group in ("train", "experiment"):
        (own / group).mkdir(parents=True)
    (own / "train" / "slow.yaml").write_text("epochs: 50\nlr: 0.25\n")
    (own / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n  - override /train: slow\n  - override /cluster: inline\n"
        "dictionary:\n  k: 7\nmodel:\n  max_memory: {'0': 1GiB}\nurl: runs/mine\n"
    )
    printed = resolved(capsys, "experiment=mine", f"--config-dir={own}")
    assert (printed["train"]["epochs"], printed["train"]["lr"]) == (50, 0.25)
    assert (printed["dictionary"]["k"], printed["url"]) == (7, "runs/mine")
    assert printed["cluster"]["kind"] == "inline"
    assert printed["model"]["max_memory"] == {"0": "1GiB"}
    # One call does not leave its folder behind for the next.
    assert "Could not find 'train/slow'" in refused(capsys, "plan", "train=slow", "--cfg")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lr: [open\n", ["flow sequence", "odd.yaml"]),
        ("lrr: 1\n", ["'lrr'", "TrainConfig", "train/odd"]),
        ("lr: fast\n", ["'fast'", "Float", "train/odd"]),
    ],
)
def test_a_yaml_of_ones_own_with_a_mistake(
    tmp_path: Path, capsys: Captured, text: str, words: list[str]
) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "odd.yaml").write_text(text)
    message = refused(capsys, "plan", "train=odd", f"--config-dir={tmp_path}", "--cfg")
    for word in words:
        assert word in message


def test_a_config_folder_that_is_not_there(tmp_path: Path, capsys: Captured) -> None:
    message = refused(capsys, "plan", f"--config-dir={tmp_path}/nope", "--cfg")
    assert "nope" in message
    assert "is no folder" in message


def no_work(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run(*args: object, **settings: object) -> None:
        raise error

    monkeypatch.setattr(runs, "run", run)


def test_an_error_of_ours_is_explained(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    no_work(monkeypatch, HookPointError("No hook point 'resid_pst.9' in this model."))
    message = refused(capsys, "harvest")
    assert message == "HookPointError: No hook point 'resid_pst.9' in this model.\n"


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATHYSCOPE_DEBUG", "1")
    no_work(monkeypatch, HookPointError("No hook point."))
    with pytest.raises(HookPointError):
        cli.run_command(["harvest"])


def test_a_bug_is_not_dressed_up_as_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    no_work(monkeypatch, AssertionError("ours"))
    with pytest.raises(AssertionError):
        cli.run_command(["harvest"])


def test_an_interrupt_has_its_own_code(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    no_work(monkeypatch, KeyboardInterrupt())
    assert cli.run_command(["harvest"]) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert "the same command goes on" in err


@pytest.mark.parametrize(
    ("command", "stages"), [("run", runs.STAGES), ("harvest", ("harvest",)), ("train", ("train",))]
)
def test_a_command_runs_its_stages_with_what_was_given(
    monkeypatch: pytest.MonkeyPatch, command: str, stages: tuple[str, ...]
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(runs, "run", lambda config, **given: seen.update(given, config=config))
    monkeypatch.setattr(summary, "of_run", lambda config: "summary")
    assert cli.run_command([command, "train.lr=0.5"]) == 0
    assert (seen["command"], tuple(seen["stages"])) == (command, stages)
    assert seen["overrides"] == ["train.lr=0.5"]
    assert seen["config"].train.lr == seen["resolved"]["train"]["lr"] == 0.5


def test_ladder_gets_its_group_with_what_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(
        ladders, "ladder", lambda config, say, **given: seen.update(given, config=config)
    )
    given = ["ladder=cpu", "ladder.tokens=5000"]
    assert cli.run_command(["ladder", *given]) == 0
    assert seen["overrides"] == given
    config = seen["config"]
    assert (config.ladder.tokens, config.url) == (5000, "runs/ladder")
    assert seen["resolved"]["ladder"]["rungs"] == config.ladder.rungs


def test_study_is_chosen_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from bathyscope.commands import study

    called: list[tuple[str, str | None, list[str]]] = []

    def fake(config: Config, say: Any, *, resolved: Any, overrides: list[str]) -> bool:
        called.append((config.study.name, config.family.run, overrides))
        return len(called) == 1

    monkeypatch.setattr(study, "study", fake)
    argv = ["study", "name=dictionary_scaling", "family=ladder", "family.run=runs/mine"]
    assert cli.run_command(argv) == 0
    # Members failed.
    assert cli.run_command(argv) == cli.FAILED
    wanted = ["study=dictionary_scaling", "family=ladder", "family.run=runs/mine"]
    assert called[0] == ("dictionary_scaling", "runs/mine", wanted)


def test_every_command_is_a_stage_or_known() -> None:
    named = {"run", "plan", "ladder", "verify", "redo", "convert", "stream", "sweep", "fine-tune"}
    assert set(COMMANDS) == {
        *named,
        "attribute",
        "intervene",
        "nightly",
        "status",
        "study",
        *runs.STAGES,
    }


def test_main_exits_with_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as found:
        cli.main(["--version"])
    assert found.value.code == 0
    monkeypatch.setattr(sys, "argv", ["bathyscope", "nonsense"])
    with pytest.raises(SystemExit) as found:
        cli.main()
    assert found.value.code == 2


def test_help_and_cfg_start_without_torch_or_ray_and_without_a_warning() -> None:
    code = (
        "import sys\n"
        "from bathyscope.cli import run_command\n"
        "assert run_command(['run', '--help']) == 0\n"
        "assert run_command(['run', 'experiment=demo', '--cfg']) == 0\n"
        "heavy = {'torch', 'numpy', 'ray', 'zarr', 'transformers', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
