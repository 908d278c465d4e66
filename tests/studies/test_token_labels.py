import numpy as np
import pytest

from bathyscope.errors import ConfigError
from bathyscope.studies.token_labels import LABELS, LATE, TOKEN, labels_of, of_vocabulary

TEXTS = ["<end>", " Cat", "s", "(", ")", '"', "`", "\n  ", " 7", "x" * (LATE + 1), "\n"]
NUMBERS = {text: number for number, text in enumerate(TEXTS)}


def of(name: str, words: list[str], documents: list[int] | None = None) -> list[bool]:
    tokens = np.array([[NUMBERS[word] for word in words]])
    owners = np.array([documents or [0] * len(words)])
    labels, known = labels_of(tokens, owners, TEXTS)
    assert known[0].tolist() == [True] * (len(words) - 1) + [False]
    return labels[name][0].tolist()


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("begins_word", [" Cat", " 7"]),
        ("letters", [" Cat", "s", "x" * (LATE + 1)]),
        ("capital", [" Cat"]),
        ("digit", [" 7"]),
        ("punctuation", ["<end>", "(", ")", '"', "`"]),
        ("line_end", ["\n  ", "\n"]),
    ],
)
def test_labels_of_the_token(name: str, texts: list[str]) -> None:
    found = of_vocabulary(TEXTS)[name]
    assert [text for text, has in zip(TEXTS, found, strict=True) if has] == texts


def test_brackets_nest_and_never_close_below_none() -> None:
    words = [")", "s", "(", "(", ")", "s", ")", "s"]
    assert of("in_brackets", words) == [False, False, True, True, True, True, False, False]


def test_quotes_and_backticks_end_with_the_line() -> None:
    words = ['"', "s", "`", '"', "s", "\n", "s"]
    assert of("in_quotes", words) == [True, True, True, False, False, False, False]
    assert of("in_backticks", words) == [False, False, True, True, True, False, False]


def test_repeated_counts_within_the_document() -> None:
    words = ["s", " 7", "s", "s", " 7"]
    assert of("repeated", words) == [False, False, True, True, True]
    assert of("repeated", words, [0, 0, 0, 1, 1]) == [False, False, True, False, False]


def test_place_in_the_line() -> None:
    words = ["x" * (LATE + 1), "s", "\n  ", "s", "\n", "s"]
    assert of("late_in_line", words) == [False, True, True, False, False, False]
    assert of("indented", words) == [False, False, True, True, False, False]


def test_labels_of_the_next_token() -> None:
    words = ["s", " Cat", "(", "\n"]
    assert of("next_capital", words)[:3] == [True, False, False]
    assert of("next_punctuation", words)[:3] == [False, True, False]
    assert of("next_line_end", words)[:3] == [False, False, True]


def test_every_label_is_made_and_those_of_tokens_depend_on_them_alone() -> None:
    tokens = np.random.default_rng(0).integers(len(TEXTS), size=(3, 40))
    labels, _ = labels_of(tokens, np.zeros_like(tokens), TEXTS)
    assert set(labels) == {label.name for label in LABELS}
    for label in LABELS:
        alone = all(
            len(np.unique(labels[label.name][tokens == token])) <= 1 for token in range(len(TEXTS))
        )
        assert alone == (label.group == TOKEN), label.name


def test_tokens_beyond_the_vocabulary_are_refused() -> None:
    with pytest.raises(ConfigError, match="another tokenizer"):
        labels_of(np.array([[1, 99]]), np.zeros((1, 2)), TEXTS)
