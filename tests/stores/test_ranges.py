import io
import os

import pytest

from bathyscope.errors import MissingArtifact
from bathyscope.stores.ranges import ObjectFile

DATA = bytes(range(100))


@pytest.fixture
def asked():
    return []


@pytest.fixture
def file(asked):
    """DATA as a file, and which ranges were asked for."""

    def read(start, buffer):
        asked.append((start, len(buffer)))
        buffer[:] = DATA[start : start + len(buffer)]

    return ObjectFile(len(DATA), read)


def test_only_the_ranges_that_are_wanted_are_asked_for(file, asked):
    file.seek(-10, os.SEEK_END)
    assert file.read(4) == DATA[90:94]
    file.seek(-2, os.SEEK_CUR)
    assert file.read(3) == DATA[92:95]
    file.seek(5)
    assert file.read(1) == DATA[5:6]
    assert file.tell() == 6
    assert asked == [(90, 4), (92, 3), (5, 1)]


def test_it_ends_where_the_object_ends(file, asked):
    file.seek(98)
    assert file.read(10) == DATA[98:]
    assert file.read(10) == b""
    file.seek(1000)
    assert file.read(1) == b""
    assert asked == [(98, 2)]


def test_a_place_before_the_start_is_the_start(file):
    assert file.seek(-5, os.SEEK_CUR) == 0
    assert file.readall() == DATA


def test_it_can_be_buffered(file, asked):
    buffered = io.BufferedReader(file, 64)
    assert buffered.read(10) + buffered.read(10) == DATA[:20]
    assert len(asked) == 1


def test_objects_open_as_files_on_every_store(objects):
    objects.put("a/b", DATA)

    with objects.open("a/b") as opened:
        opened.seek(50)
        assert opened.read(5) == DATA[50:55]
        opened.seek(0)
        assert opened.read() == DATA
    with pytest.raises(MissingArtifact, match="no object 'a/c'"):
        objects.open("a/c")
