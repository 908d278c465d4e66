"""The study of modules on a tiny ladder: its rows, its page, and what it refuses."""

from __future__ import annotations

import html
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bathyscope.commands.study import study
from bathyscope.config import Config
from bathyscope.errors import ConfigError, DependencyError
from bathyscope.runs.run import Run
from bathyscope.stages.studies.factoring import study as factoring
from bathyscope.stages.studies.factoring.measures import chosen
from bathyscope.stages.studies.family import family_of
from bathyscope.stages.studies.member_runs import Size, run_of
from bathyscope.stages.studies.protocols import EQUAL_COUNT, EQUAL_RATIO

Make = Callable[..., Config]
SETTINGS: dict[str, Any] = {
    "family__models": ["llama-0.013M-seed0"],
    "study__held_out_tokens": 1600,
    "study__null_graphs": 2,
    "study__transcoder_expansion": 2,
    "study__transcoder_k": 4,
}


def test_a_tiny_study_is_measured_whole_and_once(tiny_study: Make) -> None:
    config = tiny_study("factoring", **SETTINGS)
    lines: list[str] = []
    assert study(config, lines.append)
    rows = Run(config.url).study_table("factoring").to_pylist()
    # The model and its first weights: in both protocols two dictionaries and a random one, two
    # graphs beyond the token; and one of attributions.
    assert len(rows) == 2 * (2 * 5 + 1)
    graphs = [(row["graph"], row["kind"]) for row in rows if row["protocol"] == EQUAL_RATIO]
    assert sorted(set(graphs)) == [
        ("beyond_token", "dictionary"),
        ("beyond_token", "random"),
        ("cofiring", "dictionary"),
        ("cofiring", "random"),
    ]
    for row in rows:
        assert row["edges"] >= 0
        assert (row["q"] is None) == (row["edges"] == 0)
    attribution = [row for row in rows if row["graph"] == "attribution"]
    assert all(row["edges"] > 50 and row["blocks"] == 2 for row in attribution)
    assert all(row["layers_q"] is not None for row in attribution)
    assert all(0 < row["token_shared"] <= 1 for row in attribution)
    folder = Path(config.url) / "studies" / "factoring"
    shown = html.unescape((folder / "index.html").read_text())
    claims = [verdict["claim"] for verdict in Run(config.url).study("factoring")["verdicts"]]
    assert len(claims) == 16
    assert [claim for claim in claims if claim not in shown] == []
    results = {path: path.stat().st_mtime_ns for path in (folder / "results").iterdir()}
    assert study(config, lines.append)
    assert "steps      0 done" in lines[-1]
    assert {path: path.stat().st_mtime_ns for path in (folder / "results").iterdir()} == results


def test_the_middle_dictionary_of_each_protocol(tiny_study: Make) -> None:
    config = tiny_study(
        "factoring",
        study__expansions=[2, 4, 8],
        study__k_shares=[0.0625, 0.125, 0.25],
        study__widths=[32, 64, 128],
        study__ks=[2, 4, 8],
    )
    ratio, count = chosen(config, 32)
    assert (ratio.protocol, ratio.sizes) == (EQUAL_RATIO, [Size(128, 4, 0), Size(128, 4, 1)])
    assert (count.protocol, count.sizes) == (EQUAL_COUNT, [Size(64, 4, 0), Size(64, 4, 1)])
    member = family_of(config)[0]
    # The width is 16.
    found = factoring.sizes(run_of(config, member), member)
    assert found == [Size(64, 2, 0), Size(64, 2, 1), Size(64, 4, 0), Size(64, 4, 1)]


def test_models_of_pictures_are_refused_before_anything_is_made(tiny_study: Make) -> None:
    config = tiny_study("factoring", **SETTINGS)
    pictures = replace(config, data=replace(config.data, kind="images"))
    member = family_of(config)[0]
    with pytest.raises(ConfigError, match="takes the current token for a control"):
        factoring.sizes(pictures, member)


def test_without_igraph_nothing_is_made(tiny_study: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_study("factoring", **SETTINGS)
    monkeypatch.setitem(sys.modules, "igraph", None)
    with pytest.raises(DependencyError, match=r"bathyscope\[communities\]"):
        study(config, lambda line: None)
    assert not Path(config.url).exists()
