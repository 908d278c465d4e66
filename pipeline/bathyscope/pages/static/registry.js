// Reads data blocks on demand. A page opened from disk may not fetch, so each block is a script
// that calls bathyscope.receive(kind, number, value). Blocks are kept, least recently used first
// out: pages are large and few are looked at, words are small and a sorted table needs many.
"use strict";

window.bathyscope = (() => {
  const KEPT = { numbers: 1, words: 64, block: 8 };
  const arrived = new Map();
  const held = { numbers: new Map(), words: new Map(), block: new Map() };

  function receive(kind, number, value) {
    if (kind === "latents") bathyscope.head = value;
    else arrived.set(`${kind}-${number}`, value);
  }

  function load(kind, number) {
    const kept = held[kind];
    const promise = kept.get(number) || read(kind, number);
    kept.delete(number);
    kept.set(number, promise);
    if (kept.size > KEPT[kind]) kept.delete(kept.keys().next().value);
    return promise;
  }

  function read(kind, number) {
    const key = `${kind}-${number}`;
    const source = `data/${kind}-${String(number).padStart(4, "0")}.js`;
    const promise = new Promise((resolve, reject) => {
      const script = document.createElement("script");
      const finish = () => {
        script.remove();
        const value = arrived.get(key);
        arrived.delete(key);
        if (value === undefined) {
          reject(new Error(`${source} could not be read; keep index.html, assets and data together.`));
        } else resolve(value);
      };
      script.onload = finish;
      script.onerror = finish;
      script.src = source;
      document.head.append(script);
    });
    promise.catch(() => held[kind].delete(number));
    return promise;
  }

  return { receive, load, head: null };
})();
