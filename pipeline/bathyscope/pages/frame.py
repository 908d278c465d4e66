"""What every page shares: the head, the frame of the body, sections, and boxes for wide tables.

A page either links to the assets beside it, or carries its style and is one file by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from string import Template

from bathyscope.pages.text import escape

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="$scheme">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>$title</title>
$head
</head>
<body>
$skip<header class="page">
<p class="kind">$kind</p>
<h1>$title</h1>
$facts
</header>
<main class="page">
$sections
</main>
<footer class="page">$footer</footer>
</body>
</html>
""")


def framed(
    title: str,
    *,
    kind: str,
    head: str,
    sections: Iterable[str],
    facts: str = "",
    footer: str = "",
    skip: tuple[str, str] | None = None,
    scheme: str = "light dark",
) -> str:
    """A whole page. Title and kind are text; all else is HTML, and empty sections are left out.

    `skip` is the id of a section, and its name, that a reader by keys can go to at once.
    """
    return _PAGE.substitute(
        title=escape(title),
        kind=escape(kind),
        head=head,
        skip=f'<a class="skip" href="#{skip[0]}">Skip to {skip[1]}</a>\n' if skip else "",
        facts=facts,
        sections="\n".join(each for each in sections if each),
        footer=footer,
        scheme=scheme,
    )


def one_file(title: str, *, kind: str, sections: Iterable[str], facts: str = "") -> str:
    """A whole page that carries its style and asks for no other file. It is light, as paper is."""
    style = resources.files("bathyscope.pages") / "static" / "single" / "single.css"
    head = f"<style>\n{style.read_text('utf-8')}</style>"
    return framed(title, kind=kind, head=head, sections=sections, facts=facts, scheme="light")


def section(name: str, title: str, *, body: str) -> str:
    """A titled section that can be linked to."""
    return (
        f'<section id="{name}" aria-labelledby="{name}-title">'
        f'<h2 id="{name}-title">{escape(title)}</h2>{body}</section>'
    )


def scrolling(rows: str, *, label: str, columns: int = 0) -> str:
    """A table in a box of its own that scrolls, and that takes focus so that keys can scroll it.

    `columns`, where given, lets a wide table shrink in print.
    """
    box = f'<div class="scroll" role="region" aria-label="{escape(label)}" tabindex="0">'
    style = f' style="--columns: {columns}"' if columns else ""
    return f"{box}<table{style}>{rows}</table></div>"
