"""Verdicts of the study of superposition on rows with a known answer."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from bathyscope.config import Config, ModelConfig
from bathyscope.pages.study import study_page
from bathyscope.stages.studies.equal_loss import equal_loss_verdicts, pairs_of, per_decade
from bathyscope.stages.studies.member import Checkpoint, Member
from bathyscope.stages.studies.superposition import study as superposition
from bathyscope.stages.studies.superposition.equal_training import at_equal_training
from bathyscope.stages.studies.superposition.law import overlap_law
from bathyscope.stages.studies.superposition.quantities import Quantity, curve_of, curves_of
from bathyscope.stages.studies.superposition.verdicts import trends

SIZES = {10**5: 32, 10**6: 64, 10**7: 128}
OVERLAP = Quantity("unembedding_centred", "overlap_times_width", "overlap", "lower")


def member(parameters: int, seed: int, **changes: Any) -> Member:
    given: dict[str, Any] = {
        "name": f"m{parameters}-{seed}", "architecture": "llama", "parameters": parameters,
        "embedding_parameters": 0, "seed": seed, "tokens": 1000, "model": ModelConfig(),
    }  # fmt: skip
    return Member(**given | changes)


def members() -> list[Member]:
    return [member(parameters, seed) for parameters in SIZES for seed in (0, 1)]


def row(of: Member, state: str, tokens: int, loss: float, overlap: float) -> dict[str, Any]:
    width = SIZES[of.parameters]
    return {
        "member": of.name, "parameters": of.parameters, "kind": "unembedding_centred",
        "state": state, "state_tokens": tokens, "loss": loss, "overlap_times_width": overlap,
        "mean_squared_overlap": overlap / width, "d": width, "dimensionality_mean": 0.1,
    }  # fmt: skip


def rows(per_loss: float, per_decade_of_size: float) -> list[dict[str, Any]]:
    """Overlap = 1 + per_loss (7 - loss) + per_decade (size); larger models end at lower loss."""
    found = []
    for each in members():
        decade = math.log10(each.parameters) - 5
        end = 5 - decade + 0.01 * each.seed
        for number, name in enumerate(["step-0", "step-1", "step-2", "final"]):
            loss = 7 + (end - 7) * number / 3
            overlap = 1 + per_loss * (7 - loss) + per_decade_of_size * decade
            overlap += 0.001 * each.seed
            found.append(row(each, name, 300 * number, loss, overlap))
    return found


def test_a_trend_over_size_that_is_one_of_loss_is_none_at_equal_loss() -> None:
    config, given = Config(), rows(per_loss=0.5, per_decade_of_size=0.0)
    [over_size] = [v for v in trends(config, members(), given) if "unembedding rows" in v.claim]
    assert over_size.answer == "yes"
    assert over_size.value == pytest.approx(0.5, rel=1e-6)
    pairs = pairs_of(members(), curves_of(given, OVERLAP))
    assert len(pairs) == 4
    assert [p.matched.difference for p in pairs] == pytest.approx([0] * 4, abs=1e-9)
    assert [p.final_difference for p in pairs] == pytest.approx([0.5] * 4)
    assert [p.initial_difference for p in pairs] == pytest.approx([0] * 4)
    [verdict] = equal_loss_verdicts(config, OVERLAP.asked, pairs)
    assert verdict.value == pytest.approx(0, abs=1e-9)
    assert "initial weights, thus size alone" in verdict.controls
    higher = OVERLAP._replace(less="higher")
    [other] = equal_loss_verdicts(
        config, higher.asked, pairs_of(members(), curves_of(rows(0.5, 0.2), higher))
    )
    assert other.answer == "yes"
    assert "has the higher overlap" in other.claim


@pytest.mark.parametrize(("per_size", "answer"), [(0.0, "not shown"), (0.3, "yes")])
def test_a_trend_of_training_is_none_at_equal_training(per_size: float, answer: str) -> None:
    """Overlap = 3 - 0.1 ln(tokens / N) + per_size (size), so last weights rise with the size."""
    known, given = [], []
    for each in members():
        tokens = [10**3, 10**4, 10**5, 10**6, 10**7]
        kept = [Checkpoint(f"step-{t}", t, ModelConfig()) for t in tokens[:-1]]
        known.append(replace(each, tokens=tokens[-1], checkpoints=tuple(kept)))
        decade = math.log10(each.parameters) - 5
        for t in tokens:
            overlap = 3 - 0.1 * math.log(t / each.parameters) + per_size * decade
            name = "final" if t == tokens[-1] else f"step-{t}"
            loss = 8 - decade - 0.1 * math.log(t)
            given.append(row(each, name, t, loss, overlap + 0.001 * each.seed))
    [verdict, *_] = at_equal_training(Config(), known, given)
    # The largest model, of 10^7 parameters, reads a tenth of a token for each before its end.
    assert verdict.claim == (
        "llama: at 0.1 tokens per parameter, unembedding rows overlap more for their width in "
        "larger models."
    )
    assert verdict.answer == answer
    assert verdict.value == pytest.approx(per_size, abs=1e-9)
    slope = per_size + 0.1 * math.log(10)
    assert f"(+{slope:.3g} per tenfold parameters)" in verdict.controls
    # Of 8 - decade - 0.1 ln(N / 10) at 10^5 and 10^7.
    assert "Held-out losses there are 4.62 to 7.08 nats" in verdict.doubt
    page = superposition.conclude(Config(), known, given)
    assert "at 0.1 tokens per parameter" in page.answer
    assert at_equal_training(Config(), members(), given) == []


@pytest.mark.parametrize(("slope", "answer"), [(-0.2, "yes"), (0.2, "no")])
def test_a_difference_at_equal_loss_is_per_tenfold_parameters(slope: float, answer: str) -> None:
    given = rows(per_loss=0.5, per_decade_of_size=slope)
    pairs = pairs_of(members(), curves_of(given, OVERLAP))
    line = per_decade(pairs, Config())
    assert line is not None
    assert line.estimate == pytest.approx(slope)
    [verdict] = equal_loss_verdicts(Config(), OVERLAP.asked, pairs)
    assert verdict.answer == answer
    assert "4 of 4 pairs" in verdict.doubt


def test_without_an_equal_loss_nothing_was_measured() -> None:
    given = [r | {"loss": 9.0} if r["parameters"] > 10**5 else r for r in rows(0.5, 0.1)]
    pairs = [
        p for p in pairs_of(members(), curves_of(given, OVERLAP)) if p.small.parameters == 10**5
    ]
    assert {p.matched.status for p in pairs} == {"never_reached"}
    assert per_decade(pairs, Config()) is None
    [verdict] = equal_loss_verdicts(Config(), OVERLAP.asked, pairs)
    assert verdict.answer == "not measured"
    assert "0 of 2 pairs" in verdict.doubt


def test_pairs_are_of_one_architecture_and_seed_and_carry_verdicts() -> None:
    given = rows(0.5, 0.1)
    others = [
        member(10**5, 0), member(10**6, 1), member(10**6, 0, overfitted=True),
        member(10**7, 0, trained=False), member(10**7, 0, architecture="gpt2"),
    ]  # fmt: skip
    assert pairs_of(others, curves_of(given, OVERLAP)) == []
    without = [r | {"state_tokens": None} for r in given]
    assert curve_of(others[0], without, OVERLAP) == []


def test_the_law_of_overlap_against_width_is_found() -> None:
    exact = [r | {"mean_squared_overlap": 1.01 ** (r["member"][-1] == "1") / r["d"]}
             for r in rows(0.5, 0.0)]  # fmt: skip
    [verdict], [fit] = overlap_law(Config(), members(), exact)
    assert verdict.answer == "yes"
    assert verdict.value == pytest.approx(1, abs=1e-6)
    assert fit.formula == "L(m) = E + A m^-α"
    squared = [r | {"mean_squared_overlap": 1.01 ** (r["member"][-1] == "1") / r["d"] ** 2}
               for r in rows(0.5, 0.0)]  # fmt: skip
    [verdict], _ = overlap_law(Config(), members(), squared)
    assert verdict.answer == "no"
    assert verdict.value == pytest.approx(2, abs=1e-6)


def test_too_few_sizes_make_a_page_without_trends() -> None:
    few = [m for m in members() if m.parameters < 10**7]
    page = superposition.conclude(Config(), few, rows(0.5, 0.1))
    assert page.verdicts
    assert all("at equal loss" in v.claim for v in page.verdicts)
    assert "Adjacent sizes at matched capability" in study_page(page)


def test_rows_weighted_by_frequency_have_claims_of_their_own() -> None:
    given = rows(0.5, 0.2)
    given += [
        r | {"kind": "unembedding_frequency", "overlap_times_width": 2.0, "mean_squared_overlap": 2}
        for r in given
    ]
    page = superposition.conclude(Config(), members(), given)
    weighted = [v for v in page.verdicts if "weighted by" in v.claim]
    assert [v.answer for v in weighted] == ["not shown", "no", "not shown"]
    assert "weighted by how often a token occurs" in page.answer
    assert sum("1 / width" in v.claim for v in page.verdicts) == 2
    assert len(page.fits) == 1
