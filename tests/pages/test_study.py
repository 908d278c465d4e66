"""The page of a study: figures as given, hostile text, missing values, the list, the terminal."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser

import pytest

from bathyscope.pages.study import studies_page, study_page, text_verdicts
from bathyscope.pages.study_data import Fit, Plot, StudyPage, Table, Verdict
from bathyscope.pages.study_tables import cell
from study_family import HOSTILE, LONG, family, measured_plot, study


def part(page: str, name: str) -> str:
    found = re.search(rf'<section id="{name}".*?</section>', page, re.DOTALL)
    assert found is not None, name
    return found[0]


class _Balance(HTMLParser):
    """Raises unless every element that needs an end has one, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag


def test_the_page_is_one_well_formed_file_in_which_text_is_only_text() -> None:
    page = study_page(study())
    parser = _Balance()
    parser.feed(page)
    assert parser.open == []
    assert "script" not in parser.names
    assert page.count("<style>") == page.count("</style>") == 1
    assert HOSTILE not in page
    assert page.count("&lt;/style&gt;&lt;script&gt;") == 2
    assert not re.search(r"\ssrc=|url\(|@import|http-equiv", page)
    assert page == study_page(study())


def test_every_verdict_has_its_interval_its_controls_and_its_doubt() -> None:
    cards = part(study_page(study()), "verdicts").split("<article")[1:]
    assert [re.findall(r'class="mark[^>]*>([^<]*)<', card)[0] for card in cards] == [
        "✓ yes", "? not shown", "✗ no", "not measured",
    ]  # fmt: skip
    assert LONG in cards[0]
    assert "0.1234 nats per tenfold parameters [0.0876, 0.1592]" in cards[0]
    for text in ("PCA 0.31", "the largest saw 4 tokens", "An interval that holds zero"):
        assert text in cards[0]
    assert "−0.021" in cards[1]
    assert "(interval not measured)" in cards[2]
    assert "<dd>not measured</dd><dt>controls</dt><dd>not stated</dd>" in cards[3]


def test_fits_tables_and_models_show_what_was_given() -> None:
    page = study_page(study())
    fits = part(page, "fits")
    assert "L(n, k) = E + A n^(-α) + B k^(-β)" in fits
    assert "0.3 [0.27, 0.33]" in fits
    assert "16 points, 2 seeds" in fits
    assert fits.count("not measured") == 1
    tables = part(page, "tables")
    assert tables.count("0.2141 [0.2079, 0.2203]") == 10
    assert tables.count("0.112 (interval not measured)") == 10
    assert tables.count("98.7 %") == 10
    assert tables.count("31.4 %") == 2
    # 8 dictionaries without a second seed, and the last column of all 10.
    assert tables.count('class="missing"') == 18
    models = part(page, "models")
    assert "20 models; 4 overfitted: shown here, and left out of verdicts." in models
    assert models.count("yes: left out of verdicts") == 4
    assert "NonFiniteError" in part(page, "failures")
    assert "nan" not in re.sub(r"<style>.*?</style>|NaN|Nan|nano", "", page, flags=re.DOTALL)


def test_an_unknown_overfitting_is_not_called_none() -> None:
    rows = [{**row, "overfitted": None} for row in family()[:1]]
    page = study_page(StudyPage("n", "t", "q", "a", members=rows))
    assert "1 model, none of them known to have overfitted. Of 1 it was not measured." in page


def test_what_is_empty_is_left_out_but_missing_verdicts_are_said() -> None:
    page = study_page(StudyPage("n", "t", "q", "a"))
    assert re.findall(r'<section id="(\w+)"', page) == ["verdicts"]
    assert "No verdicts: nothing was measured" in page
    assert "No verdicts" in text_verdicts(StudyPage("n", "t", "q", "a"))


def test_a_page_goes_through_json_and_back() -> None:
    # NaN is no JSON and equals nothing, so missing numbers are None here.
    rows = [{"name": "a", "fvu": [0.2, 0.1, 0.3]}]
    columns = (("name", "name", "text"), ("fvu", "FVU", "interval"))
    given = replace(study(), tables=(Table("t", columns, rows),))
    values = json.loads(json.dumps(asdict(given)), parse_constant=lambda _: None)
    again = StudyPage.from_dict(values)
    assert json.loads(json.dumps(asdict(again))) == values
    assert study_page(again) == study_page(given)
    assert again.verdicts[0] == given.verdicts[0]


def test_names_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown: claims; missing: answer"):
        StudyPage.from_dict({"name": "n", "title": "t", "question": "q", "claims": []})
    with pytest.raises(ValueError, match="'maybe'; it wants one of yes, no, not shown"):
        replace(study().verdicts[0], answer="maybe")
    with pytest.raises(ValueError, match="column 'a' of the table 't' is 'date'"):
        Table("t", (("a", "a", "date"),), ())
    for kind in (Verdict, Fit, Plot, Table):
        with pytest.raises(ValueError, match=f"{kind.__name__} got the names of nothing"):
            kind.from_dict({})


@pytest.mark.parametrize(
    ("value", "kind", "wanted"),
    [
        (1234567, "number", "1,234,567"), (0.123456, "number", "0.1235"), (0, "number", "0"),
        (-0.2, "percent", "−20.0 %"), (0.00042, "percent", "0.042 %"), (1, "percent", "100.0 %"),
        (True, "text", "yes"), ("<b>", "text", "&lt;b&gt;"), (7, "text", "7"),
        ((1, 2), "interval", "[1, 2]"), ([1.5, 1, 2], "interval", "1.5 [1, 2]"),
        ((1.5, None, 2), "interval", "1.5 (interval not measured)"),
    ],
)  # fmt: skip
def test_cells(value: object, kind: str, wanted: str) -> None:
    assert cell(value, kind) == wanted


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "text"), (None, "number"), (math.nan, "number"), (math.nan, "percent"),
        (None, "interval"), ((None, None), "interval"), ((math.nan, 1, 2), "interval"),
    ],
)  # fmt: skip
def test_cells_without_a_value_say_so(value: object, kind: str) -> None:
    assert cell(value, kind) == '<span class="missing">not measured</span>'


@pytest.mark.parametrize(("value", "kind"), [("3", "number"), (3, "interval"), ((1,), "interval")])
def test_a_cell_of_another_kind_is_refused(value: object, kind: str) -> None:
    with pytest.raises(ValueError, match=f"kind '{kind}' got"):
        cell(value, kind)


def test_plots_carry_their_control_and_say_which_axis_is_logarithmic() -> None:
    page = study_page(replace(study(), plots=[measured_plot()]))
    plots = part(page, "plots")
    assert "parameters without embeddings (logarithmic)" in plots
    assert "ΔCE, nats per token</text>" in plots
    assert "at the smallest model: 0.41</span>" in plots
    # Of 20 points 2 were not measured, and 4 have no upper end.
    assert plots.count('class="bar"') == 14
    assert plots.count('class="band"') == 1


def test_the_list_of_studies_links_to_pages_beside_it_only() -> None:
    page = studies_page([("a", "<A>", "Yes.", "a/index.html?x=1&y=2"), ("b", "B", "No.", "b.html")])
    assert '<a href="a/index.html?x=1&amp;y=2">&lt;A&gt;</a>' in page
    assert "2 finished" in page
    assert "No study is finished." in studies_page([])
    for href in ("javascript:alert(1)", "https://x.org/", "//x.org/a"):
        with pytest.raises(ValueError, match="a relative one"):
            studies_page([("a", "A", "Yes.", href)])


def test_verdicts_in_a_terminal_are_aligned_and_safe() -> None:
    hostile = replace(study().verdicts[0], claim="red \x1b[31m\nline", doubt="")
    text = text_verdicts(replace(study(), verdicts=[*study().verdicts, hostile]), width=80)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in text
    assert "yes           red ‹1B›[31m line" in lines
    starts = [
        line for line in lines if line.lstrip().startswith(("figure ", "controls ", "doubt "))
    ]
    assert len(starts) == 15
    assert {len(line) - len(line.lstrip()) for line in starts} == {14}
    assert lines.count(" " * 14 + "doubt            not stated") == 2
