"""The written report in a real browser, opened from disk. Skipped where there is no chromium."""

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bathyscope.pages.data import LatentPage, ReportData
from bathyscope.pages.text import number
from bathyscope.pages.write import write_report
from browser import CHROMIUM, dump

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on PATH")

NUMBERS = [0.0, 32.0, 2_097_152.0, -1234.0, 0.14834, -0.5, 9999.96, 12345.6, 0.001, 9.9e-4, 3e-4]

# Leaves what it finds as JSON in the title. Each step waits until its condition holds.
PROBE = """
const until = async (condition) => {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 20));
};
const first = () => document.querySelector("#table tbody th")?.textContent;
const shown = () => document.querySelector("#latent h3")?.textContent;
const press = (key) => document.body.dispatchEvent(
  new KeyboardEvent("keydown", { key, bubbles: true }));
const type = (name, value) => {
  document.getElementById(name).value = value;
  document.getElementById(name).dispatchEvent(new Event("input", { bubbles: true }));
};
const status = () => document.getElementById("status").textContent;
(async () => {
  const found = { numbers: NUMBERS.map((value) => bathyscope.format.number(value)) };
  await until(() => first() === "0");
  press("j");
  await until(() => shown() === "Latent 0");
  press("j");
  await until(() => shown() === "Latent 1");
  press("k");
  await until(() => shown() === "Latent 0");
  document.querySelector('[data-key="density"] button').click();
  document.querySelector('[data-key="density"] button').click();
  await until(() => first() === "7");
  found.sort = document.querySelector('[data-key="density"]').getAttribute("aria-sort");
  type("state", "dead");
  await until(() => status().includes("of 10 "));
  found.dead = first();
  type("state", "all");
  type("low", "0.05");
  type("high", "0.1");
  await until(() => status().includes("of 5 "));
  found.range = [...document.querySelectorAll("#table tbody th")].map((cell) => cell.textContent);
  type("low", "");
  type("high", "");
  type("text", "PEAK12");
  await until(() => status().includes("of 10 "));
  found.text = [...document.querySelectorAll("#table tbody th")].map((cell) => cell.textContent);
  press("j");
  await until(() => shown() === `Latent ${found.text[0]}`);
  document.title = JSON.stringify(found);
})();
"""


def _write(folder: Path, report: ReportData, pages: Iterator[LatentPage]) -> None:
    def put(name: str, content: bytes) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    write_report(put, report, latents=pages)


def _dump(folder: Path, fragment: str) -> tuple[str, list[str]]:
    return dump(folder / "index.html", fragment)


def test_a_permalink_opens_its_latent(
    tmp_path: Path, report: ReportData, pages: Iterator[LatentPage]
) -> None:
    _write(tmp_path, report, pages)
    dom, console = _dump(tmp_path, "#latent=66")
    assert console == []
    view = dom[dom.index('id="latent"') :]
    assert "<h3>Latent 66</h3>" in view
    assert re.search(r'class="token peak active"[^>]*data-value="2"[^>]*> peak66</span>', view)
    assert view.count('<figure class="example">') == 3
    assert "Quantile 1" in view
    assert "&lt;/script&gt;" in view
    assert "&lt;b&gt;x&lt;/b&gt;" in view
    assert '<span class="mark">↵</span><br>' in view
    assert '<span class="mark">‹00›</span>' in view
    assert "doc &amp; &lt;name&gt; · item 1, position 9 · held out" in view
    assert 'data-value="not measured"' in view
    # The list has turned to the page of the latent and marks it.
    assert re.search(r'<tr data-latent="66" aria-current="true">', dom)


def test_a_dead_latent_says_for_how_many_tokens(
    tmp_path: Path, report: ReportData, pages: Iterator[LatentPage]
) -> None:
    _write(tmp_path, report, pages)
    dom, console = _dump(tmp_path, "#latent=7")
    assert console == []
    assert "dead: silent for 9,000 tokens</dd>" in dom
    assert "No examples: this latent was never active." in dom


@pytest.mark.parametrize("wanted", ["130", "<b>"])
def test_a_latent_that_does_not_exist_is_refused(
    tmp_path: Path, report: ReportData, pages: Iterator[LatentPage], wanted: str
) -> None:
    _write(tmp_path, report, pages)
    dom, _ = _dump(tmp_path, f"#latent={wanted}")
    assert "they run from 0 to 129." in dom


def test_a_missing_block_is_named_in_the_page(
    tmp_path: Path, report: ReportData, pages: Iterator[LatentPage]
) -> None:
    _write(tmp_path, report, pages)
    (tmp_path / "data" / "block-0001.js").unlink()
    dom, _ = _dump(tmp_path, "#latent=66")
    assert "data/block-0001.js could not be read" in dom


def test_a_damaged_head_is_named_and_the_console_is_heard(
    tmp_path: Path, report: ReportData, pages: Iterator[LatentPage]
) -> None:
    _write(tmp_path, report, pages)
    (tmp_path / "data" / "latents.js").write_text("bathyscope.receive(", encoding="utf-8")
    dom, console = _dump(tmp_path, "#latent=66")
    assert "data/latents.js could not be read" in dom
    # The tests above that find an empty console would have seen this line.
    assert any("SyntaxError" in line for line in console)


def test_keys_sorting_and_filters(
    tmp_path: Path, report: ReportData, pages: Iterator[LatentPage]
) -> None:
    _write(tmp_path, report, pages)
    probe = f"const NUMBERS = {json.dumps(NUMBERS)};{PROBE}"
    (tmp_path / "probe.js").write_text(probe, encoding="utf-8")
    index = tmp_path / "index.html"
    page = index.read_text(encoding="utf-8")
    page = page.replace("</head>", '<script defer src="probe.js"></script></head>')
    index.write_text(page, encoding="utf-8")
    dom, console = _dump(tmp_path, "")
    assert console == []
    title = re.search(r"<title>(.*?)</title>", dom)
    assert title is not None
    found = json.loads(html.unescape(title.group(1)))
    assert found["numbers"] == [number(value) for value in NUMBERS]
    assert found["sort"] == "ascending"
    assert found["dead"] == "7"
    # Densities 0.5 / (1 + n) between 0.05 and 0.1: n = 4 to 9, without the dead latent 7.
    assert sorted(map(int, found["range"])) == [4, 5, 6, 8, 9]
    # "peak12" is in 12 and 120 to 129; 124 is dead (124 = 9 * 13 + 7), and so is none of the rest.
    assert sorted(map(int, found["text"])) == [12, 120, 121, 122, 123, 125, 126, 127, 128, 129]
