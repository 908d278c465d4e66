"""The first page of a report: its static sections, and the empty frame of the latent browser.

Everything above the browser is plain HTML and SVG, so it reads and prints without JavaScript.
"""

from __future__ import annotations

from collections.abc import Sequence

from bathyscope.pages.browser import browser_section
from bathyscope.pages.data import ControlRow, Headline, ReportData
from bathyscope.pages.frame import framed, scrolling, section
from bathyscope.pages.plots import curve, density_plot
from bathyscope.pages.text import duration, escape, is_measured, measured, number, size

# Deferred scripts run in this order, after the page is parsed.
SCRIPTS = (
    "assets/registry.js",
    "data/latents.js",
    "assets/format.js",
    "assets/latent.js",
    "assets/table.js",
    "assets/report.js",
)


def index_page(data: ReportData) -> str:
    """The whole of index.html."""
    sections = (
        _headlines(data),
        _controls(data.controls),
        _training(data),
        _densities(data),
        browser_section(data),
        _protocol(data),
        _timings(data),
        _commands(data),
    )
    links = ['<link rel="stylesheet" href="assets/report.css">']
    links += [f'<script defer src="{source}"></script>' for source in SCRIPTS]
    return framed(
        data.title,
        kind="Bathyscope report",
        head="\n".join(links),
        sections=sections,
        facts=_facts(data),
        footer=_footer(data),
        skip=("latents", "the latents"),
    )


def _facts(data: ReportData) -> str:
    corpus = data.corpus
    active = f", k = {number(data.k)}" if data.k is not None else ""
    rows = (
        ("model", escape(data.model)),
        ("hook point", f"<code>{escape(data.hook_point)}</code>"),
        ("dictionary", f"{escape(data.dictionary_kind)}, {data.num_latents:,} latents{active}"),
        ("corpus", f"{escape(corpus.name)}, {number(corpus.documents)} documents"),
        (
            "tokens",
            f"{number(corpus.train_tokens)} train, {number(corpus.held_out_tokens)} held out, "
            f"in sequences of {number(corpus.sequence_length)}",
        ),
        ("sequences", escape(corpus.bos_policy)),
        ("run", f"<code>{escape(data.run_url)}</code>"),
        ("created", escape(data.created)),
    )
    items = "".join(f"<div><dt>{label}</dt><dd>{value}</dd></div>" for label, value in rows)
    return f'<dl class="facts">{items}</dl>'


def _headlines(data: ReportData) -> str:
    if not data.headlines:
        return ""
    meaning = f" Brackets: {escape(data.interval_meaning)}." if data.interval_meaning else ""
    lead = f'<p class="lead">Large figures are on held-out items.{meaning}</p>'
    tiles = "".join(_tile(headline) for headline in data.headlines)
    return section("figures", "Figures", body=f'{lead}<dl class="tiles">{tiles}</dl>')


def _tile(headline: Headline) -> str:
    lines = [f'<dd class="value">{measured(headline.value, unit=headline.unit)}</dd>']
    if headline.interval is not None:
        low, high = headline.interval
        known = is_measured(low) and is_measured(high)
        text = f"[{number(low)}, {number(high)}]" if known else "interval not measured"
        lines.append(f"<dd>{text}</dd>")
    lines.append(f"<dd>train {measured(headline.train_value)}</dd>")
    if headline.note:
        lines.append(f'<dd class="quiet">{escape(headline.note)}</dd>')
    return f"<div><dt>{escape(headline.label)}</dt>{''.join(lines)}</div>"


def _controls(rows: Sequence[ControlRow]) -> str:
    if not rows:
        return ""
    columns = list(dict.fromkeys(title for row in rows for title in row.values))
    head = "".join(f'<th scope="col" class="number">{escape(title)}</th>' for title in columns)
    body = "".join(
        f'<tr><th scope="row">{escape(row.name)}</th>'
        + "".join(f'<td class="number">{measured(row.values.get(title))}</td>' for title in columns)
        + "</tr>"
        for row in rows
    )
    table = f'<thead><tr><th scope="col">on held-out items</th>{head}</tr></thead><tbody>{body}'
    return section("controls", "Controls", body=scrolling(f"{table}</tbody>", label="Controls"))


def _training(data: ReportData) -> str:
    curves = data.curves
    if not curves.steps or not curves.columns:
        return ""
    plots = "".join(
        curve(title, curves.steps, values=values) for title, values in curves.columns.items()
    )
    lead = '<p class="lead">Over optimizer steps, on train items.</p>'
    return section("training", "Training", body=f'{lead}<div class="plots">{plots}</div>')


def _densities(data: ReportData) -> str:
    if data.densities is None or not data.densities.counts:
        return ""
    lead = (
        '<p class="lead">A latent\'s density is the share of tokens on which it is active, '
        f"counted over {number(data.density_tokens)} tokens. "
        f"Latents that were never active: {number(data.num_never)}.</p>"
    )
    plot = density_plot(data.densities, num_never=data.num_never)
    return section("densities", "Densities", body=f'{lead}<div class="plots wide">{plot}</div>')


def _protocol(data: ReportData) -> str:
    if not data.protocol:
        return ""
    items = "".join(
        f"<dt>{escape(entry.term)}</dt><dd>{escape(entry.sentences)}</dd>"
        for entry in data.protocol
    )
    summary = f"<summary>Definitions of {len(data.protocol)} terms</summary>"
    body = f'<details>{summary}<dl class="protocol">{items}</dl></details>'
    return section("protocol", "How it was measured", body=body)


def _timings(data: ReportData) -> str:
    if not data.timings:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(stage.name)}</th>'
        f'<td class="number">{duration(stage.seconds)}</td>'
        f'<td class="number">{size(stage.peak_memory_bytes)}</td>'
        f"<td>{escape(stage.detail)}</td></tr>"
        for stage in data.timings
    )
    head = (
        '<thead><tr><th scope="col">stage</th><th scope="col" class="number">time</th>'
        '<th scope="col" class="number">peak memory</th><th scope="col">detail</th></tr></thead>'
    )
    body = scrolling(f"{head}<tbody>{rows}</tbody>", label="Time and memory")
    return section("timings", "Time and memory", body=body)


def _commands(data: ReportData) -> str:
    if not data.next_commands:
        return ""
    items = "".join(
        f"<dt>{escape(command.purpose)}</dt><dd><pre><code>{escape(command.line)}</code></pre></dd>"
        for command in data.next_commands
    )
    return section("next", "Next", body=f'<dl class="commands">{items}</dl>')


def _footer(data: ReportData) -> str:
    return " · ".join(
        f"{escape(name)} {escape(version)}" for name, version in data.versions.items()
    )
