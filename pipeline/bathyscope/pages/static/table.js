// The table of latents. Sorting and filtering work on typed arrays over all latents; only the
// rows in sight become elements. Made for 10^6 latents: 12 MB of numbers, one index array, and
// words read block by block.
"use strict";

bathyscope.Table = class {
  static ROWS = 25;

  // choose(latent) is called when the reader picks a row; status(text) speaks to the reader.
  constructor(head, { table, choose, status }) {
    Object.assign(this, { head, table, choose, status });
    this.body = table.tBodies[0];
    this.key = "index";
    this.ascending = true;
    this.filter = { low: NaN, high: NaN, state: "all", text: "" };
    this.page = 0;
    this.current = -1;
    this.wantsFocus = false;
    this.applied = 0;
    this.drawn = 0;
    this.order = new Uint32Array(0);
    this.length = 0;
  }

  async read() {
    const { numLatents, sizes } = this.head;
    const columns = ["density", "mean", "max"];
    for (const name of columns) this[name] = new Float32Array(numLatents);
    for (let start = 0; start < numLatents; start += sizes.numbers) {
      const block = await bathyscope.load("numbers", start / sizes.numbers);
      for (const name of columns) this[name].set(floats(block[name]), start);
      this.status(`Reading the latents… ${Math.round((100 * start) / numLatents)} %`);
    }
    this.order = new Uint32Array(numLatents);
    await this.apply();
    this.select(this.current);
  }

  // Filters, sorts and draws. A newer call makes an older one, still reading words, give up.
  async apply() {
    const ticket = ++this.applied;
    const matches = this.filter.text ? await this.search(ticket) : null;
    if (ticket !== this.applied) return;
    const { low, high, state } = this.filter;
    let length = 0;
    for (let i = 0; i < this.head.numLatents; i++) {
      const density = this.density[i];
      if (matches && !matches[i]) continue;
      if (state === "live" && !(density > 0)) continue;
      if (state === "dead" && density !== 0) continue;
      if (low === low && !(density >= low)) continue;
      if (high === high && !(density <= high)) continue;
      this.order[length++] = i;
    }
    this.length = length;
    this.sort();
    this.page = 0;
    await this.draw();
  }

  sort() {
    const part = this.order.subarray(0, this.length);
    if (this.key === "index") {
      if (!this.ascending) part.reverse();
      return;
    }
    const values = this[this.key];
    const sign = this.ascending ? 1 : -1;
    part.sort((a, b) => {
      const [x, y] = [values[a], values[b]];
      // What was not measured comes last, whichever way the others run.
      if (x !== x || y !== y) return (x !== x) - (y !== y) || a - b;
      return sign * (x - y) || a - b;
    });
  }

  async search(ticket) {
    const { numLatents, sizes } = this.head;
    const wanted = this.filter.text.replaceAll("↵", "\n").replaceAll("⇥", "\t").toLowerCase();
    const matches = new Uint8Array(numLatents);
    for (let start = 0; start < numLatents; start += sizes.words) {
      const rows = await bathyscope.load("words", start / sizes.words);
      if (ticket !== this.applied) return null;
      rows.forEach((lists, i) => {
        const found = lists.some((list) => list.some((text) => text.toLowerCase().includes(wanted)));
        matches[start + i] = found ? 1 : 0;
      });
      this.status(`Searching… ${Math.round((100 * start) / numLatents)} %`);
    }
    return matches;
  }

  async draw() {
    const ticket = ++this.drawn;
    const first = this.page * this.constructor.ROWS;
    const latents = this.order.slice(first, Math.min(first + this.constructor.ROWS, this.length));
    const size = this.head.sizes.words;
    const reads = Array.from(latents, (latent) => bathyscope.load("words", Math.floor(latent / size)));
    let words;
    try {
      words = await Promise.all(reads);
    } catch (error) {
      this.status(error.message);
      return;
    }
    if (ticket !== this.drawn) return;
    const rows = Array.from(latents, (latent, i) => this.row(latent, words[i][latent % size]));
    this.body.replaceChildren(...rows);
    this.mark();
    this.status(this.range(first, latents.length));
  }

  range(first, count) {
    const { number } = bathyscope.format;
    if (!this.length) return `none of ${number(this.head.numLatents)}`;
    const range = `${number(first + 1)}–${number(first + count)} of ${number(this.length)}`;
    const isAll = this.length === this.head.numLatents;
    return isAll ? range : `${range} (${number(this.head.numLatents)} in all)`;
  }

  row(latent, [promoted, peaks]) {
    const { isMeasured, make, number, token } = bathyscope.format;
    const cell = (value, kind) => make("td", { class: kind }, isMeasured(value) ? number(value, 3) : dash());
    // A dash keeps the columns narrow; its title and its spoken name say what it stands for.
    const dash = () => make("abbr", { title: "not measured", "aria-label": "not measured" }, "–");
    const word = (list) => {
      const shown = list.length ? token(list[0], { markEnds: true }) : "";
      return make("td", {}, make("span", { class: "word" }, shown));
    };
    const link = make("a", { href: `#latent=${latent}` }, String(latent));
    const row = make(
      "tr",
      { "data-latent": latent },
      make("th", { scope: "row", class: "number" }, link),
      cell(this.density[latent], "number"),
      cell(this.mean[latent], "number mean"),
      cell(this.max[latent], "number"),
      word(promoted),
      word(peaks),
    );
    if (this.density[latent] === 0) row.classList.add("dead");
    row.addEventListener("click", () => this.choose(latent));
    return row;
  }

  turn(pages) {
    const last = Math.max(Math.ceil(this.length / this.constructor.ROWS) - 1, 0);
    const page = Math.min(Math.max(this.page + pages, 0), last);
    if (page === this.page) return;
    this.page = page;
    this.draw();
  }

  sortBy(key) {
    // First click: the largest first, except for the index.
    this.ascending = this.key === key ? !this.ascending : key === "index";
    this.key = key;
    for (const header of this.table.tHead.querySelectorAll("[data-key]")) {
      const chosen = header.dataset.key === key;
      const way = this.ascending ? "ascending" : "descending";
      header.setAttribute("aria-sort", chosen ? way : "none");
    }
    return this.apply();
  }

  // Marks the latent in view, turning to its page where it is listed at all.
  select(latent) {
    this.current = latent;
    const place = this.place();
    const page = Math.floor(place / this.constructor.ROWS);
    if (place >= 0 && page !== this.page) {
      this.page = page;
      this.draw();
    } else this.mark();
  }

  place() {
    return this.order.subarray(0, this.length).indexOf(this.current);
  }

  // The latent `by` rows away in the table's order, or -1.
  neighbour(by) {
    const place = this.place();
    const next = place < 0 ? this.page * this.constructor.ROWS : place + by;
    return next >= 0 && next < this.length ? this.order[next] : -1;
  }

  // A reader who steps with the arrow keys inside the table keeps the focus there.
  mark() {
    for (const row of this.body.rows) {
      const chosen = Number(row.dataset.latent) === this.current;
      if (!chosen) row.removeAttribute("aria-current");
      else {
        row.setAttribute("aria-current", "true");
        if (this.wantsFocus) row.querySelector("a").focus({ preventScroll: true });
        this.wantsFocus = false;
      }
    }
  }
};

// base64 of little-endian float32, the byte order of every machine that runs a browser today.
function floats(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}
