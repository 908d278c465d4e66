"""The graph file: the keys that viewers want, and text that would break them."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import viewer_schemas
from bathyscope.attribution.graphs.public_json import (
    bias_totals,
    cantor_pair,
    feature_places,
    graph_index,
    graph_json,
    json_bytes,
    label,
    plain,
    with_scan,
)
from bathyscope.attribution.graphs.slugs import check_slug, slug_of
from bathyscope.errors import ConfigError
from graph_case import AWKWARD, TOKENS, GraphCase, about, graph_case

# circuit-tracer 0.5.0, frontend/graph_models.py, and Neuronpedia's graph schema 1.0.0.
METADATA = {"slug", "scan", "transcoder_list", "prompt_tokens", "prompt", "node_threshold",
            "schema_version", "info", "generation_settings", "pruning_settings"}  # fmt: skip
QPARAMS = {"pinnedIds", "supernodes", "linkType", "clickedId", "sg_pos"}
NODE = {"node_id", "feature", "layer", "ctx_idx", "feature_type", "token_prob", "is_target_logit",
        "run_idx", "reverse_ctx_idx", "jsNodeId", "clerp", "influence", "activation"}  # fmt: skip
LINK = {"source", "target", "weight"}


def file_of(case: GraphCase, **changes: Any) -> dict[str, Any]:
    """The graph's JSON as a reader parses it."""
    parsed: dict[str, Any] = json.loads(json_bytes(graph_json(case.columns, about(**changes))))
    return parsed


@pytest.fixture(scope="module", params=["transcoder", "cross_layer_transcoder"])
def case(request: pytest.FixtureRequest) -> GraphCase:
    return graph_case(request.param)


def of_kind(graph: dict[str, Any], feature_type: str) -> list[dict[str, Any]]:
    return [node for node in graph["nodes"] if node["feature_type"] == feature_type]


def test_every_key_is_there(case: GraphCase) -> None:
    graph = file_of(case)
    assert set(graph) == {"metadata", "qParams", "nodes", "links"}
    assert set(graph["metadata"]) == METADATA
    assert set(graph["qParams"]) == QPARAMS
    assert all(set(node) == NODE for node in graph["nodes"])
    assert all(set(link) == LINK for link in graph["links"])
    assert graph["metadata"]["schema_version"] == 1
    assert set(graph["metadata"]["pruning_settings"]) == {"node_threshold", "edge_threshold"}


def test_neuronpedias_schema(case: GraphCase) -> None:
    viewer_schemas.check(file_of(case, features_url="https://example.org/f"), "graph")


def test_ids_are_unique_and_links_end_at_nodes(case: GraphCase) -> None:
    graph = file_of(case)
    ids = {node["node_id"] for node in graph["nodes"]}
    assert len(ids) == len(graph["nodes"]) == case.pruned.nodes.sum()
    assert len({node["jsNodeId"] + str(node["ctx_idx"]) for node in graph["nodes"]}) == len(ids)
    assert len(graph["links"]) == case.pruned.edges.count
    assert {link[end] for link in graph["links"] for end in ("source", "target")} <= ids


def test_the_four_kinds(case: GraphCase) -> None:
    graph = file_of(case)
    latent = of_kind(graph, "cross layer transcoder")[0]
    layer, index, position = map(int, latent["node_id"].split("_"))
    assert (latent["layer"], latent["ctx_idx"]) == (str(layer), position)
    assert latent["feature"] == cantor_pair(layer, index)
    assert latent["jsNodeId"] == f"{layer}_{index}-0"
    assert latent["activation"] > 0
    error = of_kind(graph, "mlp reconstruction error")[0]
    assert error["feature"] == -1
    assert error["node_id"] == f"err_{error['layer']}_{error['ctx_idx']}"
    tokens = of_kind(graph, "embedding")
    assert [t["node_id"] for t in tokens] == [f"E_{t}_{p}" for p, t in enumerate(TOKENS)]
    assert all(t["layer"] == "E" and t["feature"] == t["ctx_idx"] for t in tokens)
    logits = of_kind(graph, "logit")
    assert [n["is_target_logit"] for n in logits] == [True] + [False] * (len(logits) - 1)
    assert all(n["layer"] == "4" and n["influence"] is None for n in logits)
    assert graph["qParams"]["clickedId"] == logits[0]["node_id"]


def test_influence_is_the_cumulative_share(case: GraphCase) -> None:
    graph = file_of(case)
    shares = dict(zip(case.columns.nodes["id"], case.pruned.cumulative_shares(), strict=True))
    for node in graph["nodes"]:
        if node["feature_type"] != "logit":
            assert node["influence"] == shares[node["node_id"]]
    # A viewer hides what is over the threshold, and nothing that pruning kept may be.
    threshold = graph["metadata"]["node_threshold"]
    inner = [n["influence"] for n in graph["nodes"] if n["layer"] not in ("E", "4")]
    assert max(inner) <= threshold < max(*inner, 0.8) + 1e-4
    assert graph["metadata"]["pruning_settings"]["node_threshold"] == 0.8


def test_viewers_read_probability_and_token_out_of_a_label(case: GraphCase) -> None:
    """The same string operations as circuit-tracer's util-cg.js."""
    for node in of_kind(file_of(case), "logit"):
        said = node["clerp"]
        assert float(said.split("(p=")[1].split(")")[0]) == pytest.approx(
            node["token_prob"], abs=5e-4
        )
        shown = said.split('"')[1]
        assert shown == label(AWKWARD[node["feature"] % len(AWKWARD)])


def test_awkward_texts_arrive_and_no_label_is_html(case: GraphCase) -> None:
    graph = file_of(case)
    found = graph["metadata"]["prompt_tokens"]
    wanted = [AWKWARD[t % len(AWKWARD)].replace("\udcff", "\ufffd") for t in TOKENS]
    assert found == wanted
    assert set(AWKWARD) - {"\udcff"} <= set(found)
    assert not [n["clerp"] for n in graph["nodes"] if re.search("[<>]", n["clerp"])]
    assert graph["metadata"]["prompt"].isprintable() or "\n" in graph["metadata"]["prompt"]


def test_labels_of_people(case: GraphCase) -> None:
    graph = graph_json(
        case.columns, about(), labels=lambda name, latent: f"<i>{name}</i> of {latent}"
    )
    latents = of_kind(graph, "cross layer transcoder")
    assert all(re.match(r"‹i›\w+‹/i› of \d+$", node["clerp"]) for node in latents)
    silent = graph_json(case.columns, about(), labels=lambda name, latent: "")
    assert all(re.match(r"\w+ \d+$", n["clerp"]) for n in of_kind(silent, "cross layer transcoder"))


def test_provenance_is_in_the_metadata(case: GraphCase) -> None:
    facts = {"scores": {"replacement": math.nan, "completeness": np.float32(0.5)}, "dtype": "bf16"}
    graph = file_of(case, facts=facts, creator_name="someone", description="why")
    info = graph["metadata"]["info"]
    assert info["generator"] == {"name": "bathyscope", "version": "0.1.0"}
    assert info["create_time_ms"] == 1_700_000_000_000
    assert (info["creator_name"], info["description"]) == ("someone", "why")
    ours = info["bathyscope"]
    assert ours["scores"] == {"replacement": None, "completeness": 0.5}
    assert ours["dtype"] == "bf16"
    assert ours["model"] == "tiny"
    assert set(ours["biases"]) <= set(case.graph.bias_names)


def test_bias_totals_by_hand(case: GraphCase) -> None:
    name = "b_dec of mlp_out.1"
    column = case.graph.bias_names.index(name)
    values = case.graph.biases[:, column].double().numpy()
    graph = case.graph.graph
    kept = case.pruned.nodes
    latents, logits = values[: graph.num_latents], values[graph.num_latents :]
    total = bias_totals(case.columns)[name]
    assert total["to_logits"] == pytest.approx(float(logits @ graph.logit_probabilities), rel=1e-5)
    wanted = np.abs(latents[kept[graph.latents]]).sum() + np.abs(logits).sum()
    assert total["absolute"] == pytest.approx(wanted, rel=1e-5)


def test_no_latent_at_all() -> None:
    """Every position is excluded: tokens, no latent, and errors that are zero."""
    case = graph_case(keep=torch.zeros(len(TOKENS), dtype=torch.bool))
    graph = file_of(case)
    assert {n["feature_type"] for n in graph["nodes"]} <= {"embedding", "logit"}
    assert len(of_kind(graph, "embedding")) == len(TOKENS)
    viewer_schemas.check(graph, "graph")


def test_a_single_latent() -> None:
    case = graph_case(most_latents=1, node_threshold=1.0, edge_threshold=1.0)
    graph = file_of(case)
    assert len(of_kind(graph, "cross layer transcoder")) == 1
    assert len(feature_places(case.columns.nodes)) == 1


def test_nothing_left_after_pruning() -> None:
    case = graph_case(node_threshold=0.0, edge_threshold=0.0)
    graph = file_of(case, node_threshold=0.0, edge_threshold=0.0)
    assert len(of_kind(graph, "embedding")) == len(TOKENS)
    assert not of_kind(graph, "mlp reconstruction error")
    viewer_schemas.check(graph, "graph")


def test_a_latent_at_two_positions_has_one_feature() -> None:
    case = graph_case(tokens=[14, 8, 8, 8], node_threshold=1.0)
    places = feature_places(case.columns.nodes)
    nodes = of_kind(file_of(case), "cross layer transcoder")
    assert len(places) < len(nodes)
    features = {cantor_pair(place.layer, place.in_layer) for place in places}
    assert features == {n["feature"] for n in nodes}


@pytest.mark.parametrize(("layer", "index"), [(0, 0), (0, 7), (3, 0), (29, 2303), (80, 1_048_575)])
def test_viewers_take_a_feature_number_apart(layer: int, index: int) -> None:
    """The arithmetic of circuit-tracer's cantorUnpair, in doubles as JavaScript does it."""
    z = cantor_pair(layer, index)
    w = math.floor((math.sqrt(8.0 * z + 1) - 1) / 2)
    y = z - (w * w + w) / 2
    assert (w - y, y) == (layer, index)


def test_another_scan_for_neuronpedia(case: GraphCase) -> None:
    graph = graph_json(case.columns, about())
    moved = with_scan(graph, "gemma-2-2b", "https://example.org/features")
    assert moved["metadata"]["scan"] == "gemma-2-2b"
    assert moved["metadata"]["feature_details"] == {
        "feature_json_base_url": "https://example.org/features"
    }
    assert graph["metadata"]["scan"] == "custom-0123456789"
    viewer_schemas.check(moved, "graph")


def test_the_index_has_every_slug_once() -> None:
    first = graph_index(None, {"slug": "b", "prompt": "old"})
    both = graph_index(first, {"slug": "a", "prompt": "x"})
    again = graph_index(both, {"slug": "b", "prompt": "new"})
    assert [(g["slug"], g["prompt"]) for g in again["graphs"]] == [("a", "x"), ("b", "new")]


def test_slugs_are_the_same_in_every_process() -> None:
    """A constant: Python's hash() of a text differs from process to process."""
    made = slug_of("The capital of France/Spain is", {"model": "sha256:00"})
    assert made == "the-capital-of-france-spain-is-55f39bdd4e"
    assert slug_of("The capital of France/Spain is", {"model": "sha256:01"}) != made
    assert re.fullmatch(r"graph-[0-9a-f]{10}", slug_of("\U0001f9ed \udcff", {}))
    assert check_slug(slug_of("x" * 500, {}))


@pytest.mark.parametrize("slug", ["a/b", "../x", "", ".hidden", "a b", "graph-metadata", "é"])
def test_a_slug_that_is_no_file_name_is_refused(slug: str) -> None:
    case = graph_case()
    with pytest.raises(ConfigError, match="cannot name a graph"):
        graph_json(case.columns, replace(about(), slug=slug))


def test_plain_values() -> None:
    given = {"a": np.array([1.0, math.inf]), "b": (np.int64(3), "\udcff"), "c": True, "d": None}
    assert plain(given) == {"a": [1.0, None], "b": [3, "\ufffd"], "c": True, "d": None}
