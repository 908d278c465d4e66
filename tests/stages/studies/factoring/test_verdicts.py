"""Verdicts from made-up rows: models without training stay out, and every claim is a difference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from bathyscope.config import Config, ModelConfig
from bathyscope.pages.study_data import Verdict
from bathyscope.stages.studies.factoring.figures import plots
from bathyscope.stages.studies.factoring.study import conclude
from bathyscope.stages.studies.factoring.tables import tables
from bathyscope.stages.studies.factoring.verdicts import verdicts
from bathyscope.stages.studies.member import Member
from support import changed

SIZES = (100_000, 200_000, 400_000, 800_000, 1_600_000)


def family() -> list[Member]:
    made = [
        Member(f"llama-{size}-{seed}", "llama", size, 10, seed, 4_000_000, ModelConfig())
        for size in SIZES
        for seed in (0, 1)
    ]
    first = [
        Member(f"llama-{size}-u", "llama", size, 10, 0, 0, ModelConfig(), trained=False)
        for size in SIZES
    ]
    return made + first


def row(member: Member, graph: str, protocol: str | None, kind: str, **values: Any) -> Any:
    return {
        "member": member.name, "graph": graph, "protocol": protocol, "kind": kind,
        "dictionary_seed": 0, "num_latents": 64, "k": 4, "blocks": 4, "nodes": 60,
        "community_sizes": [30, 20, 10], "edges": 100, **values,
    }  # fmt: skip


def rows(members: Sequence[Member], rise: float) -> list[Any]:
    """Modules grow by `rise` with each doubling; Q beyond tokens is below 0 in all models."""
    found = []
    for member in members:
        step = SIZES.index(member.parameters) + 0.1 * (member.seed or 0)
        less = 0.3 + 0.02 * step if member.trained else 0.35
        for protocol in ("equal_ratio", "equal_count"):
            for kind in ("dictionary", "random"):
                null = {f"{name}_{key}": 0.2 for name in ("degrees", "margins") for key in ("q",)}
                figures = {
                    "q": 0.5, "effective_communities": 6 + rise * step, "margins_less": less,
                    "degrees_less": 0.25, "tokens_less": -0.02 - 0.001 * step,
                    "degrees_effective": 9.0 + 0.01 * step, "halves_ari": 0.4, "edges": 300,
                }  # fmt: skip
                found.append(row(member, "cofiring", protocol, kind, **figures, **null))
                left = {"degrees_less": 0.1, "q": 0.4, "edges": 60 if member.trained else 10}
                found.append(row(member, "beyond_token", protocol, kind, **left))
        found.append(
            row(member, "attribution", None, "dictionary", layers_less=0.2 - 0.01 * step, q=0.5,
                effective_communities=12.0)
        )  # fmt: skip
    return found


def config() -> Config:
    return changed(Config(), study__resamples=200)


def by_claim(found: Sequence[Verdict]) -> dict[str, Verdict]:
    return {verdict.claim.removeprefix("llama: "): verdict for verdict in found}


def test_claims_follow_the_rows() -> None:
    members = family()
    found = by_claim(verdicts(config(), members, rows(members, rise=0.5)))
    more = found["at equal F and L0, larger models fall apart into more modules."]
    assert more.answer == "yes"
    # Half a module for each doubling.
    assert more.value == pytest.approx(0.5 * 3.3219, rel=0.05)
    assert "rewired graphs by themselves" in more.controls
    assert "5 sizes over 1.2 decades, 2 seeds." in more.doubt
    assert found["at equal F and L0, modules of larger models are more separate."].answer == "yes"
    assert found["in attribution graphs, modules of larger models are more separate."].answer == (
        "no"
    )
    alone = found["in attribution graphs, larger models fall apart into more modules."]
    assert alone.answer == "not shown"
    token = found[
        "At equal F and L0, modules are more than the token makes: Q beyond firings traded within "
        "a token."
    ]
    assert (token.answer, token.value) == ("no", pytest.approx(-0.022, abs=0.001))
    assert "Mean over 10 models of 5 sizes" in token.doubt
    beyond = "At equal F and L0, what fires together beyond the token forms modules beyond degrees."
    assert found[beyond].answer == "yes"
    share = found["At equal F and L0, the current token makes most of what fires together."]
    assert (share.answer, share.value) == ("yes", pytest.approx(0.2))
    assert "models without training 0.0333" in share.controls
    # The random dictionaries have the same figures here.
    random = "At equal F and L0, trained dictionaries have clearer modules than random directions."
    assert found[random].value == pytest.approx(0)
    # 0.3 to 0.38 of trained models, 0.35 of their first weights.
    training = "At equal F and L0, training makes modules clearer than those of first weights."
    assert found[training].value == pytest.approx(0.3 + 0.02 * 2.05 - 0.35)


def test_without_a_rise_nothing_is_claimed() -> None:
    members = family()
    found = by_claim(verdicts(config(), members, rows(members, rise=0.0)))
    claim = "at equal F / d and L0 / d, larger models fall apart into more modules."
    assert found[claim].answer == "not shown"
    assert "F grows with the size here" in found[claim].doubt


def test_modules_that_null_graphs_gain_too_are_not_shown() -> None:
    members = family()
    grown = [
        {**each, "degrees_effective": 9.0 + 2 * each["effective_communities"]}
        if "effective_communities" in each
        else each
        for each in rows(members, rise=0.5)
    ]
    found = by_claim(verdicts(config(), members, grown))
    more = found["at equal F and L0, larger models fall apart into more modules."]
    assert (more.answer, more.low > 0) == ("not shown", True)
    assert more.doubt.startswith("Null graphs of these numbers of latents and edges gain as many")


def test_what_random_directions_gain_too_is_said() -> None:
    members = family()
    grown = [
        {**each, "degrees_less": 0.2 + 0.01 * SIZES.index(member.parameters)}
        for member in members
        for each in rows([member], rise=0.5)
    ]
    claim = "at equal F and L0, modules of larger models are more separate."
    doubt = by_claim(verdicts(config(), members, grown))[claim].doubt
    assert doubt.startswith("Random directions of the same F and L0 gain as much in llama.")
    plain = by_claim(verdicts(config(), members, rows(members, rise=0.5)))[claim].doubt
    assert "gain as much" not in plain


def test_the_answer_names_both_protocols_and_the_token() -> None:
    members = family()
    page = conclude(config(), members, rows(members, rise=0.5))
    assert page.answer.startswith(
        "More modules in larger models: shown (llama at equal F / d and L0 / d; llama at equal F "
        "and L0), not shown (llama in attribution graphs). More separate ones: "
    )
    assert page.answer.endswith(
        "Most of what fires together is made by the current token: yes (at equal F / d and L0 / d; "
        "at equal F and L0)."
    )
    assert len(plots(members, rows(members, 0.5))) == 10
    shown = tables(members, rows(members, 0.5))
    assert len(shown) == 7
    # Each model once, with the edges beyond the token beside all of them.
    assert all(len(table.rows) == len(members) for table in shown)
    assert [shown[2].rows[0][key] for key in ("all", "left")] == [300, 60]
    assert [shown[1].rows[0][key] for key in ("smallest", "largest")] == [10, 30]


def test_graphs_of_few_edges_are_counted_and_have_no_modules() -> None:
    members = family()
    few = [{**each, "edges": 40} if each["graph"] == "beyond_token" else each
           for each in rows(members, rise=0.5)]  # fmt: skip
    found = by_claim(verdicts(config(), members, few))
    beyond = "At equal F and L0, what fires together beyond the token forms modules beyond degrees."
    assert found[beyond].answer == "not measured"
    share = found["At equal F and L0, the current token makes most of what fires together."]
    assert share.value == pytest.approx(40 / 300)


def test_models_without_a_graph_are_not_measured() -> None:
    members = family()[:2]
    found = verdicts(config(), members, [row(members[0], "cofiring", "equal_ratio", "dictionary")])
    assert {verdict.answer for verdict in found} == {"not measured"}
    assert all("No model has a graph with edges" in verdict.doubt for verdict in found)
