// The graph as typed arrays, and which edges meet at a node. Edges come sorted by falling score;
// those of a node are sorted by falling |weight|.
"use strict";

bathyscope.readGraph = (raw) => {
  const sources = unpack(raw.sources, Int32Array);
  const targets = unpack(raw.targets, Int32Array);
  const weights = unpack(raw.weights, Float32Array);
  const numNodes = raw.ids.length;
  const numEdges = sources.length;
  const shares = Float64Array.from(raw.shares, (share) => share ?? 1);
  const isInner = Uint8Array.from(raw.kinds, (kind) => (kind < 2 ? 1 : 0));
  const byId = new Map(raw.ids.map((id, i) => [id, i]));
  const into = group(targets);
  const outOf = group(sources);

  function group(ends) {
    const starts = new Int32Array(numNodes + 1);
    for (let e = 0; e < numEdges; e++) starts[ends[e] + 1]++;
    for (let i = 0; i < numNodes; i++) starts[i + 1] += starts[i];
    const next = starts.slice();
    const edges = new Int32Array(numEdges);
    for (let e = 0; e < numEdges; e++) edges[next[ends[e]]++] = e;
    for (let i = 0; i < numNodes; i++) {
      const part = edges.subarray(starts[i], starts[i + 1]);
      part.sort((a, b) => Math.abs(weights[b]) - Math.abs(weights[a]) || a - b);
    }
    return (node) => edges.subarray(starts[node], starts[node + 1]);
  }

  // Nodes to draw at a threshold on the cumulative share; tokens and outputs always are.
  function visibleAt(threshold) {
    const visible = new Uint8Array(numNodes);
    for (let i = 0; i < numNodes; i++) {
      visible[i] = !isInner[i] || shares[i] <= threshold ? 1 : 0;
    }
    return visible;
  }

  let [low, high] = [1, 0];
  for (let i = 0; i < numNodes; i++) {
    if (!isInner[i]) continue;
    low = Math.min(low, shares[i]);
    high = Math.max(high, shares[i]);
  }
  const KINDS = ["latent", "error", "token", "output"];
  return {
    ...raw, numNodes, numEdges, sources, targets, weights, shares, into, outOf, visibleAt, byId,
    // Where the slider starts and ends: nothing but the most influential node, and everything.
    low: high > 0 ? low : 0,
    high: high > 0 ? high : 1,
    kindOf: (node) => KINDS[raw.kinds[node]],
  };

  function unpack(text, Type) {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    return new Type(bytes.buffer);
  }
};
