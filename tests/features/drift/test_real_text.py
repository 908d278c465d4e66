"""Real documents dealt into nights: each word is a latent that fires where it stands."""

import itertools
import re
from zlib import crc32

import numpy as np
import pytest

from bathyscope.corpora.documentation import documentation
from bathyscope.features.drift.changes import Floors
from bathyscope.features.drift.compare import compare
from bathyscope.features.drift.part import NightPart
from drift_nights import SCALES, reference_of

NUM_LATENTS = 800
NO_FLOORS = Floors(density_ratio=1.0, density=0.0, activation_ratio=1.0, series_ratio=1.0)


@pytest.fixture(scope="module")
def documents(cache_folder):
    """Latents and activations of every word of numpy's docstrings, document by document."""
    found = {
        each.text for each in documentation(["numpy"], min_chars=200, cache_folder=cache_folder)
    }
    made = []
    for text in sorted(found):
        words = re.findall(r"\w+", text)
        latents = np.array([crc32(word.encode()) % NUM_LATENTS for word in words])
        made.append((latents, np.array([1.0 + len(word) for word in words], np.float32)))
    return made


def night_of(documents, places):
    part = NightPart(NUM_LATENTS, SCALES)
    chosen = [documents[place] for place in places]
    numbers = np.repeat(np.arange(len(chosen)), [len(latents) for latents, _ in chosen])
    latents, values = (np.concatenate(column)[:, None] for column in zip(*chosen, strict=True))
    part.add(values, latents, numbers)
    return part.close()


def nights_of(documents, *sizes, seed):
    order = np.random.default_rng(seed).permutation(len(documents))
    ends = np.cumsum([0, *sizes])
    return [night_of(documents, order[a:b]) for a, b in itertools.pairwise(ends)]


def test_fresh_documents_of_one_source_raise_nothing(documents):
    assert len(documents) > 900
    raised = {1e-4: 0, 0.05: 0}
    for seed in range(15):
        *old, night = nights_of(documents, 250, 250, 250, 200, seed=seed)
        # Every second time one earlier night, where documents alone decide.
        reference = reference_of(old if seed % 2 else old[:1])
        for error in raised:
            raised[error] += compare(night, reference, error=error, floors=NO_FLOORS).raised
    assert raised[1e-4] == 0
    assert raised[0.05] <= 3


def test_a_document_of_one_word_ten_thousand_times_raises_nothing(documents):
    latents = np.full(10_000, crc32(b"array") % NUM_LATENTS)
    heavy = night_of([(latents, np.full(10_000, 6.0, np.float32))], [0])
    for seed in range(5):
        old, night = nights_of(documents, 500, 300, seed=seed)
        night.merge(heavy)
        assert not compare(night, reference_of([old])).raised


def test_a_word_added_to_every_third_document_is_first_in_the_report(documents):
    word = crc32(b"bathyscope") % NUM_LATENTS
    old, night = nights_of(documents, 600, 300, seed=3)
    rng = np.random.default_rng(0)
    planted = []
    for place in rng.permutation(len(documents))[:300]:
        latents, values = documents[place]
        with_word = rng.random() < 1 / 3
        planted.append(
            (np.append(latents, [word] * 3), np.append(values, [9.0] * 3).astype(np.float32))
            if with_word
            else (latents, values)
        )
    assert not compare(night, reference_of([old])).raised
    found = compare(night_of(planted, range(300)), reference_of([old]))
    assert found.latents[0].latent == word
    assert found.latents[0].kind in ("more", "new")
