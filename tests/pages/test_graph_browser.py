"""The page of a graph in a real browser, opened from disk. Skipped where there is no chromium."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bathyscope.pages.graph_data import GraphPage
from bathyscope.pages.graph_page import write_graph_page
from browser import CHROMIUM, dump
from graph_case import GraphCase, graph_case

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on PATH")

# Leaves what it finds as JSON in the title. Pictures are made between frames, hence the waiting.
PROBE = """
const pause = () => new Promise((resolve) => setTimeout(resolve, 60));
const panel = () => document.getElementById("panel").textContent;
const canvas = document.getElementById("canvas");
const slide = async (value) => {
  const slider = document.getElementById("threshold");
  slider.value = value;
  slider.dispatchEvent(new Event("input"));
  await pause();
};
const press = async (key) => {
  canvas.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  await pause();
};
const at = (type, node) => {
  const { layout, box } = bathyscope.page;
  const area = canvas.getBoundingClientRect();
  const clientX = area.left + layout.x[node] - box.scrollLeft;
  const clientY = area.top + layout.y[node];
  canvas.dispatchEvent(new PointerEvent(type, { clientX, clientY, bubbles: true }));
};
const ink = () => {
  const copy = new OffscreenCanvas(canvas.width, canvas.height);
  const context = copy.getContext("2d", { willReadFrequently: true });
  context.drawImage(canvas, 0, 0);
  const { data } = context.getImageData(0, 0, copy.width, copy.height);
  const colours = new Set();
  for (let i = 0; i < data.length; i += 4) {
    colours.add((data[i] << 16) | (data[i + 1] << 8) | data[i + 2]);
  }
  return colours;
};
window.addEventListener("load", async () => {
  const { graph, state } = bathyscope.page;
  const found = {};
  await pause();
  found.overview = panel();
  found.colours = ink().size;
  const latent = graph.kinds.indexOf(0);
  at("pointermove", latent);
  await pause();
  found.tip = document.querySelector(".tip").textContent;
  found.hovered = graph.ids[state.hovered];
  at("click", latent);
  await pause();
  found.pinned = [...state.pinned].map((node) => graph.ids[node]);
  found.panel = panel();
  found.rows = [...document.querySelectorAll("#panel .edges")].map((table) =>
    [...table.querySelectorAll("tbody tr")].map((row) => row.lastChild.textContent));
  found.chosen = [0x0a5f9e, 0xb8430a].map((colour) => ink().has(colour));
  document.querySelector("#panel .edges button").click();
  await pause();
  found.walked = [...state.pinned].map((node) => graph.ids[node]);
  await press("Escape");
  found.cleared = state.pinned.size;
  canvas.focus();
  await press("ArrowDown");
  found.first = document.getElementById("status").textContent;
  await press("ArrowDown");
  found.second = graph.ids[state.focused];
  await press("Enter");
  found.byKey = [...state.pinned].map((node) => graph.ids[node]);
  await slide(0);
  found.fewest = state.visible.reduce((sum, v) => sum + v, 0);
  found.shown = document.getElementById("shown").textContent;
  await slide(500);
  found.half = state.visible.reduce((sum, v) => sum + v, 0);
  await slide(1000);
  found.all = state.visible.reduce((sum, v) => sum + v, 0);
  document.title = JSON.stringify(found);
});
"""


def write(folder: Path, case: GraphCase, **changes: Any) -> Path:
    def put(name: str, content: bytes) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    given: dict[str, Any] = {
        "slug": "a-graph", "prompt": "a prompt", "model": "tiny",
        "dictionaries": ["t0", "t1", "t2"], "num_layers": 3, "nodes": case.columns.nodes,
        "edges": case.columns.edges, "num_active": case.graph.num_active,
        "created": "2026-01-02", "versions": {},
    }  # fmt: skip
    write_graph_page(put, GraphPage(**{**given, **changes}))
    return folder / "a-graph.html"


def probe(page: Path) -> dict[str, Any]:
    (page.parent / "probe.js").write_text(PROBE, encoding="utf-8")
    text = page.read_text(encoding="utf-8")
    text = text.replace("</head>", '<script defer src="probe.js"></script></head>')
    page.write_text(text, encoding="utf-8")
    dom, console = dump(page)
    assert console == []
    title = re.search(r"<title>(.*?)</title>", dom)
    assert title is not None
    found: dict[str, Any] = json.loads(html.unescape(title.group(1)))
    return found


def test_pointer_keys_lists_and_slider(tmp_path: Path) -> None:
    case = graph_case()
    found = probe(write(tmp_path, case))
    nodes, edges = case.columns.nodes, case.columns.edges
    kept = np.flatnonzero(nodes["kept"])
    kinds = np.array(nodes["kind"])[kept]
    latent = int(kept[0])
    assert nodes["kind"][latent] == "latent"
    name = f"atent {nodes['latent'][latent]} of {nodes['dictionary'][latent]}"
    assert found["hovered"] == nodes["id"][latent]
    assert name in found["tip"]
    assert f"position {nodes['position'][latent]}" in found["tip"]
    assert found["pinned"] == [nodes["id"][latent]]
    assert name in found["panel"]
    # Both lists, the strongest first, as the graph has them.
    for rows, end in zip(found["rows"], ("target", "source"), strict=True):
        weights = edges["weight"][edges[end] == latent]
        strongest = weights[np.argsort(-np.abs(weights), kind="stable")]
        wanted = [float(f"{w:.3g}") for w in strongest[:60]]
        assert [float(text.replace("−", "-")) for text in rows] == pytest.approx(wanted)
    # A line that raises and one that lowers its target are drawn in their colours.
    assert found["chosen"] == [True, True]
    assert found["colours"] > 20
    into = edges["target"] == latent
    best = edges["source"][into][np.argmax(np.abs(edges["weight"][into]))]
    assert found["walked"] == [nodes["id"][best]]
    assert found["cleared"] == 0
    assert found["first"].startswith("Output ")
    assert found["second"] != nodes["id"][case.graph.graph.first_logit]
    assert found["byKey"] == [found["second"]]
    ends = int(((kinds == "token") | (kinds == "logit")).sum())
    assert found["fewest"] == ends + 1
    assert ends + 1 < found["half"] < found["all"] == len(kept)
    assert found["shown"].endswith(" %")
    assert "most influence" in found["overview"]


def test_a_permalink_opens_its_node(tmp_path: Path) -> None:
    case = graph_case()
    page = write(tmp_path, case, labels=["<i>named</i>"] * len(case.columns.nodes["id"]))
    kept = np.flatnonzero(case.columns.nodes["kept"])
    dom, console = dump(page, f"#node={case.columns.nodes['id'][kept[0]]}")
    assert console == []
    panel = dom[dom.index('id="panel"') :]
    assert re.search(r"<h3>Latent \d+ of t0</h3>", panel)
    assert '<p class="label">&lt;i&gt;named&lt;/i&gt;</p>' in panel
    assert "<i>named" not in dom
    dom, _ = dump(page, "#node=0_999_<b>")
    assert "This page has no node 0_999_" in dom
    assert "<b>" not in dom[dom.index('id="panel"') :]


def test_nothing_left_and_missing_data_are_told(tmp_path: Path) -> None:
    page = write(tmp_path, graph_case(node_threshold=0.0, edge_threshold=0.0))
    dom, console = dump(page)
    assert console == []
    assert "No latent and no error is drawn" in dom
    (tmp_path / "a-graph.js").unlink()
    dom, _ = dump(page)
    assert "a-graph.js could not be read; keep it beside this page." in dom


def test_a_graph_of_one_latent_and_of_ten_thousand_nodes(tmp_path: Path) -> None:
    dom, console = dump(write(tmp_path / "one", graph_case(most_latents=1, node_threshold=1.0)))
    assert console == []
    rng = np.random.default_rng(0)
    num, tokens, num_edges = 9_970, 20, 60_000
    total = num + tokens + 1
    inner = np.arange(num)
    nodes = {
        "kind": ["latent"] * num + ["token"] * tokens + ["logit"],
        "id": [str(i) for i in range(total)],
        "layer": np.concatenate([np.sort(inner % 30), np.full(tokens, -1), [30]]),
        "position": np.concatenate([rng.integers(0, tokens, num), np.arange(tokens), [tokens - 1]]),
        "dictionary": ["t"] * total, "latent": np.arange(total), "hook_point": [""] * total,
        "text": ["x"] * total, "activation": np.ones(total), "probability": np.full(total, 0.9),
        "influence": np.ones(total), "share": np.linspace(0, 1, total),
        "kept": np.ones(total, dtype=bool),
    }  # fmt: skip
    targets = np.concatenate([rng.integers(5000, num, num_edges), np.full(100, total - 1)])
    sources = np.concatenate([rng.integers(0, 5000, num_edges), rng.integers(0, num, 100)])
    weights = rng.normal(size=len(targets)).astype(np.float32)
    edges = {"target": targets, "source": sources, "weight": weights, "score": np.abs(weights)}
    page = write(tmp_path / "many", graph_case(), nodes=nodes, edges=edges, num_layers=30)
    (tmp_path / "many" / "probe.js").write_text(
        """window.addEventListener("load", async () => {
          const slider = document.getElementById("threshold");
          const counts = [];
          for (const value of [900, 500, 100, 1000]) {
            slider.value = value;
            slider.dispatchEvent(new Event("input"));
            await new Promise((resolve) => setTimeout(resolve, 60));
            counts.push(bathyscope.page.state.visible.reduce((sum, v) => sum + v, 0));
          }
          document.title = JSON.stringify([bathyscope.page.graph.numNodes, ...counts]);
        });""",
        encoding="utf-8",
    )
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("</head>", '<script defer src="probe.js"></script></head>'))
    dom, console = dump(page)
    assert console == []
    title = re.search(r"<title>(.*?)</title>", dom)
    assert title is not None
    found = json.loads(title.group(1))
    assert found[0] == found[4] == total
    for count, share in zip(found[1:4], (0.9, 0.5, 0.1), strict=True):
        assert count == pytest.approx(share * num + tokens + 1, abs=3)
