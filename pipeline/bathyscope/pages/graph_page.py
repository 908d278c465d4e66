"""The page of an attribution graph: prompt, drawing, scores, trust, and what it does not show.

All but the drawing and its lists is plain HTML. The drawing's data is a script beside the page,
as those of the report are, so the page opens from disk and needs no network.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib import resources

from bathyscope.pages.blocks import Put, script
from bathyscope.pages.data import Number
from bathyscope.pages.frame import framed, scrolling, section
from bathyscope.pages.graph_data import GraphPage, Shown, page_data, shown_part
from bathyscope.pages.graph_notes import notes
from bathyscope.pages.text import escape, measured, number, percent

logger = logging.getLogger(__name__)

STYLES = ("report.css", "graph.css")
SCRIPTS = ("start.js", "format.js", "data.js", "layout.js", "draw.js", "panel.js", "page.js")

_FRAME = """<form id="controls" class="controls" aria-label="What is drawn">
<label class="slider">nodes with the first <output id="shown" for="threshold">100 %</output> of
influence <input id="threshold" type="range" min="0" max="1000" value="1000"></label>
<button type="button" id="clear">Unpin all</button>
<ul class="legend" aria-label="Legend">
<li><svg viewBox="0 0 12 12" aria-hidden="true"><circle cx="6" cy="6" r="4"/></svg> latent</li>
<li><svg viewBox="0 0 12 12" aria-hidden="true"><path d="M6 1 11 6 6 11 1 6z"/></svg> error</li>
<li><svg viewBox="0 0 12 12" aria-hidden="true"><path d="M2 2H10V10H2z"/></svg> token, output</li>
<li><svg viewBox="0 0 30 12" aria-hidden="true"><path class="positive" d="M1 6H29"/></svg>
raises its target</li>
<li><svg viewBox="0 0 30 12" aria-hidden="true"><path class="negative" d="M1 6H29"/></svg>
lowers it</li>
</ul>
</form>
<noscript><p>The drawing needs JavaScript; the other sections do not.</p></noscript>
<div class="drawing">
<div id="box" class="box">
<canvas id="canvas" tabindex="0" role="application" aria-label="Attribution graph"
 aria-describedby="keys"></canvas><div id="sizer"></div>
</div>
<aside id="panel" class="panel" aria-label="Chosen node">
<p class="quiet">Reading the graph…</p></aside>
</div>
<p id="keys" class="quiet">Positions run to the right, layers upward. Point at a node for its
figures, click to pin it. With the drawing in focus, arrow keys step to the next node, Enter pins
it, Escape unpins all. With nothing chosen the 400 edges of the highest scores are drawn; of a
chosen node the 150 strongest into it and the 150 strongest out of it.</p>
<p id="status" class="spoken" role="status" aria-live="polite"></p>"""


def write_graph_page(put: Put, page: GraphPage, *, folder: str = "") -> dict[str, int]:
    """Write `{slug}.html`, `{slug}.js` and `assets/`, and return the size of each file by name.

    Pages of many graphs share a folder and its assets. The page itself goes last.
    """
    shown = shown_part(page)
    data = script("graph", 0, value=page_data(page, shown))
    files = {f"assets/{name}": _asset(name) for name in (*STYLES, *SCRIPTS)}
    files |= {f"{page.slug}.js": data, f"{page.slug}.html": graph_page(page, shown).encode("utf-8")}
    for name, content in files.items():
        put(f"{folder}{name}", content)
    logger.info(
        "graph page %s: %d nodes, %d edges, %.1f MB",
        page.slug,
        len(shown.nodes),
        len(shown.edges),
        sum(map(len, files.values())) / 1e6,
    )
    return {name: len(content) for name, content in files.items()}


def graph_page(page: GraphPage, shown: Shown) -> str:
    """The whole of the page."""
    sources = [f"assets/{name}" for name in SCRIPTS]
    sources.insert(1, f"{page.slug}.js")
    links = [f'<link rel="stylesheet" href="assets/{name}">' for name in STYLES]
    links += [f'<script defer src="{escape(source)}"></script>' for source in sources]
    sections = (
        section("prompt", "Prompt and outputs", body=_prompt(page)),
        section("graph", "Graph", body=_FRAME),
        _scores(page),
        section("trust", "Trust report", body=_trust(page.trust)),
        section("limits", "What the picture does not show", body=_limits(page, shown)),
        _settings(page.settings),
    )
    return framed(
        page.prompt.strip() or page.slug,
        kind="Bathyscope attribution graph",
        head="\n".join(links),
        sections=sections,
        facts=_facts(page, shown),
        footer=" · ".join(f"{escape(n)} {escape(v)}" for n, v in page.versions.items()),
        skip=("graph", "the graph"),
    )


def token_html(text: str) -> str:
    """A token in which what cannot be seen has a mark: spaces at the ends, line ends, tabs."""
    if not text:
        return '<span class="mark">(empty)</span>'
    inner = text.strip(" ")
    before = len(text) - len(text.lstrip(" ")) if inner else len(text)
    after = len(text) - len(text.rstrip(" ")) if inner else 0
    shown = escape(inner)
    for character, mark in {"\n": "↵", "\t": "⇥", "\r": "‹0D›"}.items():
        shown = shown.replace(character, f'<span class="mark">{mark}</span>')
    ends = ['<span class="mark">' + "·" * n + "</span>" if n else "" for n in (before, after)]
    return ends[0] + shown + ends[1]


def _facts(page: GraphPage, shown: Shown) -> str:
    kind, kept = page.nodes["kind"], page.nodes["kept"]
    count = {k: sum(1 for each in kind if each == k) for k in ("latent", "error")}
    stay = {k: sum(1 for each, s in zip(kind, kept, strict=True) if s and each == k) for k in count}
    names = list(page.dictionaries)
    listed = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    rows = (
        ("model", page.model),
        ("dictionaries", f"{len(names)}: {listed}" if len(names) > 1 else listed),
        (
            "latents",
            f"{stay['latent']:,} kept of {count['latent']:,} in the graph; "
            f"{page.num_active:,} active in the prompt",
        ),
        ("errors", f"{stay['error']:,} kept of {count['error']:,}"),
        ("edges", f"{len(page.edges['target']):,} kept, {len(shown.edges):,} in this page"),
        ("created", page.created),
        ("file", f"{page.slug}.json"),
    )
    items = "".join(f"<div><dt>{a}</dt><dd>{escape(b)}</dd></div>" for a, b in rows)
    return f'<dl class="facts">{items}</dl>'


def _prompt(page: GraphPage) -> str:
    nodes = page.nodes
    tokens = [i for i, kind in enumerate(nodes["kind"]) if kind == "token"]
    logits = [i for i, kind in enumerate(nodes["kind"]) if kind == "logit"]
    words = "".join(
        f'<li><span class="word">{token_html(nodes["text"][i])}</span>'
        f'<span class="quiet">{int(nodes["position"][i])}</span></li>'
        for i in tokens
    )
    rows = "".join(
        f'<tr><th scope="row"><span class="word">{token_html(nodes["text"][i])}</span></th>'
        f'<td class="number" style="--share: {nodes["probability"][i]:.4f}">'
        f"{percent(float(nodes['probability'][i]))}</td></tr>"
        for i in logits
    )
    total = percent(float(sum(nodes["probability"][i] for i in logits)))
    head = '<th scope="col">target output</th><th scope="col" class="number">probability</th>'
    table = (
        f'<div><table class="outputs"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
        f'<p class="quiet">Together {total} of the next token\'s probability.</p></div>'
    )
    listed = f'<ol class="words" aria-label="Tokens of the prompt">{words}</ol>'
    return f'<div class="prompt">{listed}{table}</div>'


def _scores(page: GraphPage) -> str:
    if not page.scores:
        return ""
    bounded = any(score.bounds for score in page.scores)
    titles = ["whole graph", *(["between"] if bounded else []), "pruned"]
    head = "".join(f'<th scope="col" class="number">{t}</th>' for t in titles)
    rows = ""
    for score in page.scores:
        cells = [measured(score.value)]
        if bounded:
            cells.append(" and ".join(number(b) for b in score.bounds) if score.bounds else "exact")
        cells.append(measured(score.pruned))
        inner = "".join(f'<td class="number">{cell}</td>' for cell in cells)
        meaning = f"<td>{escape(score.meaning)}</td>"
        rows += f'<tr><th scope="row">{escape(score.name)}</th>{inner}{meaning}</tr>'
    table = f'<thead><tr><th scope="col">score</th>{head}<th scope="col">meaning</th></tr></thead>'
    return section(
        "scores", "Scores", body=scrolling(f"{table}<tbody>{rows}</tbody>", label="Scores")
    )


def _trust(trust: Mapping[str, Number] | None) -> str:
    if not trust:
        return (
            "<p>No trust report was made for this graph: nothing here was checked against the "
            "model. Take edges as hypotheses.</p>"
        )
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="number">{measured(value)}</td></tr>'
        for name, value in trust.items()
    )
    lead = "<p>Some latents were changed in the model, and what the graph predicts compared.</p>"
    return lead + scrolling(f"<tbody>{rows}</tbody>", label="Trust report")


def _limits(page: GraphPage, shown: Shown) -> str:
    return "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes(page, shown)) + "</ul>"


def _settings(settings: Mapping[str, object] | None) -> str:
    if not settings:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
        for name, value in settings.items()
    )
    box = scrolling(f"<tbody>{rows}</tbody>", label="Settings")
    body = f"<details><summary>{len(settings)} settings, digests and versions</summary>{box}"
    return section("settings", "How it was made", body=f"{body}</details>")


def _asset(name: str) -> bytes:
    folder = resources.files("bathyscope.pages") / "static"
    shared = {"report.css", "format.js"}
    return (folder / name if name in shared else folder / "graph" / name).read_bytes()
