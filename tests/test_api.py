"""The Python API, as the README shows it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import bathyscope
from bathyscope.config import Config
from bathyscope.errors import FormatVersionError, MissingArtifact


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(MissingArtifact, match="no folder"):
        bathyscope.open(str(tmp_path / "nothing"))
    with pytest.raises(MissingArtifact, match=r"run\.json"):
        bathyscope.open(str(tmp_path))


def test_a_run_of_another_format_is_refused_in_plain_words(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"format_version": 99}')
    with pytest.raises(FormatVersionError, match="format version 99"):
        bathyscope.open(str(tmp_path))


def test_names_that_are_not_there_list_what_is(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"format_version": 1}')
    run = bathyscope.open(str(tmp_path))
    assert list(run.dictionaries) == []
    with pytest.raises(MissingArtifact, match=r"no 'main'\. It has: nothing yet"):
        run.dictionaries["main"]
    assert "main" not in run.dictionaries


def readme_example() -> str:
    readme = Path(__file__).parents[1] / "README.md"
    (example,) = re.findall(r"```python\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)
    return str(example)


def test_the_example_in_the_readme_runs(
    finished_config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    code = readme_example().replace("runs/demo", finished_config.url)
    code = code.replace("resid_post.9", "resid_post.1")
    exec(compile(code, "README.md", "exec"), {})
    shown = capsys.readouterr().out
    fvu = bathyscope.open(finished_config.url).evaluations["main"]
    assert str(fvu["reconstruction"]["held_out"]["dictionary"]["fvu"]) in shown
