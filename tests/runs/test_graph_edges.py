import json

import numpy as np
import pytest
import zarr

from bathyscope.attribution.graphs import blocks
from bathyscope.attribution.graphs.doubt import doubt_of
from bathyscope.attribution.graphs.order import order_of
from bathyscope.attribution.graphs.parts import counts_of, from_parts, per_node
from bathyscope.attribution.graphs.prune import prune
from bathyscope.errors import FormatVersionError, MissingArtifact, StoreError
from bathyscope.runs import graph_edges
from bathyscope.runs.graph_edges import GraphWriter, StoredGraph
from bathyscope.stores.objects import Objects
from dense_graphs import random_dag, truncated


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch):
    """Several shards, chunks, windows and blocks for small graphs."""
    monkeypatch.setattr(graph_edges, "CHUNK_ROWS", 64)
    monkeypatch.setattr(graph_edges, "SHARD_ROWS", 256)
    monkeypatch.setattr(graph_edges, "_WINDOW", 128)
    monkeypatch.setattr(blocks, "block_entries", lambda num_nodes: 150)


def stored(graph, url, step=37):
    objects = Objects(str(url))
    writer = GraphWriter(objects, graph.num_edges)
    for start in range(0, graph.num_edges, step):
        writer.append(graph.indices[start : start + step], graph.values[start : start + step])
    writer.finish(counts_of(graph), per_node(graph))
    return opened(url)


def opened(url):
    found = StoredGraph(Objects(str(url)))
    arrays = {name: found.per_node(name) for name in found.names}
    return from_parts(found.counts, arrays, found.indices, found.values)


def mapped(graph, folder):
    entries = {}
    for name in ("indices", "values"):
        array = getattr(graph, name)
        array.tofile(folder / name)
        entries[name] = np.memmap(folder / name, dtype=array.dtype, mode="r")
    return from_parts(counts_of(graph), per_node(graph), **entries)


def same(a, b):
    assert np.array_equal(a.nodes, b.nodes)
    assert np.array_equal(a.edges.positions(), b.edges.positions())
    assert np.array_equal(a.influence.nodes, b.influence.nodes)
    assert a.edge_threshold_score == b.edge_threshold_score


@pytest.mark.parametrize("seed", range(4))
def test_pruning_from_a_store_and_from_files_is_that_of_memory_to_the_last_bit(tmp_path, seed):
    graph = random_dag(seed, latents=150, density=0.7).graph()
    assert graph.num_edges > 1500
    wanted = prune(graph, node_threshold=0.9)
    same(prune(stored(graph, tmp_path / "store"), node_threshold=0.9), wanted)
    same(prune(mapped(graph, tmp_path), node_threshold=0.9), wanted)


def test_a_truncated_graph_keeps_what_it_dropped(tmp_path):
    graph = truncated(random_dag(0, latents=150), 0.99)
    found = stored(graph, tmp_path)
    same(prune(found), prune(graph))
    a, b = (doubt_of(g, order_of(g)) for g in (found, graph))
    assert np.array_equal(a.influence.up, b.influence.up)
    assert a.scores == b.scores


def test_latents_in_any_order(tmp_path):
    dense = random_dag(1, latents=60)
    nodes = np.r_[np.random.default_rng(0).permutation(60), np.arange(60, len(dense.matrix))]
    graph = dense._replace(matrix=dense.matrix[np.ix_(nodes, nodes)]).graph()
    same(prune(stored(graph, tmp_path)), prune(graph))


def test_zarr_opens_the_edges(tmp_path):
    graph = random_dag(0).graph()
    stored(graph, tmp_path)
    for name in ("indices", "values"):
        array = zarr.open_array(str(tmp_path / name / "all"), mode="r")
        assert np.array_equal(array[: graph.num_edges], getattr(graph, name))


def test_a_graph_without_edges(tmp_path):
    dense = random_dag(0)
    found = stored(dense._replace(matrix=0 * dense.matrix).graph(), tmp_path)
    assert prune(found).edges.count == 0


def test_a_damaged_chunk_is_named(tmp_path):
    graph = random_dag(0).graph()
    found = stored(graph, tmp_path)
    path = tmp_path / "values" / "all" / "c.1"
    data = bytearray(path.read_bytes())
    data[70] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"values/all/c.1 is damaged: chunk 0"):
        prune(found)


def test_writing_again_replaces(tmp_path):
    stored(random_dag(0, latents=150).graph(), tmp_path)
    graph = random_dag(1).graph()
    same(prune(stored(graph, tmp_path)), prune(graph))


def test_unfinished_newer_and_missing_graphs(tmp_path):
    graph = random_dag(0).graph()
    writer = GraphWriter(Objects(str(tmp_path)), graph.num_edges)
    writer.append(graph.indices[:10], graph.values[:10])
    with pytest.raises(StoreError, match=rf"10 edges came .*{graph.num_edges} were said"):
        writer.finish({}, {})
    with pytest.raises(MissingArtifact):
        opened(tmp_path)
    stored(graph, tmp_path)
    manifest = tmp_path / "graph.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 2}))
    with pytest.raises(FormatVersionError, match="has format 2; this version knows 1"):
        opened(tmp_path)
