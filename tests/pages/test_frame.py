"""The frame that all pages share, and pages that are one file."""

from __future__ import annotations

import re

from bathyscope.pages.frame import framed, one_file, scrolling, section


def test_text_is_escaped_and_no_placeholder_is_read_in_it() -> None:
    page = framed("<a> $head", kind="k & k", head="", sections=[])
    assert "<title>&lt;a&gt; $head</title>" in page
    assert "<h1>&lt;a&gt; $head</h1>" in page
    assert "k &amp; k" in page
    assert 'label="&quot;x&quot;"' in scrolling("", label='"x"')


def test_empty_sections_are_left_out_and_a_skip_link_is_made_when_asked() -> None:
    first = section("one", "One", body="<p>1</p>")
    page = framed("t", kind="k", head="", sections=[first, ""], skip=("one", "the first"))
    assert '<a class="skip" href="#one">Skip to the first</a>' in page
    assert page.count("<section") == 1
    assert 'class="skip"' not in framed("t", kind="k", head="", sections=[first])


def test_one_file_asks_for_no_other() -> None:
    page = one_file("t", kind="k", sections=[])
    assert "@media print" in page
    assert not re.search(r"<script|<link rel=\"stylesheet|src=|url\(|@import", page)
