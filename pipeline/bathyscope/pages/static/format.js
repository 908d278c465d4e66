// Numbers and tokens as text. Numbers follow the rules of pages/text.py. Tokens are any text:
// they only ever enter the page as text nodes, and what cannot be seen is given a quiet mark.
"use strict";

bathyscope.format = (() => {
  const INVISIBLE = /[\p{C}\p{Zl}\p{Zp}\u00a0]/u;
  const MARKS = { "\n": "↵", "\t": "⇥" };

  function isMeasured(value) {
    return value !== null && value !== undefined && !Number.isNaN(value);
  }

  function number(value, digits = 4) {
    if (!isMeasured(value)) return "not measured";
    const size = Math.abs(value);
    if (Number.isInteger(value) && size < 1e15) return signed(value.toLocaleString("en-US"));
    if (size >= 1e-3 && size < 1e4) return signed(String(Number(value.toPrecision(digits))));
    if (size >= 1e4 && size < 1e6) return signed(Math.round(value).toLocaleString("en-US"));
    return signed(value.toExponential(2).replace("+", "").replace(/\.?0+e/, "e"));
  }

  const signed = (text) => text.replaceAll("-", "−");

  // In lists a space at either end would be lost: it becomes a mark too.
  function token(text, { markEnds = false } = {}) {
    const parts = document.createDocumentFragment();
    if (text === "") parts.append(mark("(empty)"));
    const characters = Array.from(text);
    const first = characters.findIndex((c) => c !== " ");
    const last = characters.findLastIndex((c) => c !== " ");
    let plain = "";
    const flush = () => {
      if (plain) parts.append(plain);
      plain = "";
    };
    characters.forEach((character, i) => {
      const isEnd = character === " " && markEnds && (first < 0 || i < first || i > last);
      // A joiner inside an emoji or a word shapes its neighbours and must stay.
      const isJoiner = /[\u200c\u200d]/.test(character) && characters.length > 1;
      if (!isEnd && (isJoiner || !INVISIBLE.test(character))) {
        plain += character;
        return;
      }
      flush();
      parts.append(mark(isEnd ? "·" : glyph(character)));
      if (character === "\n") parts.append(make("br"));
    });
    flush();
    return parts;
  }

  function glyph(character) {
    const code = character.codePointAt(0).toString(16).toUpperCase().padStart(2, "0");
    return MARKS[character] || `‹${code}›`;
  }

  const mark = (text) => make("span", { class: "mark" }, text);

  const counted = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

  function make(tag, attributes = {}, ...children) {
    const isShape = ["svg", "rect", "path", "text", "title"].includes(tag);
    const element = isShape
      ? document.createElementNS("http://www.w3.org/2000/svg", tag)
      : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  return { isMeasured, number, counted, token, make };
})();
