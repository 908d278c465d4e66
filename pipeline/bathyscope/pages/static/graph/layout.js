// Where nodes stand: one column per position, one row per layer, tokens below and outputs above.
// Within a cell the most influential node comes first. A grid of buckets answers which node is
// near a point without going over all of them.
"use strict";

bathyscope.layOut = (graph, width) => {
  const margin = { left: 46, right: 70, top: 78, bottom: 84 };
  const rows = graph.numLayers + 2;
  const rowHeight = Math.min(Math.max(Math.floor(700 / rows), 16), 46);
  const cells = fill();
  const counts = widest();
  const room = Math.max(width - margin.left - margin.right, 100);
  let { gap, columns } = fit(15);
  for (const smaller of [12, 9]) {
    if (total(columns) > room) ({ gap, columns } = fit(smaller));
  }
  const spare = Math.max(room - total(columns), 0) / columns.length;
  columns = columns.map((column) => column + spare);
  const starts = [margin.left];
  for (const column of columns) starts.push(starts[starts.length - 1] + column);
  const x = new Float32Array(graph.numNodes);
  const y = new Float32Array(graph.numNodes);
  place();
  const buckets = index();

  function rowOf(node) {
    const kind = graph.kinds[node];
    return kind === 2 ? 0 : kind === 3 ? rows - 1 : graph.layers[node] + 1;
  }

  function fill() {
    const found = new Map();
    for (let i = 0; i < graph.numNodes; i++) {
      const key = graph.positions[i] * rows + rowOf(i);
      if (!found.has(key)) found.set(key, []);
      found.get(key).push(i);
    }
    for (const [key, cell] of found) {
      if (key % rows !== rows - 1) cell.sort((a, b) => graph.shares[a] - graph.shares[b] || a - b);
    }
    return found;
  }

  function widest() {
    const most = new Int32Array(graph.tokens.length);
    const outputs = new Int32Array(graph.tokens.length);
    for (const [key, cell] of cells) {
      const position = Math.floor(key / rows);
      const which = key % rows === rows - 1 ? outputs : most;
      which[position] = Math.max(which[position], cell.length);
    }
    return { most, outputs };
  }

  function stack(size) {
    return Math.max(Math.floor((rowHeight - 3) / size), 1);
  }

  function fit(size) {
    const columns = Array.from(counts.most, (count, position) => {
      const inner = Math.ceil(count / stack(size)) * size;
      // Outputs carry slanted words: they stand side by side.
      return Math.max(26, inner + 10, counts.outputs[position] * 18 + 10);
    });
    return { gap: size, columns };
  }

  function total(sizes) {
    return sizes.reduce((sum, size) => sum + size, 0);
  }

  function yOf(row) {
    return margin.top + (rows - 1 - row + 0.5) * rowHeight;
  }

  function place() {
    for (const [key, cell] of cells) {
      const [position, row] = [Math.floor(key / rows), key % rows];
      const isOutput = row === rows - 1;
      const deep = isOutput ? 1 : Math.min(stack(gap), cell.length);
      const step = isOutput ? 18 : gap;
      const wide = Math.ceil(cell.length / deep);
      const middle = starts[position] + columns[position] / 2;
      cell.forEach((node, i) => {
        x[node] = middle + (Math.floor(i / deep) - (wide - 1) / 2) * step;
        y[node] = yOf(row) + ((i % deep) - (deep - 1) / 2) * gap;
      });
    }
  }

  function index() {
    const found = new Map();
    for (let i = 0; i < graph.numNodes; i++) {
      const key = bucket(x[i], y[i]);
      if (!found.has(key)) found.set(key, []);
      found.get(key).push(i);
    }
    return found;
  }

  function bucket(px, py) {
    return Math.floor(px / 24) * 65536 + Math.floor(py / 24);
  }

  // The visible node nearest to a point, within 14 pixels, or -1.
  function nearest(px, py, visible) {
    let [best, distance] = [-1, 14 * 14];
    for (let a = -1; a <= 1; a++) {
      for (let b = -1; b <= 1; b++) {
        for (const node of buckets.get(bucket(px + 24 * a, py + 24 * b)) || []) {
          const d = (x[node] - px) ** 2 + (y[node] - py) ** 2;
          if (visible[node] && d < distance) [best, distance] = [node, d];
        }
      }
    }
    return best;
  }

  // The visible node that an arrow key leads to: near, and more in that direction than aside.
  function towards(from, dx, dy, visible) {
    let [best, cost] = [-1, Infinity];
    for (let i = 0; i < graph.numNodes; i++) {
      if (!visible[i] || i === from) continue;
      const [along, aside] = dx
        ? [(x[i] - x[from]) * dx, Math.abs(y[i] - y[from])]
        : [(y[i] - y[from]) * dy, Math.abs(x[i] - x[from])];
      if (along <= 0.5 || aside > 2 * along) continue;
      const c = along + 2.5 * aside;
      if (c < cost) [best, cost] = [i, c];
    }
    return best;
  }

  return {
    margin, rows, rowHeight, columns, starts, x, y, yOf, nearest, towards,
    radius: Math.min(gap * 0.34, 4.4),
    width: starts[starts.length - 1] + margin.right,
    height: margin.top + rows * rowHeight + margin.bottom,
  };
};
