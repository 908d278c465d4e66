"""The report of a night: what was read, what changed, how it looks, and what failed.

One file that opens from disk without a network, without scripts, and prints on A4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bathyscope.pages.frame import one_file, section
from bathyscope.pages.study_data import Table
from bathyscope.pages.study_tables import table
from bathyscope.pages.text import escape, number

Values = Mapping[str, Any]

KINDS = {
    "text": "this text against earlier text, the same checkpoint",
    "checkpoint": "this checkpoint against the one before it, the same text",
}
_EXTRACTIONS = (
    ("checkpoint", "checkpoint", "text"),
    ("slice", "slice", "text"),
    ("documents", "documents", "number"),
    ("rows", "tokens", "number"),
    ("l0", "L0", "number"),
    ("fvu", "FVU", "number"),
    ("clean_ce", "cross entropy, nats", "number"),
    ("delta_ce", "ΔCE, nats", "number"),
    ("silent", "silent latents", "number"),
)
_SERIES = (
    ("name", "series", "text"),
    ("changed", "changed", "text"),
    ("interval", "ratio, now over before", "interval"),
    ("p", "p, adjusted", "number"),
)
_LATENTS = (
    ("latent", "latent", "text"),
    ("kind", "change", "text"),
    ("interval", "ratio, now over before", "interval"),
    ("density_before", "density before", "number"),
    ("density_now", "now", "number"),
    ("documents_before", "documents before", "number"),
    ("documents_now", "now", "number"),
    ("p", "p, adjusted", "number"),
)
_POWER = (
    ("density", "density of a latent", "number"),
    ("ratio", "smallest increase that is found 9 times in 10", "number"),
)
_SERIES_NAMES = {
    "tokens": "tokens of a document",
    "l0": "active latents per token",
    "norm": "squared norm per token",
    "fvu": "share that is not explained",
}
_DEFINITIONS = (
    ("density", "Firings per token."),
    ("ratio", "Of typical densities (share of documents in which the latent fires, times its "
     "geometric mean density there), or of mean activations: stronger, weaker. 95 % interval over "
     "documents."),
    ("p", "Probability of so large a change if nothing changed, documents as the unit, adjusted "
     "for all tests of the night (Holm). What is above the family-wise error is not raised."),
    ("order", "By the end of the interval that is nearer to no change: the largest credible change "
     "first."),
    ("FVU", "Σ‖x - x̂‖² / Σ‖x - c‖², c what the dictionary gives without an active latent."),
)  # fmt: skip


def night_page(results: Values) -> str:
    """The whole page, from what `results.json` of a night holds."""
    sections = [
        _part("extractions", "What was read", _extractions(results)),
        *(
            section(f"comparison-{place}", _title(each), body=_comparison(each))
            for place, each in enumerate(results["comparisons"])
        ),
        _part("failures", "What failed", _pairs(results["failed"].items())),
        _part("notes", "Notes", _listed(results["notes"])),
        section("definitions", "Definitions", body=_pairs(_DEFINITIONS)),
    ]
    dictionary = results["dictionary"]
    facts = (
        f'<p class="question">{escape(results["started"])} to {escape(results["finished"])} on '
        f"{escape(results['host'])}. Dictionary {escape(dictionary['name'])}, weights "
        f"{escape(dictionary['weights'])}.</p>"
        f'<p class="answer">{escape(results["told"][:1].upper() + results["told"][1:])}.</p>'
    )
    return one_file(results["title"], kind="Bathyscope nightly", sections=sections, facts=facts)


def text_findings(facts: Values) -> str:
    """A night in a terminal: one line, and what failed."""
    lines = [f"night      {facts['night']}: {facts['told']}"]
    lines += [f"FAILED     {name}: {error}" for name, error in facts["failed"].items()]
    return "\n".join(lines)


def _extractions(results: Values) -> str:
    told = ""
    if results["slice"]:
        found = results["slice"]
        told = (
            f"<p>New text: {number(found['files'])} file(s), {number(found['documents'])} "
            f"documents, {number(found['tokens'])} tokens; {number(found['duplicates'])} "
            "duplicates left out.</p>"
        )
    if results["checkpoints"]:
        told += f"<p>New checkpoints: {escape(', '.join(results['checkpoints']))}.</p>"
    if not results["extractions"]:
        return told + "<p>Nothing was extracted.</p>"
    return told + table(Table("", _EXTRACTIONS, results["extractions"]))


def _title(made: Values) -> str:
    what = "Text" if made["kind"] == "text" else "Checkpoint"
    return f"{what}: {made['checkpoint']} on {made['slice']}"


def _comparison(made: Values) -> str:
    changed = [each for each in made["series"] if each["changed"]]
    answer = "Nothing changed."
    if made["raised"]:
        answer = f"{made['changed_latents']} latents and {len(changed)} series changed."
    (fvu_before, fvu_now), (error_before, error_now) = made["fvu"], made["fvu_error"]
    lead = (
        f'<p class="answer">{answer}</p><p>{escape(KINDS[made["kind"]].capitalize())}: '
        f"{escape(', '.join(made['against']))}. {number(made['num_tests'])} tests, family-wise "
        f"error {made['error']:.3g}. FVU {number(fvu_before)} ± {number(error_before)} before, "
        f"{number(fvu_now)} ± {number(error_now)} now.</p>{_listed(made['notes'])}"
    )
    series = [
        {**each, "name": _SERIES_NAMES[each["name"]], "interval": _ends(each)}
        for each in made["series"]
    ]
    tables = [table(Table("Every document", _SERIES, series))]
    tables.append(table(Table("What would be found", _POWER, made["power"])))
    if not made["latents"]:
        return f'{lead}<div class="tables">{"".join(tables)}</div>'
    title = "Latents that changed"
    if made["changed_latents"] > len(made["latents"]):
        title += f", the first {len(made['latents'])} of {made['changed_latents']}"
    rows = [_latent(each) for each in made["latents"]]
    tables.append(table(Table(title, _LATENTS, rows)))
    return f'{lead}<div class="tables">{"".join(tables)}</div>{_windows(made["latents"])}'


def _latent(change: Values) -> Values:
    row = {**change, "latent": str(change["latent"]), "interval": _ends(change)}
    for name in ("density", "documents"):
        row[f"{name}_before"], row[f"{name}_now"] = change[name]
    return row


def _ends(values: Values) -> tuple[Any, Any, Any]:
    return values["ratio"], values["low"], values["high"]


def _windows(latents: Sequence[Values]) -> str:
    """Examples of every latent that is shown, before and now."""
    cards = []
    for each in latents:
        parts = "".join(
            f"<dt>{when}</dt><dd>{_examples(each[f'examples_{when}'])}</dd>"
            for when in ("before", "now")
        )
        cards.append(
            f'<article class="fit"><h3>Latent {each["latent"]}, {escape(each["kind"])}</h3>'
            f'<dl class="terms">{parts}</dl></article>'
        )
    title = "<h3>Strongest examples</h3>"
    return f'<div class="tables"><div></div>{title}<div class="cards">{"".join(cards)}</div></div>'


def _examples(windows: Sequence[Values]) -> str:
    if not windows:
        return '<span class="missing">it never fired</span>'
    return "<br>".join(_window(each) for each in windows)


def _window(example: Values) -> str:
    """Words on one line; those on which the latent fires are marked, the strongest the most."""
    largest = max([*example["activations"], 1e-30])
    words = []
    for word, activation in zip(example["words"], example["activations"], strict=True):
        shown = escape(word.replace("\n", "⏎"))
        if activation > 0:
            share = activation / largest
            shown = f'<mark style="background: rgb(253 186 116 / {share:.2f})">{shown}</mark>'
        words.append(shown)
    return f'<span class="quiet">{number(example["value"])}</span> {"".join(words)}'


def _part(name: str, title: str, body: str) -> str:
    return section(name, title, body=body) if body else ""


def _pairs(entries: Iterable[tuple[str, str]]) -> str:
    rows = "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in entries)
    return f'<dl class="terms">{rows}</dl>' if rows else ""


def _listed(texts: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<ul class="listed">{items}</ul>' if items else ""
