"""The page of a scaling study: the answer, each claim with its doubt, plots, fits and tables.

One file that opens from disk without a network, without scripts, and prints on A4.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from bathyscope.pages.frame import one_file, section
from bathyscope.pages.study_data import StudyPage, Verdict
from bathyscope.pages.study_plots import fits, plots
from bathyscope.pages.study_tables import failed, members, table
from bathyscope.pages.study_text import figure, text_verdicts
from bathyscope.pages.text import escape

__all__ = ["studies_page", "study_page", "text_verdicts"]

_MARKS = {"yes": "✓ yes", "no": "✗ no", "not shown": "? not shown", "not measured": "not measured"}


def study_page(data: StudyPage) -> str:
    """The whole page. Sections without content are left out, but for verdicts, which say so."""
    sections = (
        section("verdicts", "Verdicts", body=_verdicts(data.verdicts)),
        _section("plots", "Plots", plots(data.plots)),
        _section("fits", "Fits", fits(data.fits)),
        _section("tables", "Tables", _tables(data)),
        _section("models", "Models", _members(data)),
        _section("failures", "Models that failed", failed(data.failures) if data.failures else ""),
        _section("protocol", "How it was measured", _terms(data.protocol)),
        _section("definitions", "Definitions", _terms(data.definitions.items())),
        _section("sources", "Sources", _listed(data.sources)),
    )
    facts = f'<p class="question">{escape(data.question)}</p>'
    facts += f'<p class="answer">{escape(data.answer)}</p>'
    return one_file(
        data.title, kind=f"Bathyscope study: {data.name}", sections=sections, facts=facts
    )


def studies_page(studies: Sequence[tuple[str, str, str, str]]) -> str:
    """The list of studies: name, title, answer and relative address of the page of each.

    Raises `ValueError` for an address that leads elsewhere.
    """
    rows = "".join(_listed_study(*study) for study in studies)
    body = f'<div class="cards">{rows}</div>' if rows else "<p>No study is finished.</p>"
    count = f"<p>{len(studies)} finished.</p>" if rows else ""
    return one_file(
        "Scaling studies",
        kind="Bathyscope",
        sections=[section("studies", "Studies", body=body)],
        facts=count,
    )


def _listed_study(name: str, title: str, answer: str, href: str) -> str:
    parts = urlsplit(href)
    if parts.scheme or parts.netloc:
        raise ValueError(
            f"The study {name!r} got the address {href!r}; it wants a relative one, such as "
            f"'{name}/index.html', so that the pages can be moved together."
        )
    link = f'<a href="{escape(href)}">{escape(title)}</a>'
    return (
        f'<article class="fit"><h3>{link}</h3><p>{escape(answer)}</p>'
        f'<p class="quiet">{escape(name)}</p></article>'
    )


def _section(name: str, title: str, body: str) -> str:
    return section(name, title, body=body) if body else ""


def _verdicts(verdicts: Sequence[Verdict]) -> str:
    if not verdicts:
        return "<p>No verdicts: nothing was measured that could carry one.</p>"
    return f'<div class="cards">{"".join(map(_verdict, verdicts))}</div>'


def _verdict(verdict: Verdict) -> str:
    kind = verdict.answer.rsplit(" ", maxsplit=1)[-1]
    terms = _terms(
        (
            ("figure", figure(verdict)),
            ("controls", verdict.controls or "not stated"),
            ("doubt", verdict.doubt or "not stated"),
            ("would change it", verdict.would_change or "not stated"),
        )
    )
    return (
        f'<article class="card"><h3>{escape(verdict.claim)}</h3>'
        f'<p class="mark {kind}">{_MARKS[verdict.answer]}</p>{terms}</article>'
    )


def _tables(data: StudyPage) -> str:
    return f'<div class="tables">{"".join(map(table, data.tables))}</div>' if data.tables else ""


def _members(data: StudyPage) -> str:
    if not data.members:
        return ""
    known = [row.get("overfitted") for row in data.members]
    models = "1 model" if len(known) == 1 else f"{len(known)} models"
    lead = f"{models}; {sum(map(bool, known))} overfitted: shown here, and left out of verdicts."
    if not any(known):
        lead = f"{models}, none of them known to have overfitted."
    if None in known:
        lead += f" Of {known.count(None)} it was not measured."
    return f"<p>{lead}</p>{members(data.members)}"


def _terms(entries: Iterable[tuple[str, str]]) -> str:
    rows = "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in entries)
    return f'<dl class="terms">{rows}</dl>' if rows else ""


def _listed(sources: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(source)}</li>" for source in sources)
    return f'<ul class="listed">{items}</ul>' if items else ""
