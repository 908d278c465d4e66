// Starts the page: slider, pointer, keys, permalinks (#node=id), printing.
"use strict";

(() => {
  const byId = (name) => document.getElementById(name);
  const { make, number } = bathyscope.format;

  function start() {
    const panel = byId("panel");
    if (!bathyscope.graph) {
      const name = document.querySelector('script[src$=".js"]:not([src^="assets/"])').getAttribute("src");
      panel.replaceChildren(make("p", {}, `${name} could not be read; keep it beside this page.`));
      return;
    }
    const graph = bathyscope.readGraph(bathyscope.graph);
    const canvas = byId("canvas");
    const tip = make("div", { class: "tip graph-tip", hidden: "", "aria-hidden": "true" });
    document.body.append(tip);
    const state = {
      visible: graph.visibleAt(graph.high), pinned: new Set(), hovered: -1, focused: -1, chosen: -1,
    };
    const page = { graph, canvas, tip, panel, state, box: byId("box"), layout: null, isDue: false, isPrint: false };
    connectSlider(page);
    connectPointer(page);
    connectKeys(page);
    byId("clear").addEventListener("click", () => clear(page));
    new ResizeObserver(() => layOut(page)).observe(page.box);
    page.box.addEventListener("scroll", () => redraw(page));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw(page));
    window.addEventListener("beforeprint", () => print(page, true));
    window.addEventListener("afterprint", () => print(page, false));
    window.addEventListener("hashchange", () => follow(page));
    layOut(page);
    // Outputs stand at the right end, and they are what one looks for first.
    page.box.scrollLeft = page.layout.width;
    tell(page);
    follow(page);
    bathyscope.page = page;
  }

  function layOut(page) {
    const width = page.box.clientWidth;
    if (page.layout && page.layoutWidth === width) return;
    page.layoutWidth = width;
    page.layout = bathyscope.layOut(page.graph, width);
    byId("sizer").style.width = `${page.layout.width}px`;
    redraw(page);
  }

  // Many events may ask for a drawing between two frames; one is made.
  function redraw(page) {
    if (page.isDue) return;
    page.isDue = true;
    requestAnimationFrame(() => {
      page.isDue = false;
      drawNow(page);
    });
  }

  function drawNow(page) {
    const { canvas, layout, box } = page;
    const width = page.isPrint ? Math.min(layout.width, 8000) : Math.max(box.clientWidth, 1);
    const scale = page.isPrint ? 2 : window.devicePixelRatio || 1;
    const sizes = [Math.round(width * scale), Math.round(layout.height * scale)];
    if (canvas.width !== sizes[0] || canvas.height !== sizes[1]) [canvas.width, canvas.height] = sizes;
    canvas.style.width = page.isPrint ? "100%" : `${width}px`;
    canvas.style.height = page.isPrint ? "auto" : `${layout.height}px`;
    const view = { left: page.isPrint ? 0 : box.scrollLeft, width, scale, isPrint: page.isPrint };
    bathyscope.draw.frame(canvas.getContext("2d"), page.graph, layout, page.state, view);
  }

  function print(page, isPrint) {
    page.isPrint = isPrint;
    for (const part of document.querySelectorAll("details")) part.open = part.open || isPrint;
    drawNow(page);
  }

  function connectSlider(page) {
    const { graph, state } = page;
    const slider = byId("threshold");
    const apply = () => {
      const at = graph.low + ((graph.high - graph.low) * slider.value) / slider.max;
      // The last step has to show everything, whatever the rounding.
      const threshold = Number(slider.value) === Number(slider.max) ? graph.high : at;
      state.visible = graph.visibleAt(threshold);
      let count = 0;
      for (let i = 0; i < graph.numNodes; i++) count += state.visible[i];
      byId("shown").textContent = `${number(100 * threshold, 3)} %`;
      slider.setAttribute("aria-valuetext", `${number(100 * threshold, 3)} percent, ${count} nodes`);
      if (state.hovered >= 0 && !state.visible[state.hovered]) state.hovered = -1;
      if (state.focused >= 0 && !state.visible[state.focused]) state.focused = -1;
      tell(page);
      redraw(page);
    };
    slider.disabled = !(graph.high > graph.low);
    slider.addEventListener("input", apply);
    byId("controls").addEventListener("submit", (event) => event.preventDefault());
    apply();
  }

  function connectPointer(page) {
    const { canvas, state } = page;
    const at = (event) => {
      const area = canvas.getBoundingClientRect();
      const x = event.clientX - area.left + page.box.scrollLeft;
      return page.layout.nearest(x, event.clientY - area.top, state.visible);
    };
    canvas.addEventListener("pointermove", (event) => hover(page, at(event), event));
    canvas.addEventListener("pointerleave", () => hover(page, -1));
    canvas.addEventListener("click", (event) => {
      const node = at(event);
      if (node >= 0) toggle(page, node);
    });
  }

  function hover(page, node, event) {
    if (event && node >= 0) moveTip(page, event);
    if (node === page.state.hovered) return;
    page.state.hovered = node;
    page.canvas.style.cursor = node >= 0 ? "pointer" : "default";
    page.tip.hidden = node < 0;
    if (node >= 0) {
      bathyscope.panel.tip(page.tip, page.graph, node, page.state.visible);
      moveTip(page, event);
    }
    redraw(page);
  }

  function moveTip({ tip }, event) {
    const right = document.documentElement.clientWidth - tip.offsetWidth - 8;
    const below = event.clientY + 18 + tip.offsetHeight < window.innerHeight;
    tip.style.left = `${Math.max(Math.min(event.clientX + 14, right), 8) + window.scrollX}px`;
    tip.style.top = `${(below ? event.clientY + 18 : event.clientY - tip.offsetHeight - 12) + window.scrollY}px`;
  }

  function connectKeys(page) {
    const { canvas, state } = page;
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "Escape") clear(page);
      else if (event.key === "Enter" || event.key === " ") {
        if (state.focused >= 0) toggle(page, state.focused);
      } else if (ways[event.key]) step(page, ...ways[event.key]);
      else return;
      event.preventDefault();
    });
    canvas.addEventListener("blur", () => {
      state.focused = -1;
      redraw(page);
    });
  }

  function step(page, dx, dy) {
    const { graph, state, layout } = page;
    let next = state.chosen >= 0 && state.visible[state.chosen] ? state.chosen : firstNode(page);
    if (state.focused >= 0) next = layout.towards(state.focused, dx, dy, state.visible);
    if (next < 0) return;
    state.focused = next;
    byId("status").textContent = bathyscope.panel.spokenName(graph, next);
    bringIntoSight(page, next);
    redraw(page);
  }

  // Keys begin at the most probable output.
  function firstNode({ graph }) {
    return graph.kinds.indexOf(3);
  }

  function bringIntoSight({ box, layout }, node) {
    const x = layout.x[node] - box.scrollLeft;
    if (x < layout.margin.left + 20 || x > box.clientWidth - 20) {
      box.scrollLeft = layout.x[node] - box.clientWidth / 2;
    }
  }

  function toggle(page, node) {
    const { state } = page;
    if (state.pinned.has(node)) {
      state.pinned.delete(node);
      state.chosen = [...state.pinned].pop() ?? -1;
      byId("status").textContent = "unpinned";
    } else {
      state.pinned.add(node);
      state.chosen = node;
      byId("status").textContent = `pinned: ${bathyscope.panel.spokenName(page.graph, node)}`;
    }
    tell(page);
    redraw(page);
  }

  // From a list: this node alone is pinned, so that one can walk along edges.
  function choose(page, node) {
    page.state.pinned = new Set([node]);
    page.state.chosen = node;
    byId("status").textContent = `pinned: ${bathyscope.panel.spokenName(page.graph, node)}`;
    bringIntoSight(page, node);
    tell(page);
    page.panel.querySelector("h3 + button")?.focus({ preventScroll: true });
    redraw(page);
  }

  function clear(page) {
    page.state.pinned.clear();
    page.state.chosen = -1;
    tell(page);
    redraw(page);
  }

  function tell(page) {
    const { graph, panel, state } = page;
    const tools = {
      visible: state.visible,
      pinned: state.pinned,
      choose: (node) => choose(page, node),
      toggle: (node) => toggle(page, node),
    };
    if (state.chosen >= 0) bathyscope.panel.show(panel, graph, state.chosen, tools);
    else bathyscope.panel.overview(panel, graph, tools);
  }

  function follow(page) {
    const match = /^#node=(.*)$/.exec(location.hash);
    if (!match) return;
    const id = decodeURIComponent(match[1]);
    const node = page.graph.byId.get(id);
    if (node === undefined) {
      page.panel.replaceChildren(make("p", {}, `This page has no node ${id}: pruning removed it, or it is of another graph.`));
      return;
    }
    page.state.pinned.add(node);
    page.state.chosen = node;
    bringIntoSight(page, node);
    tell(page);
    redraw(page);
  }

  start();
})();
