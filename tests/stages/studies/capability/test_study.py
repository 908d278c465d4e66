"""The study of capability on a ladder of tiny models."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bathyscope.attribution.nodes import Pairs, contrast, every_layer, exact_patching
from bathyscope.attribution.nodes.forward import traced
from bathyscope.config import Config
from bathyscope.errors import ConfigError
from bathyscope.metrics.agreement import pearson
from bathyscope.models.tokenizers import load_tokenizer, token_strings
from bathyscope.pages.study_data import StudyPage
from bathyscope.runs.run import Run
from bathyscope.stages.studies.capability.patching import FARTHEST, measure_patching, swap
from bathyscope.stages.studies.capability.techniques import TECHNIQUES
from bathyscope.stages.studies.capability.windows import Windows, windows_of
from bathyscope.stages.studies.family import family_of
from bathyscope.stages.studies.member_runs import run_of
from bathyscope.stages.studies.opened import OpenedMember
from bathyscope.studies.token_labels import LABELS, labels_of
from bathyscope.values import HELD_OUT
from studied import made_once, of, rows_of, said
from study_models import convolutions
from support import changed

Make = Callable[..., Config]
NAME = "capability_range"
SETTINGS: dict[str, Any] = {
    "study__held_out_tokens": 1600,
    "study__splice_tokens": 1600,
    "study__probe_tokens": 3200,
    "study__contrast_pairs": 8,
    "study__prompts": 3,
    "study__prompt_tokens": 8,
    "study__transcoder_expansion": 2,
    "study__transcoder_k": 4,
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("capability") / "studies"


@pytest.fixture
def studied(tiny_study: Make, kept: Path) -> Config:
    """The finished study of the whole ladder, made once, in a copy."""
    return made_once(tiny_study(NAME, **SETTINGS), kept)[0]


def test_the_page_judges_every_technique(studied: Config) -> None:
    page = StudyPage.from_dict(Run(studied.url).study(NAME))
    claims = [v.claim for v in page.verdicts]
    for technique in TECHNIQUES:
        named = [c for c in claims if technique.subject in c]
        assert len(named) == 3, technique.subject
    for verdict in page.verdicts:
        assert verdict.controls
        assert verdict.doubt
        assert verdict.would_change
    middles = [v for v in page.verdicts if "middle" in v.claim]
    assert {v.answer for v in middles} == {"not shown"}
    assert all("too few to name a middle" in v.doubt for v in middles)
    assert len(page.members) == 9
    assert not page.failures
    assert "not shown of any" in page.answer
    html = (Path(studied.url) / "studies" / NAME / "index.html").read_text()
    assert html.count("<figcaption") == 2 * len(TECHNIQUES)


def test_loss_recovered_lies_between_the_baseline_and_the_model(studied: Config) -> None:
    rows = rows_of(studied)
    for row in of(rows, kind="recovered"):
        [own] = of(rows, kind="capability", member=row["member"])
        gap = own["ce_mean"] - own["ce"]
        assert row["nats_recovered"] == pytest.approx(own["ce_mean"] - row["ce"])
        assert row["delta_ce"] == pytest.approx(row["ce"] - own["ce"])
        if row["loss_recovered_mean"] is not None:
            assert row["loss_recovered_mean"] == pytest.approx(row["nats_recovered"] / gap)
    bits = of(rows, kind="capability", member="llama-0.036M-seed0")[0]["bits_per_byte"]
    opened = OpenedMember(run_of(studied, family_of(studied)[4]))
    per_nat = opened.bits_per_nat(studied.study.splice_tokens)
    assert bits == pytest.approx(
        of(rows, kind="capability", member="llama-0.036M-seed0")[0]["ce"] * per_nat
    )


def test_probes_stand_beside_their_controls(studied: Config) -> None:
    rows = rows_of(studied)
    sums = of(rows, kind="probes", member="llama-0.036M-seed0")
    found = {(row["representation"], row["label_group"], row["columns"]) for row in sums}
    for group in ("token", "context"):
        for kind, columns in (
            ("dense", 0), ("token", 0), ("dictionary", 1), ("dictionary", 5), ("neurons", 5),
            ("pca", 5), ("random", 1), ("shuffled", 5),
        ):  # fmt: skip
            assert (kind, group, columns) in found
    # What the token decides, the token tells, but for those that training did not have.
    [alone] = of(sums, representation="token", label_group="token")
    assert alone["balanced_accuracy"] > 0.9
    mixed = [row["balanced_accuracy"] for row in of(rows, kind="probe", representation="shuffled")]
    assert np.mean(mixed) == pytest.approx(0.5, abs=0.04)
    [dense] = of(sums, representation="dense", label_group="token")
    for row in of(sums, label_group="token"):
        share = (row["balanced_accuracy"] - 0.5) / (dense["balanced_accuracy"] - 0.5)
        assert row["share_of_dense"] == pytest.approx(share)


def test_labels_with_few_rows_are_left_out_by_name_and_mix_up_no_others(studied: Config) -> None:
    own = [row for row in rows_of(studied) if row["member"] == "llama-0.036M-seed0"]
    left_out = {row["label"] for row in of(own, kind="left_out")}
    asked = {row["label"] for row in of(own, kind="probe")}
    assert left_out
    assert left_out | asked == {label.name for label in LABELS}
    assert not left_out & asked
    opened = OpenedMember(run_of(studied, family_of(studied)[4]))
    tokenizer = load_tokenizer(Path(str(opened.config.model.path)))
    texts = token_strings(tokenizer, list(range(len(tokenizer))))
    there = opened.corpus.split_range(HELD_OUT)
    tokens = opened.corpus.tokens(there.start, there.start + 1600 // 32)
    labels, known = labels_of(tokens.numpy(), np.zeros(tokens.shape), texts)
    known[:, 0] = False
    for row in of(own, kind="probe", representation="token", label_group="token"):
        held = labels[row["label"]][known]
        assert row["positive_share"] == pytest.approx(held.mean())
        assert row["rows"] == len(held)


def test_agreement_with_exact_patching_is_that_of_each_pair(studied: Config) -> None:
    opened = OpenedMember(run_of(studied, family_of(studied)[0]))
    rows = measure_patching(opened, lambda share, text="": None)
    [row] = of(rows, method="atp")
    name = family_of(studied)[0].name
    [stored] = of(rows_of(studied), member=name, kind="patching", method="atp")
    assert stored["pearson"] == pytest.approx(row["pearson"])
    windows = windows_of(opened, 8, 8)
    pairs = swap(windows, seed=studied.study.seed)
    model = opened.model.model
    correlations = []
    for i in range(len(pairs.answers)):
        one = Pairs.of_tokens(
            [pairs.clean[i].tolist()],
            [pairs.corrupted[i].tolist()],
            answers=[int(pairs.answers[i])],
        )
        problem = contrast(model, one, "log_probability", every_layer(model, "heads", "mlps"))
        exact = exact_patching(problem).flat()
        # First order by hand: a small step along each node's change.
        slopes = []
        for nodes in problem.nodes:
            for number in range(len(nodes.table)):
                slopes.append(step(problem, nodes, number))
        correlations.append(pearson(exact, np.array(slopes)))
    assert row["pearson"] == pytest.approx(np.mean(correlations), abs=0.02)


def step(problem: Any, nodes: Any, number: int, size: float = 0.02) -> float:
    """The metric's change for a small part of a node's change, over that part."""

    def moved(x: torch.Tensor) -> torch.Tensor:
        whole = nodes.patched(x, torch.tensor([0]), torch.tensor([number]))
        return x + size * (whole - x)

    logits = traced(problem.model, problem.pairs.clean, changes={nodes.place: moved}).logits
    return float((problem.metric(logits) - problem.clean_metric)[0]) / size


def test_swapped_pairs_differ_in_one_of_the_last_tokens() -> None:
    draw = np.random.default_rng(0)
    tokens = draw.integers(50, size=(20, 13))
    tokens[3] = tokens[4]
    found = swap(Windows(tokens, np.arange(20)), seed=1)
    assert len(found.answers) == 20
    for clean, corrupted in zip(found.clean, found.corrupted, strict=True):
        [place] = np.flatnonzero(clean != corrupted)
        assert place >= 12 - FARTHEST
        assert corrupted[place] in tokens[:, place]
    assert found.answers.tolist() == tokens[:, -1].tolist()


def test_windows_that_have_no_other_token_are_left_out() -> None:
    found = swap(Windows(np.ones((4, 6), dtype=np.int64), np.arange(4)), seed=0)
    assert len(found.answers) == 0


def test_windows_spread_over_the_held_out_items(studied: Config) -> None:
    opened = OpenedMember(run_of(studied, family_of(studied)[0]))
    windows = windows_of(opened, 8, 8)
    assert windows.tokens.shape == (8, 9)
    there = opened.corpus.split_range(HELD_OUT)
    first, last = opened.corpus.tokens(there.start, there.start + 1), there.stop - 1
    assert windows.tokens[0].tolist() == first[0, :9].tolist()
    assert windows.tokens[-1].tolist() == opened.corpus.tokens(last, last + 1)[0, :9].tolist()


def test_a_second_call_finds_everything_done(studied: Config) -> None:
    results = sorted((Path(studied.url) / "studies" / NAME / "results").iterdir())
    before = [path.stat().st_mtime_ns for path in results]
    whole, text = said(studied)
    assert whole
    assert [path.stat().st_mtime_ns for path in results] == before
    assert "0 done in" in text


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"study__prompt_tokens": 32}, "2 to 31 are wanted: sequences have 32 tokens"),
        ({"study__prompt_tokens": 1}, "2 to 31 are wanted"),
        ({"study__contrast_pairs": 1}, "a pair takes a token from another"),
    ],
)
def test_prompts_that_cannot_be_are_refused_at_once(
    tiny_study: Make, settings: dict[str, int], told: str
) -> None:
    config = tiny_study(NAME, **SETTINGS | settings)
    with pytest.raises(ConfigError, match=told):
        said(config)
    assert not (Path(config.url) / "models").exists()


def test_models_of_pictures_are_refused_at_once(tiny_study: Make, tmp_path: Path) -> None:
    torch.save(convolutions().state_dict(), tmp_path / "weights.pt")
    config = tiny_study(
        NAME,
        **SETTINGS,
        family__kind="members",
        family__members=[
            {
                "name": "cnn",
                "factory": "study_models:convolutions",
                "weights": str(tmp_path / "weights.pt"),
                "hook": "pointwise",
            }
        ],
        data__kind="images",
        data__paths=[str(Path(__file__).parents[3] / "pictures")],
        data__image_size=24,
    )
    with pytest.raises(ConfigError, match="Of pictures there are superposition"):
        said(config)


def test_one_model_is_told_as_too_few(studied: Config) -> None:
    config = changed(studied, family__models=["llama-0.013M-seed0"], study__random_models=False)
    whole, _ = said(config)
    assert whole
    page = StudyPage.from_dict(Run(config.url).study(NAME))
    assert page.answer.startswith("Nothing was measured that could carry a verdict")
    assert not page.verdicts
    assert math.isfinite(rows_of(config)[0]["bits_per_byte"])
