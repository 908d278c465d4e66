"""Effects of nodes on a run's pairs: scores with a sample patched exactly, refused and failed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from bathyscope.commands.attribute import attribute
from bathyscope.commands.run import run as run_stages
from bathyscope.config import Config
from bathyscope.errors import ConfigError
from bathyscope.runs.run import Run
from support import changed

PAIRS = [
    {"id": "if", "clean": "The if statement", "corrupted": "The of statement", "answer": " is",
     "wrong": " of"},
    {"id": "an", "clean": "an object of", "corrupted": "an object in", "answer": " the",
     "wrong": " is"},
]  # fmt: skip


@pytest.fixture(scope="module")
def run_config(
    tiny_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory
) -> Config:
    folder = tmp_path_factory.mktemp("pairs")
    file = folder / "pairs.jsonl"
    file.write_text("\n".join(json.dumps(pair) for pair in PAIRS), encoding="utf-8")
    config = tiny_config(
        folder / "run", train__epochs=1, logging__kind="none",
        attribute__pairs=str(file), attribute__trust_sample=16,
    )  # fmt: skip
    run_stages(config, stages=["corpus", "harvest", "train"], resolved=asdict(config))
    return config


def attributed(
    config: Config, name: str, **settings: Any
) -> tuple[bool, list[dict[str, Any]], str]:
    given = {f"attribute__{key}": value for key, value in settings.items()}
    config = changed(config, attribute__name=name, **given)
    lines: list[str] = []
    good = attribute(config, lines.append)
    return good, Run(config.url).attributions(name)["pairs"], "\n".join(lines)


def test_exact_patching_agrees_with_itself(run_config: Config) -> None:
    good, rows, told = attributed(run_config, "exact", method="exact", nodes=["heads", "mlps"])
    assert good
    for row in rows:
        # 4 layers of 4 heads and an MLP, the MLP at every position.
        assert row["nodes"] > 4 * 4
        assert row["trust"]["pearson"] == pytest.approx(1)
        assert row["trust"]["top10_recall"] == 1
    assert [line.split()[0] for line in told.splitlines()[-4:-1]] == ["pair", "if", "an"]
    assert "The if statement" in told
    table = pq.read_table(Path(run_config.url) / "attributions" / "exact" / rows[0]["key"])
    assert len(table) == rows[0]["nodes"]
    for node in table.to_pylist():
        if node["exact"] is not None:
            assert node["exact"] == pytest.approx(node["score"], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("method", ["atp", "atp_star", "ig"])
def test_methods_come_with_what_agrees(run_config: Config, method: str) -> None:
    _, rows, told = attributed(
        run_config, method, method=method, nodes=["heads", "queries", "keys"]
    )
    assert all(row["trust"]["sample"] == 16 for row in rows)
    assert all(row["trust"]["spearman"] is not None for row in rows)
    assert f"{method} of logit_difference over heads, queries, keys" in told
    gaps = [row["trust"]["completeness_gap"] for row in rows]
    assert all(gap < 0.05 for gap in gaps) if method == "ig" else gaps == [None, None]


def test_latents_are_nodes_of_the_dictionaries(run_config: Config) -> None:
    _, rows, _ = attributed(run_config, "latents", method="ig", nodes=["latents"])
    kinds = {node["kind"] for row in rows for node in row["top"]}
    assert kinds <= {"latent", "error"}
    assert "latent" in kinds


def test_a_bound_on_agreement_fails_the_command(run_config: Config) -> None:
    good, _, told = attributed(run_config, "strict", method="atp", least_pearson=1.0)
    assert not good
    assert "BROKEN if: expected and real changes correlate with" in told


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: Expecting property name"),
        ('{"clean": "a"}', "no texts under 'clean' and 'corrupted'"),
        ("", "holds no pairs"),
        (
            '{"id": "x", "clean": "the name", "corrupted": "the"}',
            "The pair 'x': Pair 0 has . tokens",
        ),
        ('{"clean": "a", "corrupted": "b", "answer": "several words"}', "The pair '1': The answer"),
        ('{"id": 1, "clean": "a", "corrupted": "b"}\n' * 2, "Two pairs have the id '1'"),
    ],
)
def test_bad_files(run_config: Config, tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(line, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        attributed(run_config, "bad", pairs=str(file))


def test_a_pair_longer_than_the_context_is_refused(run_config: Config, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps({"clean": "a " * 200, "corrupted": "b " * 200}), encoding="utf-8")
    with pytest.raises(ConfigError, match="the model was made for at most 64"):
        attributed(run_config, "long", pairs=str(file), metric="kl", method="exact")
