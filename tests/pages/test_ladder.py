"""The page of a ladder: its plots, its table, and what its columns say."""

from __future__ import annotations

from typing import Any

from bathyscope.pages.ladder import COLUMNS, ladder_page, table_cells


def row(family: str, parameters: int, seed: int, **changes: Any) -> dict[str, Any]:
    return {
        "name": f"{family}-{parameters}-{seed}", "family": family, "parameters": parameters,
        "seed": seed, "tokens": 4_000_000, "tokens_per_parameter": 4_000_000 / parameters,
        "train_loss": 3.5, "held_out_loss": 3.4567, "gap": -0.0433, "bits_per_byte": 1.9,
        "seconds": 200.0, "stopped_early": False, **changes,
    }  # fmt: skip


ROWS = [row(f, p, s) for f in ("gpt2", "llama") for p in (80_000, 340_000) for s in (0, 1)]
CURVES = {each["name"]: [(2048.0, 6.9, 6.8), (4e6, 3.5, 3.4567)] for each in ROWS}


def test_the_page_has_a_plot_of_sizes_and_one_of_curves_for_every_family() -> None:
    page = ladder_page(ROWS, CURVES)
    titles = ["against parameters<", "along the training: gpt2<", "along the training: llama<"]
    assert [page.count(f"{title}/figcaption>") for title in titles] == [1, 1, 1]
    assert page.count("<figure>") == 3
    assert page.count("<tr>") == 1 + len(ROWS)
    assert "8 models of 2 families" in page
    assert "0 stopped early" in page
    # It opens from the disk by itself.
    assert "<script" not in page
    assert "src=" not in page


def test_the_table_says_every_figure_as_a_person_reads_it() -> None:
    head, first = table_cells(ROWS[:1])
    assert head == [name for _, name, _ in COLUMNS]
    assert dict(zip(head, first, strict=True)) == {
        "family": "gpt2", "parameters": "80,000", "seed": "0", "tokens": "4,000,000",
        "tokens per parameter": "50.0", "train loss": "3.500", "held-out loss": "3.457",
        "gap": "−0.043", "bits per byte": "1.900", "time": "3 min 20 s",
    }  # fmt: skip


def test_an_early_stop_is_counted() -> None:
    assert "1 stopped early" in ladder_page(
        [row("gpt2", 9, 0, stopped_early=True)], {"gpt2-9-0": []}
    )
