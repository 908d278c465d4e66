"""A graph of a run's own dictionary, with the feature files of its latents."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import viewer_schemas
from bathyscope.attribution.graphs.build import (
    AttributionGraph,
    GraphSettings,
    attribution_graph,
)
from bathyscope.attribution.graphs.columns import GraphColumns, graph_columns, places_of
from bathyscope.attribution.graphs.order import order_of
from bathyscope.attribution.graphs.prune import Pruned, prune
from bathyscope.commands.run import run as run_stages
from bathyscope.config import Config
from bathyscope.models.load import load_model
from bathyscope.models.tokenizers import load_tokenizer, token_strings
from bathyscope.pages.graph_data import GraphPage, Score
from bathyscope.runs.run import Run
from bathyscope.runs.tables import from_parquet
from bathyscope.stages.graph_figures import figures_of, graph_scores
from bathyscope.stages.graph_files import (
    bias_share,
    feature_details,
    write_features,
    write_graph_files,
    write_index,
)
from graph_case import about


class Made:
    """A run with a transcoder, and the graph of a prompt."""

    def __init__(self, config: Config, model: Path, **settings: Any) -> None:
        self.run = Run(config.url)
        tokenizer = load_tokenizer(model)
        self.words: Callable[[Any], list[str]] = lambda ids: token_strings(tokenizer, ids)
        prompt = "The yield expression is used when defining a generator"
        tokens = torch.tensor([0, *tokenizer.encode(prompt)])
        loaded = load_model(model, dtype=torch.float32).model
        self.prompt = prompt
        self.found: AttributionGraph = attribution_graph(
            loaded,
            {"main": self.run.dictionaries["main"]},
            tokens,
            settings=GraphSettings(**settings),
        )
        self.order = order_of(self.found.graph)
        self.pruned: Pruned = prune(self.found.graph, node_threshold=0.9, order=self.order)
        self.places = places_of(loaded, self.found.nodes)
        self.columns: GraphColumns = graph_columns(
            self.found, self.pruned, places=self.places, text=self.words, order=self.order
        )

    def scores(self) -> list[Score]:
        return graph_scores(figures_of(self.found, self.pruned, self.order))


@pytest.fixture(scope="module")
def config(tiny_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Config:
    config = tiny_config(
        tmp_path_factory.mktemp("graph_files") / "run",
        hooks__points=["mlp_in.1", "mlp_out.1"], dictionary__kind="transcoder",
        dictionary__hook=None, dictionary__inputs=["mlp_in.1"], dictionary__outputs=["mlp_out.1"],
    )  # fmt: skip
    run_stages(config, stages=["corpus", "harvest", "train", "encode", "describe"])
    return config


@pytest.fixture(scope="module")
def made(config: Config, tiny_model: Path) -> Made:
    return Made(config, tiny_model)


def test_a_folder_that_viewers_open(made: Made, tmp_path: Path) -> None:
    def put(name: str, content: bytes) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    nodes = made.columns.nodes
    facts = {"scores": [score.name for score in made.scores()]}
    known = about(prompt=made.prompt, features_key="k0", facts=facts)
    page = GraphPage(
        slug=known.slug, prompt=made.prompt, model="tiny", dictionaries=["main"],
        num_layers=made.places.num_layers, nodes=nodes, edges=made.columns.edges,
        num_active=made.found.num_active, created="today", versions={},
        scores=made.scores(),
        bias_share=bias_share(made.found),
    )  # fmt: skip
    count = write_features(put, made.run, nodes, key="k0", words=made.words)
    metadata = write_graph_files(put, made.columns, known, page)
    write_index(put, [metadata])
    data = tmp_path / "graph_data"
    index = json.loads((data / "graph-metadata.json").read_text("utf-8"))
    graph = json.loads((data / "a-graph.json").read_text("utf-8"))
    assert index == {"graphs": [graph["metadata"]]}
    # circuit-tracer's server shows graph_data as ./data/; every latent's file is where it looks.
    features = {n["feature"] for n in graph["nodes"] if n["feature_type"].startswith("cross")}
    assert len(features) == count > 3
    folder = graph["metadata"]["transcoder_list"][1].replace("./data/", "")
    assert {int(p.stem) for p in (data / folder).iterdir()} == features
    tables = tmp_path / "tables" / "a-graph"
    edges = from_parquet((tables / "edges.parquet").read_bytes())
    assert edges.num_rows == len(graph["links"])
    assert (tmp_path / "pages" / "a-graph.html").is_file()
    viewer_schemas.check(graph, "graph")


def test_feature_files_are_what_describe_stored(made: Made) -> None:
    details = dict(feature_details(made.run, made.columns.nodes, words=made.words))
    latents = made.run.features("main").to_pylist()
    examples = made.run.examples("main").to_pylist()
    for detail in details.values():
        row = latents[detail["index"]]
        assert detail["activation_frequency"] == row["density"]
        assert detail["act_max"] == pytest.approx(row["max"])
        assert sum(detail["histogram"]) == pytest.approx(row["count"], rel=1e-3)
        assert detail["top_logits"] == made.words(row["promoted_ids"])
        mine = [e for e in examples if e["latent"] == detail["index"]]
        top = detail["examples_quantiles"][0]["examples"]
        assert len(top) == sum(e["band"] == 0 for e in mine)
        peak = top[0]["tokens_acts_list"][top[0]["train_token_ind"]]
        assert peak == pytest.approx(max(e["value"] for e in mine), rel=1e-2)
        viewer_schemas.check(detail, "feature-details")


def test_dictionaries_that_were_not_described_have_no_files(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = dict(made.columns.nodes, dictionary=["other"] * len(made.columns.nodes["id"]))
    with caplog.at_level("INFO"):
        assert list(feature_details(made.run, nodes, words=made.words)) == []
    assert caplog.text.count("dictionary other is not described") == 1


def test_scores_have_bounds_where_the_graph_is_truncated(config: Config, tiny_model: Path) -> None:
    exact = Made(config, tiny_model)
    whole = exact.scores()
    assert [score.name for score in whole] == ["Replacement", "Completeness"]
    assert all(score.bounds is None for score in whole)
    cut = Made(config, tiny_model, row_share=0.9)
    for score, wanted in zip(cut.scores(), whole, strict=True):
        assert score.bounds is not None
        low, up = score.bounds
        assert low <= wanted.value <= up  # type: ignore[operator]


def test_the_share_of_biases_by_hand(made: Made) -> None:
    graph = made.found.graph
    dense = torch.zeros(graph.num_logits, graph.num_nodes, dtype=torch.float64)
    for row in range(graph.num_logits):
        t = graph.first_logit + row
        entries = slice(int(graph.indptr[t]), int(graph.indptr[t + 1]))
        dense[row, torch.as_tensor(graph.indices[entries]).long()] = torch.as_tensor(
            graph.values[entries]
        ).double()
    p = torch.as_tensor(graph.logit_probabilities)
    biases = made.found.biases[graph.num_latents :].double().abs().sum(1)
    wanted = (p * biases).sum() / (p * (biases + dense.abs().sum(1))).sum()
    assert bias_share(made.found) == pytest.approx(float(wanted))
    assert 0 < bias_share(made.found) < 1
