"""The verdicts of a study as lines for a terminal."""

from __future__ import annotations

from textwrap import wrap

from bathyscope.pages.study_data import ANSWERS, StudyPage, Verdict
from bathyscope.pages.text import NOT_MEASURED, interval, is_measured, number, plain

_TERMS = ("controls", "doubt", "would change it")


def text_verdicts(data: StudyPage, *, width: int = 100) -> str:
    """The answer, then each verdict: the claim beside its answer, below it the figure and terms.

    Lines are at most `width` characters long, but for longer words. Claims and terms begin in one
    column each.
    """
    lines = [*wrap(plain(data.title), width), *wrap(plain(data.answer), width)]
    if not data.verdicts:
        lines.append("No verdicts: nothing was measured that could carry one.")
    for verdict in data.verdicts:
        lines += ["", *_verdict(verdict, width)]
    return "\n".join(lines)


def figure(verdict: Verdict) -> str:
    """The value with its unit and its interval, or "not measured"."""
    if not is_measured(verdict.value):
        return NOT_MEASURED
    value = f"{number(verdict.value)} {plain(verdict.unit)}".strip()
    return f"{value} {interval(verdict.low, verdict.high)}"


def _verdict(verdict: Verdict, width: int) -> list[str]:
    indent = max(map(len, ANSWERS)) + 2
    inner = indent + max(map(len, _TERMS)) + 2
    lines = _hanging(verdict.answer.ljust(indent), plain(verdict.claim), indent, width)
    texts = (verdict.controls, verdict.doubt, verdict.would_change)
    for term, text in zip(("figure", *_TERMS), (figure(verdict), *texts), strict=True):
        head = (" " * indent + term).ljust(inner)
        lines += _hanging(head, plain(text) or "not stated", inner, width)
    return lines


def _hanging(head: str, text: str, indent: int, width: int) -> list[str]:
    return wrap(
        text, max(width, indent + 20), initial_indent=head, subsequent_indent=" " * indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
