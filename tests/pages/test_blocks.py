import base64
import json
import math
import re
from collections.abc import Iterator

import numpy as np
import pytest

from bathyscope.errors import StoreError
from bathyscope.pages import blocks
from bathyscope.pages.blocks import script, write_latents
from bathyscope.pages.data import Example, Histogram, LatentPage

NASTY = ["</script>", "<b>", "\n", "\t", "\x00", "\u2028", '"', "\\", "é", "🙂", "\ud800", ""]


def _value(content: bytes) -> object:
    match = re.fullmatch(r'bathyscope\.receive\("(\w+)",(\d+),(.*)\);\n', content.decode("ascii"))
    assert match is not None
    return json.loads(match.group(3))


def _example(tokens: list[str], peak: int = 0, band: str = "top") -> Example:
    activations = [0.0] * len(tokens)
    activations[peak] = 1.23456789
    return Example(band, 3, 40, "doc <1>", tokens, activations, peak, "held out")


def _written(pages: list[LatentPage]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    write_latents(files.__setitem__, iter(pages), num_latents=len(pages), density_tokens=1000)
    return files


def test_any_text_survives_and_nothing_in_it_can_end_a_script() -> None:
    page = LatentPage(0, 0.1, 0.5, 2.0, None, [(t, 1.0) for t in NASTY], [], [_example(NASTY)])
    content = _written([page])["data/block-0000.js"]
    assert b"<" not in content
    assert content.count(b"\n") == 1
    value = _value(content)
    assert isinstance(value, dict)
    strings, encoded = value["strings"], value["pages"][0]
    assert [strings[i] for i in encoded["examples"][0]["tokens"]] == NASTY
    assert [strings[i] for i, _ in encoded["promoted"]] == NASTY
    assert strings[encoded["examples"][0]["document"]] == "doc <1>"


def test_examples_store_only_nonzero_activations() -> None:
    example = Example(
        "top", 0, 0, "d", ["a", "b", "c", "d"], [0.0, 2.0, math.nan, -1.0], 1, "train"
    )
    value = _value(_written([LatentPage(0, 0.5, examples=[example])])["data/block-0000.js"])
    assert isinstance(value, dict)
    assert value["pages"][0]["examples"][0]["active"] == [[1, 2.0], [2, None], [3, -1.0]]


def test_what_was_not_measured_is_null_in_pages_and_nan_in_numbers() -> None:
    files = _written([LatentPage(0, None, math.nan, math.inf), LatentPage(1, 0.0, 0.25, 4.0)])
    value = _value(files["data/block-0000.js"])
    assert isinstance(value, dict)
    assert [value["pages"][0][key] for key in ("density", "mean", "max")] == [None, None, None]
    numbers = _value(files["data/numbers-0000.js"])
    assert isinstance(numbers, dict)
    decoded = {k: np.frombuffer(base64.b64decode(v), "<f4") for k, v in numbers.items()}
    np.testing.assert_array_equal(decoded["density"], np.array([np.nan, 0.0], np.float32))
    np.testing.assert_array_equal(decoded["mean"], np.array([np.nan, 0.25], np.float32))


def test_words_are_the_leading_tokens_without_repeats() -> None:
    examples = [_example([t]) for t in ("a", "b", "a", "c", "d", "e", "f")]
    page = LatentPage(0, 0.1, promoted=[(str(i), 1.0) for i in range(9)], examples=examples)
    assert _value(_written([page])["data/words-0000.js"]) == [
        [["0", "1", "2", "3", "4"], ["a", "b", "c", "d", "e"]]
    ]


def test_a_dead_latent_has_an_empty_page() -> None:
    value = _value(_written([LatentPage(0, 0.0)])["data/block-0000.js"])
    assert isinstance(value, dict)
    page = value["pages"][0]
    assert (page["density"], page["histogram"], page["examples"]) == (0.0, None, [])


@pytest.mark.parametrize(("count", "num_blocks"), [(1, 1), (63, 1), (64, 1), (65, 2), (129, 3)])
def test_blocks_hold_64_latents(count: int, num_blocks: int) -> None:
    files = _written([LatentPage(i, 0.1) for i in range(count)])
    names = sorted(name for name in files if "block" in name)
    assert names == [f"data/block-{i:04d}.js" for i in range(num_blocks)]
    latents = []
    for name in names:
        value = _value(files[name])
        assert isinstance(value, dict)
        latents += [page["latent"] for page in value["pages"]]
    assert latents == list(range(count))


def test_no_latents_write_only_the_head() -> None:
    files = _written([])
    assert list(files) == ["data/latents.js"]
    head = _value(files["data/latents.js"])
    assert isinstance(head, dict)
    assert head["numLatents"] == 0


def test_a_block_is_written_before_the_next_page_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blocks, "LATENTS_PER_WORDS", 128)
    events: list[str] = []

    def pages() -> Iterator[LatentPage]:
        for latent in range(200):
            events.append(f"page {latent}")
            yield LatentPage(latent, 0.1)

    write_latents(
        lambda name, _: events.append(name), pages(), num_latents=200, density_tokens=None
    )
    assert events.index("data/block-0000.js") == events.index("page 64") - 1
    assert events.index("data/words-0000.js") < events.index("page 128")
    assert events[-1] == "data/latents.js"


@pytest.mark.parametrize(
    ("latents", "num_latents", "wanted"),
    [
        ([0, 2], 3, "latent 2 as number 1 of 3"),
        ([1], 1, "latent 1 as number 0"),
        ([0, 0], 2, "latent 0 as number 1"),
        ([0, 1], 1, "latent 1 as number 1 of 1"),
        ([0], 2, "1 latents of a dictionary with 2"),
    ],
)
def test_missing_and_surplus_latents_are_named(
    latents: list[int], num_latents: int, wanted: str
) -> None:
    files: dict[str, bytes] = {}
    pages = (LatentPage(latent, 0.1) for latent in latents)
    with pytest.raises(StoreError, match=wanted):
        write_latents(files.__setitem__, pages, num_latents=num_latents, density_tokens=None)
    assert "data/latents.js" not in files


def test_a_script_refuses_nan() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        script("block", 0, value=[math.nan])


def test_an_empty_histogram_is_none() -> None:
    value = _value(
        _written([LatentPage(0, 0.1, histogram=Histogram([0.0], []))])["data/block-0000.js"]
    )
    assert isinstance(value, dict)
    assert value["pages"][0]["histogram"] is None
