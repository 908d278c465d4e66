import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from bathyscope.errors import StoreError
from bathyscope.pages.data import LatentPage, ReportData
from bathyscope.pages.index import SCRIPTS
from bathyscope.pages.write import write_report

ASSETS = ["format.js", "latent.js", "registry.js", "report.css", "report.js", "table.js"]


def _write(report: ReportData, pages: Iterator[LatentPage]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    sizes = write_report(files.__setitem__, report, latents=pages)
    assert sizes == {name: len(content) for name, content in files.items()}
    return files


def _index(report: ReportData) -> str:
    pages = (LatentPage(latent, 0.1) for latent in range(report.num_latents))
    return _write(report, pages)["index.html"].decode("utf-8")


class _Balance(HTMLParser):
    """Raises unless every element that needs an end has one, in order."""

    VOID = frozenset({"meta", "link", "input", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del tag, attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag


def test_the_files_of_a_report(report: ReportData, pages: Iterator[LatentPage]) -> None:
    files = _write(report, pages)
    data = [f"block-000{i}.js" for i in range(3)]
    data += ["latents.js", "numbers-0000.js", "words-0000.js"]
    wanted = [f"assets/{name}" for name in ASSETS] + [f"data/{name}" for name in data]
    assert sorted(files) == sorted([*wanted, "index.html"])
    assert list(files)[-1] == "index.html"
    assert set(SCRIPTS) <= set(files)


def test_the_page_is_well_formed_and_ids_are_unique(report: ReportData) -> None:
    parser = _Balance()
    parser.feed(_index(report))
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))


def test_held_out_interval_and_train_stand_together(report: ReportData) -> None:
    page = _index(report)
    assert re.search(
        r"<dt>FVU</dt><dd class=\"value\">0\.1483</dd><dd>\[0\.146, 0\.151\]</dd>"
        r"<dd>train 0\.1391</dd>",
        page,
    )
    tile = page[page.index("<dt>ΔCE</dt>") : page.index("</dl>", page.index("<dt>ΔCE</dt>"))]
    assert tile.count("not measured") == 3
    assert "nan" not in page.lower().replace("unexplained", "")


def test_controls_show_every_column_for_every_row(report: ReportData) -> None:
    page = _index(report)
    table = page[page.index('id="controls"') : page.index('id="training"')]
    assert table.count('scope="col"') == 3
    assert table.count('<td class="number">') == 4
    assert table.count("not measured") == 2


def test_all_text_is_escaped(report: ReportData) -> None:
    page = _index(report)
    assert "<title>Run &lt;1&gt; &amp; more</title>" in page
    assert "s3://bucket/run?a=1&amp;b=&lt;2&gt;" in page
    assert "verify &lt;url&gt;" in page


def test_dollar_signs_in_text_are_not_placeholders(report: ReportData) -> None:
    assert "<h1>$facts $5</h1>" in _index(replace(report, title="$facts $5"))


def test_no_latents(report: ReportData) -> None:
    files = _write(replace(report, num_latents=0, k=None), iter(()))
    page = files["index.html"].decode("utf-8")
    assert "This dictionary has no latents." in page
    assert 'id="table"' not in page
    assert "0 latents</dd>" in page


def test_sections_without_content_are_left_out(report: ReportData) -> None:
    bare = ReportData(
        **{
            name: getattr(report, name)
            for name in (
                *("title", "run_url", "model", "hook_point", "dictionary_kind", "num_latents"),
                *("k", "corpus", "created", "versions"),
            )
        },
        headlines=(),
    )
    page = _index(bare)
    assert re.findall(r'<section id="(\w+)"', page) == ["latents"]


def test_a_report_that_fails_has_no_index(report: ReportData) -> None:
    files: dict[str, bytes] = {}
    with pytest.raises(StoreError, match="130"):
        write_report(files.__setitem__, report, latents=iter([LatentPage(0, 0.1)]))
    assert "index.html" not in files


def test_nothing_reaches_for_the_network_or_parses_text_as_html(
    report: ReportData, pages: Iterator[LatentPage]
) -> None:
    files = _write(report, pages)
    for name, content in files.items():
        if name.startswith("data/"):
            continue
        text = content.decode("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://", text), name
        assert not re.search(r"innerHTML|insertAdjacentHTML|\bfetch\(|\beval\(|@import", text), name
