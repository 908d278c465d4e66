// Draws the part of the graph that is in sight. Shapes of one look go into one path, so that
// 10,000 nodes are a few calls. Colours come from the style sheet; a line that lowers its target
// is dashed as well, for print and for eyes that see the two colours alike.
"use strict";

bathyscope.draw = (() => {
  const BASE_EDGES = 400;
  const CHOSEN_EDGES = 150;
  const LIGHT = {
    ink: "#000", quiet: "#444", rule: "#ccc", paper: "#fff", band: "#f4f5f4",
    positive: "#0a5f9e", negative: "#b8430a", accent: "#0b6b78",
  };

  function palette(element, isPrint) {
    if (isPrint) return LIGHT;
    const style = getComputedStyle(element);
    const read = (name) => style.getPropertyValue(`--${name}`).trim();
    return {
      ink: read("ink"), quiet: read("quiet"), rule: read("rule"), paper: read("paper"),
      band: read("raised"), positive: read("positive"), negative: read("negative"),
      accent: read("accent"),
    };
  }

  // state: visible, pinned (a Set), hovered, focused; view: left edge and width in pixels.
  function frame(context, graph, layout, state, view) {
    const colours = palette(context.canvas, view.isPrint);
    context.setTransform(view.scale, 0, 0, view.scale, 0, 0);
    context.fillStyle = colours.paper;
    context.fillRect(0, 0, view.width, layout.height);
    context.translate(-view.left, 0);
    background(context, graph, layout, colours);
    const chosen = [...state.pinned, ...(state.hovered >= 0 ? [state.hovered] : [])];
    const edges = chosen.length ? edgesOf(graph, state, chosen) : strongest(graph, state.visible);
    lines(context, graph, layout, edges, colours, chosen.length > 0);
    nodes(context, graph, layout, state, edges, colours, chosen);
    words(context, graph, layout, state, colours);
    layerNames(context, graph, layout, view, colours);
  }

  function background(context, graph, layout, colours) {
    const [left, right] = [layout.starts[0], layout.starts[layout.starts.length - 1]];
    context.fillStyle = colours.band;
    for (let row = 0; row < layout.rows; row += 2) {
      const top = layout.yOf(row) - layout.rowHeight / 2;
      context.fillRect(left, top, right - left, layout.rowHeight);
    }
    context.strokeStyle = colours.rule;
    context.lineWidth = 1;
    context.beginPath();
    for (const start of layout.starts) {
      context.moveTo(Math.round(start) + 0.5, layout.margin.top);
      context.lineTo(Math.round(start) + 0.5, layout.margin.top + layout.rows * layout.rowHeight);
    }
    context.stroke();
  }

  function strongest(graph, visible) {
    const found = [];
    for (let e = 0; e < graph.numEdges && found.length < BASE_EDGES; e++) {
      if (visible[graph.sources[e]] && visible[graph.targets[e]]) found.push(e);
    }
    return found;
  }

  function edgesOf(graph, state, chosen) {
    const found = new Set();
    for (const node of chosen) {
      for (const edges of [graph.into(node), graph.outOf(node)]) {
        let count = 0;
        for (const e of edges) {
          if (!state.visible[graph.sources[e]] || !state.visible[graph.targets[e]]) continue;
          found.add(e);
          if (++count === CHOSEN_EDGES) break;
        }
      }
    }
    return [...found];
  }

  function lines(context, graph, layout, edges, colours, areChosen) {
    let largest = 1e-30;
    for (const e of edges) largest = Math.max(largest, Math.abs(graph.weights[e]));
    // The weakest first, so that the strong ones lie on top.
    const order = edges.slice().sort((a, b) => Math.abs(graph.weights[a]) - Math.abs(graph.weights[b]));
    for (const e of order) {
      const share = Math.sqrt(Math.abs(graph.weights[e]) / largest);
      const isPositive = graph.weights[e] >= 0;
      context.strokeStyle = isPositive ? colours.positive : colours.negative;
      context.globalAlpha = areChosen ? 0.35 + 0.65 * share : 0.1 + 0.45 * share;
      context.lineWidth = areChosen ? 0.6 + 3 * share : 0.5 + 1.5 * share;
      context.setLineDash(isPositive ? [] : [5, 3]);
      context.beginPath();
      context.moveTo(layout.x[graph.sources[e]], layout.y[graph.sources[e]]);
      context.lineTo(layout.x[graph.targets[e]], layout.y[graph.targets[e]]);
      context.stroke();
    }
    context.globalAlpha = 1;
    context.setLineDash([]);
  }

  function nodes(context, graph, layout, state, edges, colours, chosen) {
    const signs = new Map();
    if (chosen.length) {
      const inside = new Set(chosen);
      for (const e of edges) {
        const other = inside.has(graph.sources[e]) ? graph.targets[e] : graph.sources[e];
        if (!signs.has(other)) signs.set(other, graph.weights[e] >= 0 ? "positive" : "negative");
      }
      for (const node of chosen) signs.set(node, "ink");
    }
    const looks = new Map();
    for (let i = 0; i < graph.numNodes; i++) {
      if (!state.visible[i]) continue;
      const look = chosen.length ? signs.get(i) || "faint" : "ink";
      if (!looks.has(look)) looks.set(look, []);
      looks.get(look).push(i);
    }
    for (const look of ["faint", "negative", "positive", "ink"]) {
      const members = looks.get(look);
      if (!members) continue;
      context.fillStyle = look === "faint" ? colours.paper : colours[look];
      context.strokeStyle = look === "faint" ? colours.quiet : colours.paper;
      context.lineWidth = 0.8;
      context.beginPath();
      for (const i of members) shape(context, graph.kinds[i], layout.x[i], layout.y[i], layout.radius);
      context.fill();
      context.stroke();
    }
    for (const node of state.pinned) if (state.visible[node]) ring(context, layout, node, colours.ink, 2);
    if (state.hovered >= 0) ring(context, layout, state.hovered, colours.accent, 2);
    if (state.focused >= 0) ring(context, layout, state.focused, colours.accent, 2, [3, 2]);
  }

  function shape(context, kind, x, y, r) {
    if (kind === 0) {
      context.moveTo(x + r, y);
      context.arc(x, y, r, 0, 2 * Math.PI);
    } else if (kind === 1) {
      context.moveTo(x, y - 1.25 * r);
      context.lineTo(x + 1.25 * r, y);
      context.lineTo(x, y + 1.25 * r);
      context.lineTo(x - 1.25 * r, y);
      context.closePath();
    } else context.rect(x - r, y - r, 2 * r, 2 * r);
  }

  function ring(context, layout, node, colour, width, dash = []) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.setLineDash(dash);
    context.beginPath();
    context.arc(layout.x[node], layout.y[node], layout.radius + 4, 0, 2 * Math.PI);
    context.stroke();
    context.setLineDash([]);
  }

  function words(context, graph, layout, state, colours) {
    context.font = "12px system-ui, sans-serif";
    context.fillStyle = colours.ink;
    for (let i = 0; i < graph.numNodes; i++) {
      const kind = graph.kinds[i];
      if (kind === 2) slanted(context, graph.texts[i], layout.x[i] + 3, layout.yOf(0) + layout.rowHeight / 2 + 12, "end");
      if (kind === 3) slanted(context, graph.texts[i], layout.x[i] + 3, layout.y[i] - layout.rowHeight / 2 - 5, "start");
    }
  }

  function slanted(context, text, x, y, align) {
    context.save();
    context.translate(x, y);
    context.rotate(-Math.PI / 4);
    context.textAlign = align;
    context.textBaseline = "middle";
    context.fillText(short(text), 0, 0);
    context.restore();
  }

  function short(text) {
    const marked = bathyscope.format.token(text, { markEnds: false }).textContent.trim();
    const characters = Array.from(marked || "␣");
    return characters.length > 12 ? `${characters.slice(0, 11).join("")}…` : characters.join("");
  }

  // Names of layers stay at the left edge while the drawing scrolls.
  function layerNames(context, graph, layout, view, colours) {
    const width = layout.margin.left - 4;
    context.fillStyle = colours.paper;
    context.fillRect(view.left, layout.margin.top, width, layout.rows * layout.rowHeight);
    context.fillStyle = colours.quiet;
    context.font = "11px system-ui, sans-serif";
    context.textAlign = "right";
    context.textBaseline = "middle";
    const every = layout.rowHeight < 18 ? 2 : 1;
    for (let row = 0; row < layout.rows; row++) {
      const isEnd = row === 0 || row === layout.rows - 1;
      if (!isEnd && (row - 1) % every) continue;
      const name = row === 0 ? "token" : row === layout.rows - 1 ? "output" : `L${row - 1}`;
      context.fillText(name, view.left + width - 4, layout.yOf(row));
    }
  }

  return { frame };
})();
