import errno
import os

import pytest

from bathyscope.errors import StoreError
from bathyscope.stores import files
from bathyscope.stores.objects import Objects


def test_pieces_are_written_in_order_however_many_there_are(tmp_path):
    # More than one call of writev takes.
    pieces = [bytes([i % 251]) * (i % 3) for i in range(3000)]

    assert files.write(tmp_path / "deep/er/f", pieces, create=False, fsync=True)

    assert (tmp_path / "deep/er/f").read_bytes() == b"".join(pieces)


def test_a_file_that_is_there_is_not_created_again_and_no_other_is_left(tmp_path):
    path = tmp_path / "f"

    assert files.write(path, [b"one"], create=True, fsync=False)
    assert not files.write(path, [b"two"], create=True, fsync=True)
    assert path.read_bytes() == b"one"
    assert files.write(path, [b"three"], create=False, fsync=False)
    assert path.read_bytes() == b"three"
    assert os.listdir(tmp_path) == ["f"]


def test_buffers_are_filled_from_a_place_until_the_end(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(bytes(range(100)))
    first, empty, last = bytearray(3), bytearray(0), bytearray(5)

    assert files.read_into(path, 95, [memoryview(b) for b in (first, empty, last)]) == 5
    assert (first, last) == (bytes([95, 96, 97]), bytes([98, 99, 0, 0, 0]))
    many = [bytearray(1) for _ in range(100)]
    assert files.read_into(path, 0, [memoryview(b) for b in many]) == 100
    assert b"".join(many) == bytes(range(100))


@pytest.mark.parametrize("call", ["writev", "fsync", "link"])
def test_a_full_disk_is_explained_and_leaves_nothing(tmp_path, monkeypatch, call):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    objects = Objects(str(tmp_path))
    monkeypatch.setattr(os, call, full)

    with pytest.raises(StoreError, match=r"c\.0 .* No space left on device\. Check free space"):
        objects.create("seg/c.0", b"data", fsync=True)
    assert os.listdir(tmp_path / "seg") == []


@pytest.fixture
def swept(tmp_path, monkeypatch):
    """A function that is called when a file is written; its temporary file is then removed."""
    close = os.close
    then = []

    def close_and_sweep(descriptor):
        close(descriptor)
        for temporary in tmp_path.glob("x#*"):
            temporary.unlink()
        for call in then:
            call()

    monkeypatch.setattr(files.os, "close", close_and_sweep)
    return then.append


@pytest.mark.usefixtures("swept")
@pytest.mark.parametrize("create", [True, False])
def test_a_writer_whose_temporary_file_was_swept_is_told(tmp_path, create):
    with pytest.raises(OSError, match="x was being written when another run finished here"):
        files.write(tmp_path / "x", [b"1"], create=create, fsync=False)


def test_a_swept_writer_finds_what_another_one_created(tmp_path, swept):
    path = tmp_path / "x"
    swept(lambda: path.write_bytes(b"2"))

    assert not files.write(path, [b"1"], create=True, fsync=False)
    assert path.read_bytes() == b"2"
