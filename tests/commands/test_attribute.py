"""Graphs of a run's prompts: from transcoders to tables; resumed, refused, failed by a bound."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from bathyscope.commands.attribute import attribute, broken_bounds, table
from bathyscope.commands.run import run as run_stages
from bathyscope.config import Config
from bathyscope.errors import ConfigError, IdentityMismatch
from bathyscope.runs.run import Run
from support import changed

PROMPTS = ["The class statement", "An assignment to a name"]


@pytest.fixture(scope="module")
def run_config(
    tiny_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory
) -> Config:
    """A run with a transcoder for two of four layers, and a cross-layer one over both."""
    layers = (1, 2)
    points = [f"{kind}.{n}" for kind in ("mlp_in", "mlp_out") for n in layers]
    config = tiny_config(
        tmp_path_factory.mktemp("attribute") / "run",
        hooks__points=points, train__epochs=1, dictionary__kind="transcoder",
        attribute__prompts=PROMPTS, attribute__trust_sample=6, attribute__dictionaries=["t*"],
        logging__kind="none",
    )  # fmt: skip
    for n in layers:
        one = changed(config, dictionary__layer=n, dictionary__name=f"t{n}")
        run_stages(one, stages=["corpus", "harvest", "train"], resolved=asdict(one))
    clt = changed(
        config, dictionary__kind="cross_layer_transcoder", dictionary__name="clt",
        dictionary__inputs=points[:2], dictionary__outputs=points[2:],
    )  # fmt: skip
    run_stages(clt, stages=["train"], resolved=asdict(clt))
    return config


def attributed(config: Config) -> tuple[bool, list[dict[str, Any]], str]:
    lines: list[str] = []
    good = attribute(config, lines.append)
    return good, Run(config.url).graphs(config.attribute.name)["prompts"], "\n".join(lines)


def test_prompts_become_graphs_with_figures_and_files(run_config: Config) -> None:
    good, rows, told = attributed(run_config)
    assert good
    assert [row["text"] for row in rows] == PROMPTS
    for row in rows:
        assert row["missing"] < 1e-5
        assert row["trust"]["frozen_error"] < 1e-4
        assert 0 <= row["pruned"]["replacement"] <= row["replacement"] <= 1
        assert row["kept_latents"] <= row["latents"] == row["active_latents"]
    # A line for each prompt, and where the graphs are.
    assert told.splitlines()[-4].startswith("prompt")
    assert "The class statement" in told
    run = Run(run_config.url)
    facts = run.manifest("graphs/main").facts
    folder = Path(run_config.url) / "graphs" / "main" / facts["files_folder"]
    index = json.loads((folder / "graph_data" / "graph-metadata.json").read_text())
    assert {graph["slug"] for graph in index["graphs"]} == {row["slug"] for row in rows}
    for row in rows:
        slug = row["slug"]
        graph = json.loads((folder / "graph_data" / f"{slug}.json").read_text())
        assert graph["metadata"]["prompt"] == row["text"]
        nodes = pq.read_table(folder / "tables" / slug / "nodes.parquet")
        kept = nodes.filter(nodes["kept"])
        assert kept["kind"].to_pylist().count("latent") == row["kept_latents"]
        assert len(graph["nodes"]) == len(kept)
        edges = pq.read_table(folder / "tables" / slug / "edges.parquet")
        assert len(edges) == len(graph["links"]) == row["kept_edges"]
        assert row["text"] in (folder / "pages" / f"{slug}.html").read_text()


def test_given_again_nothing_is_done_and_other_settings_are_refused(run_config: Config) -> None:
    attributed(run_config)
    run = Run(run_config.url)
    before = run.manifest("graphs/main").facts
    attributed(run_config)
    assert Run(run_config.url).manifest("graphs/main").facts == before
    other = changed(run_config, attribute__node_threshold=0.5)
    with pytest.raises(IdentityMismatch, match="node_threshold"):
        attribute(other, lambda _: None)
    # Memory and bounds are no part of what a graph is.
    attributed(changed(run_config, attribute__memory_bytes=2**30, attribute__least_pearson=-1.0))


def test_a_cross_layer_transcoder(run_config: Config) -> None:
    config = changed(run_config, attribute__name="clt", attribute__dictionaries=["clt"])
    good, rows, _ = attributed(config)
    assert good
    assert all(row["trust"]["frozen_error"] < 1e-4 for row in rows)


def test_truncated_graphs_come_with_bounds_that_hold_the_exact_scores(run_config: Config) -> None:
    _, whole, _ = attributed(run_config)
    config = changed(run_config, attribute__name="cut", attribute__row_share=0.95)
    _, found, _ = attributed(config)
    for one, exact in zip(found, whole, strict=True):
        assert one["edges"] < exact["edges"]
        for score in ("replacement", "completeness"):
            low, up = one["bounds"]["low"][score], one["bounds"]["up"][score]
            assert low <= exact[score] <= up
            low, up = (one["pruned_bounds"][side][score] for side in ("low", "up"))
            assert low <= up


def test_workers_may_share_the_rows_of_a_prompt(run_config: Config) -> None:
    """The same graphs, and what the workers left between them is gone."""
    _, whole, _ = attributed(run_config)
    config = changed(run_config, attribute__name="shared", attribute__parts=3)
    _, found, _ = attributed(config)
    for one, other in zip(found, whole, strict=True):
        for name in ("latents", "edges", "kept_latents", "kept_edges"):
            assert one[name] == other[name]
        assert one["replacement"] == pytest.approx(other["replacement"], rel=1e-5)
    assert not (Path(run_config.url) / "graph_rows" / "shared").exists()
    assert attributed(config)[1] == found


def test_a_broken_bound_fails_the_command(run_config: Config) -> None:
    _, rows, _ = attributed(run_config)
    strict = changed(run_config, attribute__least_pearson=1.0)
    broken = broken_bounds(strict, rows)
    assert len(broken) == len(PROMPTS)
    assert "attribute.least_pearson is 1" in broken[0]
    assert not attributed(strict)[0]
    exact = changed(run_config, attribute__most_frozen_error=1e-12)
    assert "The graph is not what it claims" in broken_bounds(exact, rows)[0]
    assert broken_bounds(run_config, [{"prompt": "p"}]) == []


def test_prompts_of_a_file_with_their_logits(run_config: Config, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"id": "one", "say": "The name", "logits": ["a", 7]}\n\n', encoding="utf-8")
    config = changed(
        run_config, attribute__name="file", attribute__prompts=str(file),
        attribute__text_key="say", attribute__trust_sample=0, attribute__separator=False,
    )  # fmt: skip
    _, rows, told = attributed(config)
    assert (rows[0]["prompt"], rows[0]["logits"]) == ("one", 2)
    assert "trust" not in rows[0]
    assert " - " in table(rows)
    assert "BROKEN" not in told


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompts": []}, "attribute.prompts is not set"),
        ({"prompts": ["a " * 200]}, "the model was made for at most 64. Give a shorter one"),
        ({"prompts": ["a", "a"]}, "Two prompts have the id"),
        ({"prompts": "nowhere.jsonl"}, "there is no such file"),
        ({"dictionaries": ["sae*"]}, "None is called sae.*It has: clt, t1, t2"),
    ],
)
def test_bad_input(run_config: Config, settings: dict[str, Any], message: str) -> None:
    config = replace(run_config, attribute=replace(run_config.attribute, **settings))
    with pytest.raises(ConfigError, match=message):
        attribute(config, lambda _: None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: Expecting property name.*Wanted JSON"),
        ('{"text": 3}', "line 1 has no text under 'text'"),
        ('{"text": "a", "logits": ["several words"]}', "'several words' is . tokens"),
        ('{"text": ""}', "has no tokens"),
    ],
)
def test_a_file_that_cannot_be_read(
    run_config: Config, tmp_path: Path, line: str, message: str
) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(line, encoding="utf-8")
    config = changed(run_config, attribute__prompts=str(file))
    with pytest.raises(ConfigError, match=message):
        attribute(config, lambda _: None)


def test_offloaded_weights_are_refused(run_config: Config) -> None:
    config = changed(run_config, attribute__name="away", model__offload_folder="x")
    with pytest.raises(ConfigError, match=r"Weights may be offloaded"):
        attribute(config, lambda _: None, overrides=["model.offload_folder=x"])


def test_the_record_still_says_how_the_run_was_made(run_config: Config) -> None:
    before = Run(run_config.url).record["config"]
    attributed(run_config)
    after = Run(run_config.url).record
    assert {k: v for k, v in after["config"].items() if k != "attribute"} == {
        k: v for k, v in before.items() if k != "attribute"
    }
    assert after["history"][-1]["command"] == "attribute"
