// Starts the page: filters, sorting, keys, permalinks (#latent=123), the value shown over a
// token, and what has to open before printing.
"use strict";

(() => {
  const byId = (name) => document.getElementById(name);
  const { make } = bathyscope.format;

  function start() {
    openBeforePrinting();
    if (!byId("table")) return;
    if (!bathyscope.head) {
      byId("status").textContent =
        "data/latents.js could not be read; keep index.html, assets and data together.";
      return;
    }
    const table = new bathyscope.Table(bathyscope.head, {
      table: byId("table"),
      choose: (latent) => { location.hash = `latent=${latent}`; },
      status: (text) => { byId("status").textContent = text; },
    });
    connect(table);
    showValues(byId("latent"));
    table.read().catch(report);
    follow(table);
  }

  function report(error) {
    byId("status").textContent = error.message;
  }

  function connect(table) {
    for (const header of byId("table").tHead.querySelectorAll("[data-key]")) {
      const sort = () => table.sortBy(header.dataset.key).catch(report);
      header.querySelector("button").addEventListener("click", sort);
    }
    byId("back").addEventListener("click", () => table.turn(-1));
    byId("on").addEventListener("click", () => table.turn(1));
    connectFilters(table);
    window.addEventListener("hashchange", () => follow(table));
    document.addEventListener("keydown", (event) => step(event, table));
  }

  function connectFilters(table) {
    const form = byId("filters");
    let timer = 0;
    const apply = () => {
      table.filter = {
        low: bound("low"),
        high: bound("high"),
        state: byId("state").value,
        text: byId("text").value,
      };
      table.apply().catch(report);
    };
    const soon = () => {
      clearTimeout(timer);
      timer = setTimeout(apply, 200);
    };
    for (const name of ["low", "high", "text", "state"]) byId(name).addEventListener("input", soon);
    form.addEventListener("reset", () => setTimeout(apply));
    form.addEventListener("submit", (event) => event.preventDefault());
    byId("go").addEventListener("change", () => {
      const wanted = byId("go").value.trim();
      if (wanted !== "") location.hash = `latent=${wanted}`;
    });
  }

  // A bound that is no number yet filters nothing, and says so to the eye and to a reader.
  function bound(name) {
    const field = byId(name);
    const text = field.value.trim();
    const value = text === "" ? NaN : Number(text.replaceAll("−", "-"));
    field.setAttribute("aria-invalid", String(text !== "" && Number.isNaN(value)));
    // Densities are float32: a bound of 0.1 must let a density of 0.1 pass.
    return Math.fround(value);
  }

  async function follow(table) {
    const match = /^#latent=(.*)$/.exec(location.hash);
    if (!match) return;
    const view = byId("latent");
    const latent = /^\d+$/.test(match[1]) ? Number(match[1]) : -1;
    if (latent < 0 || latent >= bathyscope.head.numLatents) {
      const last = bathyscope.head.numLatents - 1;
      view.replaceChildren(make("p", {}, `There is no latent ${match[1]}; they run from 0 to ${last}.`));
      return;
    }
    const size = bathyscope.head.sizes.block;
    try {
      const block = await bathyscope.load("block", Math.floor(latent / size));
      if (location.hash !== match[0]) return;
      bathyscope.latent.show(view, block.pages[latent % size], block.strings);
      table.select(latent);
      bringIntoSight(view);
    } catch (error) {
      view.replaceChildren(make("p", {}, error.message));
    }
  }

  function bringIntoSight(view) {
    const box = view.getBoundingClientRect();
    const isSeen = box.top >= 0 && box.top < window.innerHeight * 0.6;
    if (!isSeen) view.scrollIntoView({ block: "start" });
  }

  function step(event, table) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, select, textarea")) return;
    const inTable = event.target.closest("#table tbody") !== null;
    const arrows = inTable ? { ArrowDown: 1, ArrowUp: -1 } : {};
    const by = { j: 1, k: -1, ...arrows }[event.key];
    if (!by) return;
    const latent = table.neighbour(by);
    if (latent < 0) return;
    event.preventDefault();
    table.wantsFocus = inTable;
    location.hash = `latent=${latent}`;
  }

  function showValues(view) {
    const tip = make("div", { class: "tip", hidden: "", "aria-hidden": "true" });
    document.body.append(tip);
    view.addEventListener("pointerover", (event) => {
      const span = event.target.closest(".token");
      tip.hidden = !span;
      if (!span) return;
      const text = span.cloneNode(true);
      text.className = "";
      tip.replaceChildren(make("b", {}, span.dataset.value), " ", text);
      const box = span.getBoundingClientRect();
      const left = Math.min(box.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
      tip.style.left = `${Math.max(left, 8) + window.scrollX}px`;
      tip.style.top = `${box.top + window.scrollY - tip.offsetHeight - 4}px`;
    });
    view.addEventListener("pointerleave", () => { tip.hidden = true; });
  }

  function openBeforePrinting() {
    window.addEventListener("beforeprint", () => {
      for (const part of document.querySelectorAll("details")) part.open = true;
    });
  }

  start();
})();
