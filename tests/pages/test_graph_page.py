"""The page of a graph as it is written: what stands in it, and what it never does."""

from __future__ import annotations

import base64
import json
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bathyscope.pages import graph_data
from bathyscope.pages.graph_data import GraphPage, Score, page_data, shown_part
from bathyscope.pages.graph_notes import notes
from bathyscope.pages.graph_page import SCRIPTS, STYLES, graph_page, token_html, write_graph_page
from graph_case import AWKWARD, TOKENS, GraphCase, graph_case


def page_of(case: GraphCase, **changes: Any) -> GraphPage:
    page = GraphPage(
        slug="a-graph",
        prompt="Say <b>hi</b> & go",
        model="tiny",
        dictionaries=["t0", "t1", "t2"],
        num_layers=3,
        nodes=case.columns.nodes,
        edges=case.columns.edges,
        num_active=case.graph.num_active,
        created="2026-01-02",
        versions={"bathyscope": "0.1.0"},
        scores=(
            Score("Replacement", 0.61, 0.5, (0.6, 0.62), "of <tokens>"),
            Score("Completeness", math.nan, None, None),
        ),
        trust={"Pearson": 0.98, "top 20 recall": None},
        settings={"dtype": "float32", "missing": 1e-7},
        bias_share=0.123,
    )
    return replace(page, **changes)


@pytest.fixture(scope="module")
def case() -> GraphCase:
    return graph_case()


def text_of(page: GraphPage) -> str:
    return graph_page(page, shown_part(page))


def test_the_files_and_nothing_from_the_network(case: GraphCase) -> None:
    files: dict[str, bytes] = {}
    sizes = write_graph_page(files.__setitem__, page_of(case), folder="pages/")
    wanted = [f"assets/{name}" for name in (*STYLES, *SCRIPTS)] + ["a-graph.js", "a-graph.html"]
    assert list(files) == [f"pages/{name}" for name in wanted]
    assert sizes == {name: len(files[f"pages/{name}"]) for name in wanted}
    for name, content in files.items():
        text = content.decode("utf-8")
        if name != "pages/a-graph.js":
            text = text.replace("http://www.w3.org/2000/svg", "")
            assert not re.search(r"https?://", text), name
            assert not re.search(r"innerHTML|insertAdjacentHTML|\bfetch\(|\beval\(|@import", text)
    named = set(re.findall(r'(?:src|href)="([^"#:]+)"', files["pages/a-graph.html"].decode()))
    assert named == set(wanted) - {"a-graph.html"}


def test_the_data_is_ascii_and_gives_the_graph_back(case: GraphCase) -> None:
    page = page_of(case)
    shown = shown_part(page)
    files: dict[str, bytes] = {}
    write_graph_page(files.__setitem__, page)
    script = files["a-graph.js"].decode("ascii")
    assert "<" not in script
    data = json.loads(script.removeprefix('bathyscope.receive("graph",0,').removesuffix(");\n"))
    assert len(data["ids"]) == case.pruned.nodes.sum()
    assert data["texts"] == [case.columns.nodes["text"][i] for i in shown.nodes]

    def unpacked(name: str, dtype: str) -> np.ndarray:
        return np.frombuffer(base64.b64decode(data[name]), dtype)

    ends = unpacked("targets", "<i4"), unpacked("sources", "<i4")
    found = {
        (data["ids"][t], data["ids"][s]): w
        for t, s, w in zip(*ends, unpacked("weights", "<f4"), strict=True)
    }
    edges, ids = case.columns.edges, case.columns.nodes["id"]
    rows = zip(edges["target"], edges["source"], edges["weight"], strict=True)
    assert found == {(ids[t], ids[s]): w for t, s, w in rows}
    scores = unpacked("scores", "<f4")
    assert (np.diff(scores) <= 0).all()


def test_all_text_is_escaped(case: GraphCase) -> None:
    text = text_of(page_of(case))
    assert "<h1>Say &lt;b&gt;hi&lt;/b&gt; &amp; go</h1>" in text
    assert "of &lt;tokens&gt;" in text
    assert "&lt;/script&gt;" in text
    assert "<b>x</b>" not in text
    assert "‹DCFF›" in text


@pytest.mark.parametrize(
    ("token", "wanted"),
    [
        ("a", "a"),
        (" a", '<span class="mark">·</span>a'),
        ("  ", '<span class="mark">··</span>'),
        ("", '<span class="mark">(empty)</span>'),
        ("a\n", 'a<span class="mark">↵</span>'),
        ("<i>", "&lt;i&gt;"),
    ],
)
def test_what_cannot_be_seen_is_marked(token: str, wanted: str) -> None:
    assert token_html(token) == wanted


def test_prompt_outputs_scores_and_trust(case: GraphCase) -> None:
    text = text_of(page_of(case))
    prompt = text[text.index('id="prompt"') : text.index('id="graph"')]
    assert prompt.count("<li>") == len(TOKENS)
    assert prompt.count("<tr>") == 1 + case.graph.graph.num_logits
    scores = text[text.index('id="scores"') : text.index('id="trust"')]
    assert '<td class="number">0.61</td>' in scores
    assert "0.6 and 0.62" in scores
    assert "exact" in scores
    assert scores.count("not measured") == 2
    trust = text[text.index('id="trust"') : text.index('id="limits"')]
    assert "0.98" in trust
    assert trust.count("not measured") == 1


def test_without_a_trust_report_the_page_says_that_nothing_was_checked(case: GraphCase) -> None:
    assert "nothing here was checked against the model" in text_of(page_of(case, trust=None))


def test_what_the_picture_does_not_show(case: GraphCase) -> None:
    page = page_of(case, truncated=True, num_active=case.graph.num_active + 7)
    said = " ".join(notes(page, shown_part(page)))
    gone = case.graph.graph.num_latents - case.pruned.nodes[case.graph.graph.latents].sum()
    assert f"Pruning removed {gone:,} of {case.graph.graph.num_latents:,} latents" in said
    assert "7 active latents were not attributed" in said
    assert "12.3 % of all that goes into the outputs" in said
    assert "between the bounds" in said
    assert "numbers, not names" in said
    plain = page_of(case, bias_share=None, labels=["x"] * len(case.columns.nodes["id"]))
    said = " ".join(notes(plain, shown_part(plain)))
    assert "%" not in said
    assert "between the bounds" not in said
    assert "numbers, not names" not in said


def test_a_page_holds_the_most_influential_nodes_and_strongest_edges(
    case: GraphCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_data, "MOST_NODES", 25)
    monkeypatch.setattr(graph_data, "MOST_EDGES", 30)
    page = page_of(case)
    shown = shown_part(page)
    nodes = case.columns.nodes
    inner = [i for i in shown.nodes if nodes["kind"][i] in ("latent", "error")]
    left = [
        i
        for i in np.flatnonzero(nodes["kept"])
        if nodes["kind"][i] in ("latent", "error") and i not in set(inner)
    ]
    assert len(shown.nodes) == 25
    assert len(left) == shown.left_out_nodes > 0
    assert max(nodes["share"][inner]) <= min(nodes["share"][left])
    assert len(shown.edges) == 30
    assert shown.left_out_edges == len(case.columns.edges["target"]) - 30
    said = " ".join(notes(page, shown))
    assert f"leaves out the {shown.left_out_nodes} least influential nodes" in said
    assert len(page_data(page, shown)["ids"]) == 25  # type: ignore[arg-type]


def test_nothing_left_after_pruning() -> None:
    case = graph_case(node_threshold=0.0, edge_threshold=0.0)
    page = page_of(case, prompt=AWKWARD[1])
    assert "<h1>a-graph</h1>" in text_of(page)
    assert len(shown_part(page).edges) <= 1
