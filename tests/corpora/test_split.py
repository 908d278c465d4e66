import pytest

from bathyscope.corpora.documents import Document
from bathyscope.corpora.split import Split, split_of
from bathyscope.corpora.stable_hash import stable_hash
from bathyscope.errors import ConfigError

DIGESTS = [Document("", f"text {number}").digest for number in range(4000)]


def held_out(share: float, seed: int) -> set[str]:
    return {
        digest
        for digest in DIGESTS
        if split_of(digest, held_out_share=share, seed=seed) is Split.HELD_OUT
    }


def test_the_share_is_about_what_was_asked_for() -> None:
    # Binomial with n = 4000, p = 0.1: mean 400, standard deviation 19.
    for seed in (0, 1, 2):
        assert 400 - 4 * 19 < len(held_out(0.1, seed)) < 400 + 4 * 19


def test_a_document_is_on_the_side_that_its_own_hash_says() -> None:
    place = stable_hash("split:7:abc") / 2**64
    assert split_of("abc", held_out_share=place + 1e-9, seed=7) is Split.HELD_OUT
    assert split_of("abc", held_out_share=place - 1e-9, seed=7) is Split.TRAIN


def test_a_larger_share_only_takes_from_train() -> None:
    assert held_out(0.05, 0) < held_out(0.1, 0) < held_out(0.5, 0)


def test_seeds_hold_out_different_documents() -> None:
    # Independent halves of 0.1: about 40 of 4000 in both.
    assert len(held_out(0.1, 0) & held_out(0.1, 1)) < 80


def test_a_share_of_zero_holds_nothing_out() -> None:
    assert held_out(0.0, 0) == set()


def test_a_share_of_one_holds_everything_out() -> None:
    assert len(held_out(1.0, 0)) == 4000


@pytest.mark.parametrize("share", [-0.1, 1.1, 10.0, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match="from 0 to 1"):
        split_of("abc", held_out_share=share, seed=0)


def test_values_on_disk() -> None:
    assert (Split.TRAIN, Split.HELD_OUT) == (0, 1)
