"""Tables of the study of modules, a row for each model; the second dictionary is in the Parquet."""

from __future__ import annotations

from collections.abc import Sequence

from bathyscope.pages.study_data import Table
from bathyscope.stages.studies.factoring.attribution import LAYERS
from bathyscope.stages.studies.factoring.measures import BEYOND, RANDOM
from bathyscope.stages.studies.factoring.nulls import DEGREES, MARGINS, TOKENS
from bathyscope.stages.studies.factoring.rows import Where, counts_of, is_attribution
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.protocols import PROTOCOLS
from bathyscope.stages.studies.verdicts import Row
from bathyscope.values import Json

_DIGITS = 3
_NULLS = (
    ("member", "model", "text"),
    ("f", "F", "number"),
    ("k", "L0", "number"),
    ("edges", "edges", "number"),
    ("q", "Q", "number"),
    ("degrees", "less rewired", "interval"),
    ("margins", "less traded firings", "interval"),
    ("z", "z of it", "number"),
    ("tokens", "less traded within a token", "interval"),
    ("random", "random directions, less rewired", "number"),
)
_COMMUNITIES = (
    ("member", "model", "text"),
    ("nodes", "latents with an edge", "number"),
    ("communities", "modules of 3 and more", "number"),
    ("smallest", "smallest", "number"),
    ("largest", "largest", "number"),
    ("effective", "effective number", "number"),
    ("rewired", "of rewired graphs", "number"),
    ("leiden", "ARI of Leiden seeds", "number"),
    ("halves", "ARI of halves", "number"),
    ("halves_nmi", "NMI of halves", "number"),
    ("seeds", "ARI of two dictionaries", "number"),
    ("token_ari", "ARI with the token's modules", "number"),
)
_BEYOND = (
    ("member", "model", "text"),
    ("all", "edges", "number"),
    ("token", "edges that the token makes", "number"),
    ("left", "edges beyond the token", "number"),
    ("false", "of traded firings", "number"),
    ("q", "Q beyond the token", "number"),
    ("rewired", "less rewired", "number"),
    ("random_all", "edges of random directions", "number"),
    ("random_left", "beyond the token", "number"),
)
_ATTRIBUTION = (
    ("member", "model", "text"),
    ("f", "F", "number"),
    ("k", "L0", "number"),
    ("edges", "edges", "number"),
    ("q", "Q", "interval"),
    ("layers", "less sources traded", "interval"),
    ("token_q", "Q of the token alone", "number"),
    ("token_shared", "edges that it has too", "percent"),
    ("token_ari", "ARI with its modules", "number"),
    ("effective", "effective number of modules", "number"),
    ("traded", "of sources traded", "number"),
    ("across", "blocks of a module", "number"),
    ("halves", "ARI of halves", "number"),
)


def tables(members: Sequence[Member], rows: Sequence[Row]) -> list[Table]:
    """For each protocol graphs, communities and what is beyond the token; then attributions."""
    found = []
    for protocol, words in PROTOCOLS.items():
        random = dict(_first(members, rows, counts_of(protocol, RANDOM)))
        plain = _first(members, rows, counts_of(protocol))
        graphs = [_graph(name, row, random.get(name, {})) for name, row in plain]
        found.append(Table(f"Latents that fire together, at {words}", _NULLS, graphs))
        modules = [_modules(name, row) for name, row in plain]
        found.append(Table(f"Their modules, at {words}", _COMMUNITIES, modules))
        left = dict(_first(members, rows, counts_of(protocol, graph=BEYOND)))
        random_left = dict(_first(members, rows, counts_of(protocol, RANDOM, BEYOND)))
        beyond = [
            _beyond(name, row, left.get(name, {}), random.get(name, {}), random_left.get(name, {}))
            for name, row in plain
        ]
        found.append(Table(f"What is left beyond the current token, at {words}", _BEYOND, beyond))
    through = [_attribution(name, row) for name, row in _first(members, rows, is_attribution)]
    found.append(Table("Attribution graphs of all blocks", _ATTRIBUTION, through))
    return [table for table in found if table.rows]


def _first(members: Sequence[Member], rows: Sequence[Row], where: Where) -> list[tuple[str, Row]]:
    """The row of each model, of the first dictionary where there are two."""
    found = []
    for member in members:
        own = [row for row in rows if row["member"] == member.name and where(row)]
        if own:
            found.append((member.name, min(own, key=lambda row: row.get("dictionary_seed") or 0)))
    return found


def _graph(name: str, row: Row, random: Row) -> Json:
    return {
        "member": name,
        "f": row["num_latents"],
        "k": row["k"],
        "edges": row.get("edges"),
        "q": _interval(row, "q")[0],
        **{null: _interval(row, f"{null}_less") for null in (DEGREES, MARGINS, TOKENS)},
        "z": row.get(f"{MARGINS}_z"),
        "random": _interval(random, f"{DEGREES}_less")[0],
    }


def _modules(name: str, row: Row) -> Json:
    sizes = row.get("community_sizes") or []
    return {
        "member": name,
        "nodes": row.get("nodes"),
        "communities": row.get("communities"),
        "smallest": min(sizes, default=None),
        "largest": max(sizes, default=None),
        "effective": row.get("effective_communities"),
        "rewired": row.get(f"{DEGREES}_effective"),
        "leiden": row.get("leiden_ari"),
        "halves": row.get("halves_ari"),
        "halves_nmi": row.get("halves_nmi"),
        "seeds": row.get("seeds_ari"),
        "token_ari": row.get(f"{TOKENS}_ari"),
    }


def _beyond(name: str, row: Row, left: Row, random: Row, random_left: Row) -> Json:
    token = row.get(f"{TOKENS}_edges_found")
    return {
        "member": name,
        "all": row.get("edges"),
        "token": None if token is None else round(token),
        "left": left.get("edges"),
        "false": left.get("rule_finds"),
        "q": left.get("q"),
        "rewired": left.get(f"{DEGREES}_less"),
        "random_all": random.get("edges"),
        "random_left": random_left.get("edges"),
    }


def _attribution(name: str, row: Row) -> Json:
    return {
        "member": name,
        "f": row["num_latents"],
        "k": row["k"],
        "edges": row.get("edges"),
        "q": _interval(row, "q"),
        "layers": _interval(row, f"{LAYERS}_less"),
        **{key: row.get(key) for key in ("token_q", "token_shared", "token_ari")},
        "effective": row.get("effective_communities"),
        "traded": row.get(f"{LAYERS}_effective"),
        "across": row.get("across_layers"),
        "halves": row.get("halves_ari"),
    }


def _interval(row: Row, key: str) -> tuple[float | None, ...]:
    ends = (row.get(name) for name in (key, f"{key}_low", f"{key}_high"))
    return tuple(None if end is None else round(end, _DIGITS) for end in ends)
