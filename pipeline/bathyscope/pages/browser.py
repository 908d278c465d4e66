"""The frame of the latent browser: labels, filters and empty tables that the scripts fill."""

from __future__ import annotations

from bathyscope.pages.data import ReportData
from bathyscope.pages.text import number

_COLUMNS = (
    ("index", "latent", "number", "ascending"),
    ("density", "density", "number", "none"),
    ("mean", "mean", "number mean", "none"),
    ("max", "max", "number", "none"),
)


def browser_section(data: ReportData) -> str:
    """The section "Latents": a table on the left, one latent on the right."""
    if data.num_latents == 0:
        body = "<p>This dictionary has no latents.</p>"
    else:
        body = (
            f'<p class="lead">Densities are over {number(data.density_tokens)} tokens; a mean is '
            "over the tokens on which the latent is active. "
            "<kbd>j</kbd> and <kbd>k</kbd> step through the latents of this table.</p>"
            "<noscript><p>The latent browser needs JavaScript; the other sections do not."
            "</p></noscript>"
            f"{_filters(data)}"
            f'<div class="browser"><div class="list">{_table()}{_pager()}</div>'
            '<article id="latent" class="latent" tabindex="-1" aria-label="Latent">'
            '<p class="quiet">No latent chosen.</p></article></div>'
        )
    return (
        '<section id="latents" aria-labelledby="latents-title">'
        f'<h2 id="latents-title">Latents</h2>{body}</section>'
    )


def _filters(data: ReportData) -> str:
    silent = f"silent for {number(data.density_tokens)} tokens"
    return (
        '<form id="filters" class="filters" role="search" aria-label="Filter latents">'
        '<label>latent <input id="go" inputmode="numeric" enterkeyhint="go" autocomplete="off"'
        ' size="7"></label>'
        '<label>token text <input id="text" type="search" autocomplete="off" size="14"></label>'
        '<label>density from <input id="low" inputmode="decimal" autocomplete="off" size="7"'
        ' placeholder="1e-5"></label>'
        '<label>to <input id="high" inputmode="decimal" autocomplete="off" size="7"'
        ' placeholder="0.01"></label>'
        '<label>state <select id="state"><option value="all">all</option>'
        '<option value="live">live</option>'
        f'<option value="dead">dead: {silent}</option></select></label>'
        '<button type="reset">Clear</button>'
        "</form>"
    )


def _table() -> str:
    sortable = "".join(
        f'<th scope="col" class="{kind}" data-key="{key}" aria-sort="{way}">'
        f'<button type="button">{title}</button></th>'
        for key, title, kind, way in _COLUMNS
    )
    words = '<th scope="col">promoted</th><th scope="col">peak</th>'
    return (
        '<table id="table" class="latents"><caption class="spoken">Latents</caption>'
        f"<thead><tr>{sortable}{words}</tr></thead><tbody></tbody></table>"
    )


def _pager() -> str:
    return (
        '<div class="pager"><button type="button" id="back">Previous</button>'
        '<span id="status" role="status" aria-live="polite">Reading the latents…</span>'
        '<button type="button" id="on">Next</button></div>'
    )
