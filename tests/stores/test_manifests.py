import json

import pytest

from bathyscope.errors import FormatVersionError, MissingArtifact, StoreError
from bathyscope.stores import manifests
from bathyscope.stores.manifests import COMPLETE, OPEN, Manifest, every, latest, publish


def test_an_empty_folder_has_no_manifest(objects):
    assert latest(objects) is None
    assert latest(objects, state=COMPLETE) is None
    assert list(every(objects)) == []


def test_manifests_are_numbered_from_one_and_the_highest_counts(objects, small_segment):
    publish(objects, Manifest(OPEN, {"a": 1}, (small_segment,)))
    publish(objects, Manifest(COMPLETE, {"a": 1}, (small_segment,), {"rows": 20}))
    published = publish(objects, Manifest(OPEN, {"a": 2}, ()))

    assert published.number == 3
    assert latest(objects) == published
    assert [m.number for m in every(objects)] == [3, 2, 1]
    assert objects.files("manifests") == ["00000001.json", "00000002.json", "00000003.json"]


def test_readers_find_the_newest_complete_one(objects, small_segment):
    publish(objects, Manifest(COMPLETE, {"a": 1}, (small_segment,), {"rows": 20}))
    publish(objects, Manifest(OPEN, {"a": 2}, ()))

    found = latest(objects, state=COMPLETE)

    assert found == Manifest(COMPLETE, {"a": 1}, (small_segment,), {"rows": 20}, 1)


def test_numbers_are_compared_as_numbers(objects):
    for number in range(12):
        publish(objects, Manifest(OPEN, {"a": number}, ()))

    assert latest(objects).identity == {"a": 11}


def test_only_one_of_two_publishers_wins(objects, monkeypatch):
    publish(objects, Manifest(OPEN, {"a": 0}, ()))
    before = latest(objects)
    winner = publish(objects, Manifest(OPEN, {"a": 1}, ()))

    # The loser looked before the winner published.
    monkeypatch.setattr(manifests, "latest", lambda objects: before)
    with pytest.raises(StoreError, match=r"published manifest 2 .* stop one of them"):
        publish(objects, Manifest(OPEN, {"a": 2}, ()))
    monkeypatch.undo()

    assert latest(objects) == winner


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_an_unknown_format_is_refused_and_never_overwritten(objects, version):
    publish(objects, Manifest(OPEN, {}, ()))
    record = json.loads(objects.get("manifests/00000001.json"))
    objects.put(
        "manifests/00000002.json", json.dumps({**record, "format_version": version}).encode()
    )

    with pytest.raises(FormatVersionError, match=f"format version {version}; .* reads version 1"):
        latest(objects)
    with pytest.raises(FormatVersionError):
        publish(objects, Manifest(OPEN, {}, ()))


def test_a_segment_holds_the_padded_rows_of_all_its_units(small_segment):
    assert small_segment.plan.num_units == 3
    assert small_segment.capacity("wide") == 24


def test_a_missing_array_is_named_with_those_there_are(small_segment):
    assert small_segment.array("narrow").dtype == "uint32"
    with pytest.raises(MissingArtifact, match=r"no array 'values'. It has: wide, narrow"):
        small_segment.array("values")
    with pytest.raises(MissingArtifact, match="It has: none"):
        manifests.Segment("bare", small_segment.plan).array("values")
