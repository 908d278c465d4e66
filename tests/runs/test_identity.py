import json

import pytest

from bathyscope.errors import IdentityMismatch
from bathyscope.runs.identity import difference, digest, refuse, same


def test_the_digest_is_pinned():
    # It names the segments of every stored run.
    assert digest({"stage": "harvest", "train": {"lr": 0.001}}) == "2aca794be50aa30e"
    assert len(digest({})) == 16


def test_the_digest_does_not_depend_on_the_order_of_fields():
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


@pytest.mark.parametrize(
    "identity",
    [{"shape": (1, 2)}, {"limit": float("nan")}, {"share": 0.1}, {"path": None}, {"é": "日本"}],
)
def test_an_identity_equals_what_was_stored_of_it(identity):
    stored = json.loads(json.dumps(identity))

    assert same(stored, identity)
    assert difference(stored, identity) == []
    assert digest(stored) == digest(identity)


def test_equal_identities_have_no_difference():
    assert difference({"a": {"b": [1, 2]}}, {"a": {"b": [1, 2]}}) == []
    assert difference({}, {}) == []


def test_nested_fields_are_named_by_their_path():
    there = {"train": {"lr": 0.001, "adam": {"beta": 0.9}}, "seed": 0, "hook": "resid_post.9"}
    wanted = {"train": {"lr": 0.002, "adam": {"beta": 0.99}}, "seed": 0, "hook": "mlp_out.9"}

    assert difference(there, wanted) == [
        "hook: resid_post.9 -> mlp_out.9",
        "train.adam.beta: 0.9 -> 0.99",
        "train.lr: 0.001 -> 0.002",
    ]


@pytest.mark.parametrize(
    ("there", "wanted", "line"),
    [
        ({}, {"a": 1}, "a: absent -> 1"),
        ({"a": 1}, {}, "a: 1 -> absent"),
        ({"a": None}, {}, "a: null -> absent"),
        ({}, {"a": "absent"}, 'a: absent -> "absent"'),
        ({"a": {"b": 1}}, {"a": None}, 'a: {"b": 1} -> null'),
        ({"a": 1}, {"a": 1.0}, "a: 1 -> 1.0"),
        ({"a": "1"}, {"a": 1}, 'a: "1" -> 1'),
        ({"a": True}, {"a": 1}, "a: true -> 1"),
        ({"a": [1, 2]}, {"a": [2, 1]}, "a: [1, 2] -> [2, 1]"),
    ],
)
def test_whatever_changes_the_digest_has_a_line(there, wanted, line):
    assert not same(there, wanted)
    assert difference(there, wanted) == [line]


def test_long_values_are_cut_around_the_place_where_they_differ():
    there = {"a": {"names": [f"package-{i}" for i in range(100)]}}
    wanted = {"a": {"names": [f"package-{i}" for i in range(99)] + ["another"]}}

    (line,) = difference(there, wanted)

    assert line.startswith("a.names: ...")
    assert "package-99" in line
    assert "another" in line
    assert len(line) < 200


def test_a_long_value_against_a_short_one_is_cut_at_its_end():
    (line,) = difference({"a": "x" * 500}, {"a": "y"})

    assert line == f"a: {'x' * 80}... -> y"


def test_a_refusal_names_the_artifact_every_difference_and_what_to_do():
    error = refuse(
        "/runs/a/dictionaries/main",
        {"train": {"lr": 0.001}, "seed": 0},
        {"train": {"lr": 0.002}, "seed": 1},
        "Choose another dictionary.name.",
    )

    assert isinstance(error, IdentityMismatch)
    assert str(error) == (
        "/runs/a/dictionaries/main is already there and was made from something else:\n"
        "  seed: 0 -> 1\n"
        "  train.lr: 0.001 -> 0.002\n"
        "Nothing was changed. Choose another dictionary.name."
    )
