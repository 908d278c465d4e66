// The view of one latent: figures, activation histogram, promoted and suppressed tokens, and
// examples grouped by band. `show(container, page, strings)` replaces what the container held.
"use strict";

bathyscope.latent = (() => {
  const { counted, isMeasured, make, number, token } = bathyscope.format;

  function show(container, page, strings) {
    const parts = [heading(page), facts(page)];
    if (page.histogram) parts.push(histogram(page.histogram));
    if (page.promoted.length || page.suppressed.length) {
      parts.push(
        make(
          "div",
          { class: "pair" },
          effects("Promoted tokens", page.promoted, strings),
          effects("Suppressed tokens", page.suppressed, strings),
        ),
      );
    }
    parts.push(...examples(page, strings));
    container.replaceChildren(...parts);
    container.setAttribute("aria-label", `Latent ${page.latent}`);
  }

  function heading(page) {
    return make(
      "header",
      {},
      make("h3", {}, `Latent ${page.latent}`),
      make("a", { class: "permalink", href: `#latent=${page.latent}` }, "link to this latent"),
    );
  }

  function facts(page) {
    const state = isMeasured(page.density) ? (page.density > 0 ? "live" : deadWords()) : null;
    const rows = [
      ["density", number(page.density)],
      ["mean when active", number(page.mean)],
      ["max", number(page.max)],
      ["state", state || "not measured"],
    ];
    const items = rows.map(([term, value]) =>
      make("div", {}, make("dt", {}, term), make("dd", {}, value)),
    );
    return make("dl", { class: "facts" }, ...items);
  }

  function deadWords() {
    const tokens = bathyscope.head.densityTokens;
    return isMeasured(tokens) ? `dead: silent for ${number(tokens)} tokens` : "dead";
  }

  // Activations have a long tail: heights are log10(1 + count), and each bar tells its count.
  function histogram({ edges, counts }) {
    const [width, height, base] = [360, 110, 92];
    const highest = Math.max(...counts.map((count) => Math.log10(1 + count)), 0.301);
    const low = edges[0];
    const x = (value) => 4 + ((value - low) / (edges[edges.length - 1] - low || 1)) * (width - 8);
    const bars = counts.map((count, i) => {
      const tall = (Math.log10(1 + count) / highest) * (base - 8);
      const box = { x: x(edges[i]) + 0.5, y: base - tall, height: tall };
      box.width = Math.max(x(edges[i + 1]) - x(edges[i]) - 1, 0.5);
      const told = `${number(edges[i])} to ${number(edges[i + 1])}: ${counted(count, "token")}`;
      return make("rect", { class: "bar", ...box }, make("title", {}, told));
    });
    const labels = [edges[0], edges[edges.length - 1]].map((edge, i) => {
      const place = { x: i ? width - 4 : 4, y: height - 5, "text-anchor": i ? "end" : "start" };
      return make("text", { class: "tick", ...place }, number(edge));
    });
    const floor = make("path", { class: "rule", d: `M4 ${base}H${width - 4}` });
    const total = counted(counts.reduce((sum, count) => sum + count, 0), "token");
    const box = { viewBox: `0 0 ${width} ${height}`, role: "img" };
    box["aria-label"] = `Histogram of activations on ${total}`;
    return make(
      "figure",
      { class: "plot" },
      make("figcaption", {}, make("b", {}, "Activations"), quiet(` ${total}, log heights`)),
      make("svg", box, ...bars, floor, ...labels),
    );
  }

  const quiet = (text) => make("span", { class: "quiet" }, text);

  function effects(title, rows, strings) {
    const largest = Math.max(...rows.map(([, value]) => Math.abs(value || 0)), 1e-30);
    const body = rows.map(([index, value]) => {
      const cell = make("td", { class: "number" }, number(value));
      cell.style.setProperty("--share", Math.abs(value || 0) / largest);
      const name = make("span", { class: "word" }, token(strings[index], { markEnds: true }));
      return make("tr", {}, make("th", { scope: "row" }, name), cell);
    });
    const head = make(
      "tr",
      {},
      make("th", { scope: "col" }, "token"),
      make("th", { scope: "col", class: "number" }, "logit change"),
    );
    return make(
      "table",
      { class: "effects" },
      make("caption", {}, title),
      make("thead", {}, head),
      make("tbody", {}, ...body),
    );
  }

  function examples(page, strings) {
    if (!page.examples.length) {
      const why = page.density === 0 ? "No examples: this latent was never active." : "No examples.";
      return [make("p", { class: "quiet" }, why)];
    }
    const bands = new Map();
    for (const example of page.examples) {
      if (!bands.has(example.band)) bands.set(example.band, []);
      bands.get(example.band).push(example);
    }
    const scale = page.max > 0 ? page.max : largestActivation(page.examples);
    const parts = [lineBreaks()];
    for (const [band, members] of bands) {
      const name = strings[band];
      const count = ` ${counted(members.length, "example")}`;
      parts.push(make("h4", {}, name.charAt(0).toUpperCase() + name.slice(1), quiet(count)));
      parts.push(...members.map((example) => passage(example, strings, scale)));
    }
    return parts;
  }

  function largestActivation(list) {
    return Math.max(...list.flatMap(({ active }) => active.map(([, value]) => value || 0)), 1e-30);
  }

  // The choice belongs to the reader, not to one latent: it stays while stepping through them.
  function lineBreaks() {
    const box = make("input", { type: "checkbox" });
    const root = document.documentElement;
    box.checked = root.classList.contains("breaks");
    box.addEventListener("change", () => root.classList.toggle("breaks", box.checked));
    return make("label", { class: "breaks" }, box, " break lines at newlines");
  }

  function passage(example, strings, scale) {
    const activations = new Map(example.active);
    const spans = example.tokens.map((index, i) => {
      const value = activations.has(i) ? activations.get(i) : 0;
      const span = make("span", { class: "token" }, token(strings[index]));
      if (i === example.peak) span.classList.add("peak");
      if (value > 0) {
        span.classList.add("active");
        span.style.setProperty("--share", Math.min(value / scale, 1).toFixed(3));
      }
      span.dataset.value = number(value);
      return span;
    });
    const peak = activations.has(example.peak) ? activations.get(example.peak) : 0;
    const place = `item ${example.item}, position ${example.position}`;
    const told = [strings[example.document], place, strings[example.split]];
    const about = make("figcaption", {}, make("b", {}, number(peak)), quiet(` ${told.join(" · ")}`));
    return make("figure", { class: "example" }, about, make("p", { class: "tokens" }, ...spans));
  }

  return { show };
})();
