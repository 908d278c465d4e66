// The words beside the drawing: figures of a node, and lists of what it gets and gives. Texts
// only ever enter the page as text nodes.
"use strict";

bathyscope.panel = (() => {
  const { isMeasured, make, number, token } = bathyscope.format;
  const LISTED = 60;
  const IN_TIP = 3;

  const percent = (share) => `${number(100 * share, 3)} %`;

  function title(graph, node) {
    const kind = graph.kindOf(node);
    if (kind === "token") return ["Token ", word(graph.texts[node])];
    if (kind === "output") return ["Output ", word(graph.texts[node])];
    const name = graph.names[node];
    return [name.charAt(0).toUpperCase() + name.slice(1)];
  }

  const word = (text) => make("span", { class: "word" }, token(text, { markEnds: true }));

  function facts(graph, node) {
    const kind = graph.kindOf(node);
    const rows = [["position", [`${graph.positions[node]} `, word(graph.tokens[graph.positions[node]])]]];
    if (kind === "latent" || kind === "error") rows.unshift(["layer", [String(graph.layers[node])]]);
    if (kind === "latent") rows.push(["activation", [number(graph.activations[node])]]);
    if (kind === "output") rows.push(["probability", [percent(graph.probabilities[node])]]);
    else {
      rows.push(["influence", [number(graph.influences[node])]]);
      rows.push(["with all above it", [percent(graph.shares[node])]]);
    }
    const items = rows.map(([term, value]) =>
      make("div", {}, make("dt", {}, term), make("dd", {}, ...value)),
    );
    return make("dl", { class: "facts" }, ...items);
  }

  function seen(graph, edges, visible) {
    const found = [];
    for (const e of edges) if (visible[graph.sources[e]] && visible[graph.targets[e]]) found.push(e);
    return found;
  }

  function lists(graph, node, visible, choose) {
    const into = seen(graph, graph.into(node), visible);
    const outOf = seen(graph, graph.outOf(node), visible);
    const kind = graph.kindOf(node);
    const parts = [];
    if (kind === "latent" || kind === "output") {
      parts.push(list(graph, "Gets from", into, graph.sources, choose));
    } else parts.push(quiet(`${kind === "token" ? "Tokens" : "Errors"} are sources: nothing leads into them.`));
    if (kind !== "output") parts.push(list(graph, "Gives to", outOf, graph.targets, choose));
    return parts;
  }

  const quiet = (text) => make("p", { class: "quiet" }, text);

  function list(graph, caption, edges, ends, choose) {
    if (!edges.length) return quiet(`${caption}: no edge of the nodes that are drawn.`);
    const largest = Math.max(...edges.map((e) => Math.abs(graph.weights[e])));
    const rows = edges.slice(0, LISTED).map((e) => row(graph, e, ends[e], largest, choose));
    const more = edges.length > LISTED ? `, the ${LISTED} strongest` : "";
    const head = make("caption", {}, caption, make("span", { class: "quiet" }, ` ${number(edges.length)} node${edges.length === 1 ? "" : "s"}${more}`));
    return make("table", { class: "edges" }, head, make("tbody", {}, ...rows));
  }

  function row(graph, e, node, largest, choose) {
    const weight = graph.weights[e];
    const button = make("button", { type: "button" }, ...short(graph, node));
    button.addEventListener("click", () => choose(node));
    const cell = make("td", { class: `number ${weight < 0 ? "negative" : "positive"}` }, signed(weight));
    cell.style.setProperty("--share", (Math.abs(weight) / largest).toFixed(3));
    return make("tr", {}, make("th", { scope: "row" }, button), cell);
  }

  const signed = (weight) => `${weight > 0 ? "+" : ""}${number(weight, 3)}`;

  function short(graph, node) {
    const parts = [...title(graph, node)];
    if (graph.labels[node]) parts.push(" ", make("span", { class: "label" }, graph.labels[node]));
    const kind = graph.kindOf(node);
    if (kind === "latent" || kind === "error") {
      parts.push(make("span", { class: "quiet" }, ` at ${graph.positions[node]} `), word(graph.tokens[graph.positions[node]]));
    } else if (kind === "token") parts.push(make("span", { class: "quiet" }, ` at ${graph.positions[node]}`));
    return parts;
  }

  function show(container, graph, node, { visible, pinned, choose, toggle }) {
    const pin = make("button", { type: "button", "aria-pressed": String(pinned.has(node)) }, pinned.has(node) ? "Unpin" : "Pin");
    pin.addEventListener("click", () => toggle(node));
    const link = make("a", { class: "permalink", href: `#node=${encodeURIComponent(graph.ids[node])}` }, "link to this node");
    const head = make("header", {}, make("h3", {}, ...title(graph, node)), pin, link);
    const label = graph.labels[node] ? [make("p", { class: "label" }, graph.labels[node])] : [];
    container.replaceChildren(head, ...label, facts(graph, node), ...lists(graph, node, visible, choose));
  }

  // Nothing is chosen: the most influential nodes, which is also a way in without a pointer.
  function overview(container, graph, { visible, choose }) {
    const order = [];
    for (let i = 0; i < graph.numNodes; i++) if (visible[i] && graph.kinds[i] < 2) order.push(i);
    order.sort((a, b) => graph.shares[a] - graph.shares[b] || a - b);
    const outputs = [];
    for (let i = 0; i < graph.numNodes; i++) if (graph.kinds[i] === 3) outputs.push(i);
    const told = order.length
      ? "No node is chosen. Choose one in the drawing, or of those with the most influence:"
      : "No latent and no error is drawn: move the slider to the right, or prune less.";
    const button = (node) => {
      const made = make("button", { type: "button" }, ...short(graph, node));
      made.addEventListener("click", () => choose(node));
      return made;
    };
    const table = (caption, nodes, text) => {
      const rows = nodes.map((node) =>
        make("tr", {}, make("th", { scope: "row" }, button(node)), make("td", { class: "number" }, text(node))),
      );
      return make("table", { class: "edges" }, make("caption", {}, caption), make("tbody", {}, ...rows));
    };
    const most = table("Influence", order.slice(0, 15), (node) => number(graph.influences[node], 3));
    const last = table("Outputs", outputs, (node) => percent(graph.probabilities[node]));
    container.replaceChildren(make("p", { class: "quiet" }, told), ...(order.length ? [most] : []), last);
  }

  function tip(container, graph, node, visible) {
    const parts = [make("b", {}, ...title(graph, node))];
    if (graph.labels[node]) parts.push(make("div", {}, graph.labels[node]));
    parts.push(make("div", {}, spoken(graph, node)));
    for (const [caption, edges, ends] of [
      ["from", seen(graph, graph.into(node), visible), graph.sources],
      ["to", seen(graph, graph.outOf(node), visible), graph.targets],
    ]) {
      for (const e of edges.slice(0, IN_TIP)) {
        parts.push(make("div", {}, `${caption} ${signed(graph.weights[e])} `, ...short(graph, ends[e])));
      }
    }
    container.replaceChildren(...parts);
  }

  function spoken(graph, node) {
    const kind = graph.kindOf(node);
    const where = kind === "latent" || kind === "error" ? `layer ${graph.layers[node]}, ` : "";
    const parts = [`${where}position ${graph.positions[node]}`];
    if (kind === "latent") parts.push(`activation ${number(graph.activations[node], 3)}`);
    if (kind === "output") parts.push(`probability ${percent(graph.probabilities[node])}`);
    else if (isMeasured(graph.influences[node])) parts.push(`influence ${number(graph.influences[node], 3)}`);
    return parts.join(", ");
  }

  const spokenName = (graph, node) =>
    `${make("span", {}, ...title(graph, node)).textContent}, ${spoken(graph, node)}`;

  return { show, overview, tip, spokenName };
})();
