"""Study: do larger models fall apart into more, and more separate, modules?

Latents that fire together more than chance are joined, and communities of that graph are found by
Leiden. Random graphs have communities too (Guimerà, Sales-Pardo and Amaral 2004), so modularity is
read against null graphs: of the same degrees, of firings with the same margins, and of firings that
know the current token alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from bathyscope.config import Config
from bathyscope.errors import ConfigError
from bathyscope.pages.study_data import StudyPage
from bathyscope.stages.studies.factoring.attribution import ATTRIBUTION, measure_attribution
from bathyscope.stages.studies.factoring.attribution_sums import CANDIDATES
from bathyscope.stages.studies.factoring.figures import plots
from bathyscope.stages.studies.factoring.graphs import LEAST
from bathyscope.stages.studies.factoring.measures import (
    DICTIONARY,
    PARTNER_ABOVE,
    chosen,
    measure_cofiring,
)
from bathyscope.stages.studies.factoring.nulls import FIRST_ROUNDS, ROUNDS
from bathyscope.stages.studies.factoring.rows import LEAST_EDGES
from bathyscope.stages.studies.factoring.tables import tables
from bathyscope.stages.studies.factoring.verdicts import answer, verdicts
from bathyscope.stages.studies.family import table_row
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.member_runs import Size, rows_are_tokens, run_of, width_of
from bathyscope.stages.studies.opened import OpenedMember
from bathyscope.stages.studies.study import Subject, Tell
from bathyscope.stages.studies.transcoders import transcoder_run_of
from bathyscope.stages.studies.verdicts import Row, member_rows
from bathyscope.studies.cofiring import MIN_FIRINGS, MIN_TOGETHER
from bathyscope.studies.communities import require_igraph
from bathyscope.values import Json

NAME = "factoring"
TITLE = "Modules of latents in models of growing size"
QUESTION = "Do larger models fall apart into more, and more separate, modules?"
SEMANTICS = 1
SETTINGS = (
    "held_out_tokens",
    "seed",
    "expansions",
    "k_shares",
    "widths",
    "ks",
    "seeds",
    "neighbours",
    "false_edges",
    "null_graphs",
    "transcoder_k",
)
TRANSCODERS = True
SPANS = False
DEFINITIONS = {
    "q": "Modularity Σ_c [W_c / W - (S_c / 2W)²] of the communities that Leiden finds, weights φ; "
    "interval: each of at most 10 parts of the documents left out in turn, graph and communities "
    "made anew.",
    "edges": "Pairs of latents whose firing together exceeds independence: t over clusters of "
    "documents, false discovery rate by Benjamini and Yekutieli over all pairs, among the "
    "neighbours of largest t of either latent.",
    "degrees": "Null graphs with the same degree of every latent, weights dealt out again.",
    "margins": "Null graphs of firings traded between rows: the L0 of each row and the firings of "
    "each latent are kept exactly. The strongest pairs, as many as the real graph has edges; "
    "margins_edges_found is what the rule for real edges finds there.",
    "tokens": "The same, traded between rows of one current token only, so that the firings of "
    "each latent on each token are kept too; tokens_edges_found is how many edges the token alone "
    "makes.",
    "less": "Q less the mean of null graphs; its interval holds the error of Q over documents and "
    "that of the mean. z is in standard deviations of null graphs.",
    "communities": f"Communities of at least {LEAST} latents; latents without an edge are in none.",
    "effective_communities": "exp of the entropy of the communities' shares of latents.",
    "halves_ari, halves_nmi": "Adjusted Rand index and normalised mutual information of "
    "communities of two halves of the documents, over latents with edges in both.",
    "leiden_ari": "The same of five seeds of Leiden. seeds_ari: of two dictionaries, over latents "
    f"whose partner, one to one, has a correlation of {PARTNER_ABOVE:g} or more.",
    "graph": "cofiring: latents of one dictionary that fire together. beyond_token: the same, "
    "where they do more than in firings traded within a token (mean of two copies); rule_finds is "
    "how many edges a further copy has. attribution: latents of transcoders, one per block.",
    "attribution": "|V[t, s]| · E[a_t a_s] / E[a_t], mean absolute attribution along the straight "
    "path; of each latent the strongest of all earlier blocks, as shares of their sum.",
    "layers": "Null graphs with sources traded between targets within each two blocks: the edges "
    "of each latent to each other block are kept exactly.",
    "token_q": "Of the attribution graph that the current token alone would make: the mean of each "
    "latent over rows of a token in the place of its activation. token_shared is the share of "
    "the real edges that it has too, token_ari how alike the communities are.",
    "across_layers": "Effective number of blocks in a community, mean over latents.",
    "kind": "dictionary, or a control: random (random directions of the same F and L0).",
    "trained": "False for models with their initial weights.",
}
SOURCES = (
    "Newman and Girvan 2004, Finding and evaluating community structure: modularity.",
    "Guimerà, Sales-Pardo and Amaral 2004: modularity of random graphs.",
    "Traag, Waltman and van Eck 2019, arXiv:1810.08473: Leiden.",
    "Carstens, Berger and Strona 2018, arXiv:1609.05137: global curveball.",
    "Fosdick et al. 2018, arXiv:1608.00607: random graphs of given degrees.",
    "Benjamini and Yekutieli 2001: false discoveries under dependence.",
    "Ameisen et al. 2025, Circuit Tracing: virtual weights weighted by co-activation.",
    "Fortunato and Barthélemy 2007: small communities hide from modularity in large graphs.",
)


def sizes(config: Config, member: Member) -> list[Size] | None:
    """The middle dictionaries of both protocols; `config` is that of the member's run.

    Raises `ConfigError` for models of pictures, whose rows have no current token, and
    `DependencyError` without igraph.
    """
    if not rows_are_tokens(config):
        raise ConfigError(
            f"study.name is {NAME}, which takes the current token for a control, and data.kind is "
            f"{config.data.kind}. Of pictures there are superposition, universality and "
            "wasted_weights."
        )
    require_igraph()
    return sorted({size for each in chosen(config, width_of(config)) for size in each.sizes})


def subjects(config: Config, members: Sequence[Member]) -> list[Subject]:
    """Every member by itself."""
    return [Subject(member.name, (member,)) for member in members]


def measure(config: Config, subject: Subject, tell: Tell) -> list[Json]:
    """A row for each graph of a member, and of the random dictionary on its rows."""
    [member] = subject.members
    own = run_of(config, member)
    rows = [{"hook": own.hook, **row} for row in measure_cofiring(OpenedMember(own), tell)]
    beside = transcoder_run_of(config, member)
    found = measure_attribution(beside, lambda text: tell(0.9, text))
    rows.append({"graph": ATTRIBUTION, "kind": DICTIONARY, **found})
    return [{**table_row(member), **row} for row in rows]


def conclude(config: Config, members: Sequence[Member], rows: Sequence[Row]) -> StudyPage:
    """Verdicts on whether there are modules, and on their number and their parting by size."""
    found = verdicts(config, members, rows)
    return StudyPage(
        name=NAME,
        title=TITLE,
        question=QUESTION,
        answer=answer(found),
        verdicts=found,
        plots=plots(members, rows),
        tables=tables(members, rows),
        members=member_rows(members),
        protocol=_protocol(config),
        sources=SOURCES,
        definitions=DEFINITIONS,
    )


def _protocol(config: Config) -> list[tuple[str, str]]:
    study = config.study
    expansion = study.expansions[len(study.expansions) // 2]
    share = study.k_shares[len(study.k_shares) // 2]
    width, k = study.widths[len(study.widths) // 2], study.ks[len(study.ks) // 2]
    return [
        (
            "Rows",
            f"The same items for all models, {study.held_out_tokens:,} held-out tokens, first "
            f"positions left out, after {study.depth:.0%} of the blocks.",
        ),
        (
            "Dictionaries",
            f"TopK, {study.tokens_per_latent} rows per latent, seeds "
            f"{', '.join(map(str, study.seeds))}: F = {expansion} d with L0 = {share:g} d (equal "
            f"F / d), and F = {width} with L0 = {k} (equal F). Null models of firings are of the "
            "first seed.",
        ),
        (
            "Edges",
            "Tested over at most 128 clusters of whole documents; a share of "
            f"{study.false_edges:g} of the edges is chance on average. Of each latent the "
            f"{study.neighbours} of largest t. Latents of fewer than {MIN_FIRINGS} firings and "
            f"pairs of fewer than {MIN_TOGETHER} have none. Latents that fire together less than "
            "chance have none either: two that replace each other do not make a module. Graphs of "
            f"fewer than {LEAST_EDGES} edges are in the tables and carry no claim on modules.",
        ),
        (
            "Null graphs",
            f"{study.null_graphs} of each. Rewiring: 20 rounds of a swap for each two edges. "
            f"Firings: {FIRST_ROUNDS} trades of each row before the first graph and {ROUNDS} "
            "before each other.",
        ),
        (
            "Attribution",
            f"A TopK transcoder of each block, F = {study.transcoder_expansion} d and L0 = "
            f"{study.transcoder_k}. Of each latent and earlier block the {CANDIDATES} largest "
            "virtual weights are weighted by co-activation on the held-out rows, and the "
            f"{study.neighbours} strongest of all kept. Attention, norm scales and errors of "
            "transcoders are left out.",
        ),
        (
            "Trends",
            "Least squares on ln parameters (embeddings included) of the mean over a model's "
            "dictionaries; groups are trained models (size and seed): drawn with replacement from "
            "8 on, left out in turn below. Overfitted and untrained models carry no verdict.",
        ),
    ]
