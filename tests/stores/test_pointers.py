import threading

import pytest

from bathyscope.stores.objects import Objects
from bathyscope.stores.pointers import Pointer


def test_a_pointer_holds_what_the_last_swap_gave_it(objects):
    pointer = Pointer(objects, "a/p")
    assert pointer.read() is None

    first = pointer.swap(None, {"x": 1})
    second = pointer.swap(first, {"x": 2})

    assert first.value == {"x": 1}
    assert pointer.read() == second
    assert Pointer(objects, "a/p").read().value == {"x": 2}


def test_a_swap_of_what_is_no_longer_there_changes_nothing(objects):
    pointer = Pointer(objects, "p")
    first = pointer.swap(None, {"x": 1})
    pointer.swap(first, {"x": 2})

    assert pointer.swap(None, {"x": 3}) is None
    assert pointer.swap(first, {"x": 3}) is None
    assert pointer.read().value == {"x": 2}


def test_equal_values_of_two_writers_are_two_changes(objects):
    pointer = Pointer(objects, "p")
    pointer.swap(None, {"x": 1})

    assert pointer.swap(None, {"x": 1}) is None


def test_a_deleted_pointer_starts_anew(objects):
    pointer = Pointer(objects, "p")
    held = pointer.swap(None, {"x": 1})
    pointer.delete()
    pointer.delete()

    assert pointer.read() is None
    assert pointer.swap(None, {"x": 2}).value == {"x": 2}
    assert list(objects.walk()) != []
    assert held.value == {"x": 1}


def test_many_changes_leave_few_objects_and_a_slow_writer_still_loses(disk):
    pointer = Pointer(disk, "p")
    held = old = pointer.swap(None, {"x": 0})
    for number in range(80):
        held = pointer.swap(held, {"x": number})

    assert len(disk.files("p")) == 64
    # Number 2 has been trimmed away, so its creation succeeds and must not count.
    assert pointer.swap(old, {"x": "stale"}) is None
    assert pointer.read().value == {"x": 79}
    assert len(disk.files("p")) == 64


def test_a_swap_counts_when_another_process_builds_on_it_before_the_look(disk, monkeypatch):
    pointer = Pointer(disk, "p")
    first = pointer.swap(None, {"x": 1})
    create = Objects.create

    def overtaken(self, key, data, **options):
        made = create(self, key, data, **options)
        monkeypatch.setattr(Objects, "create", create)
        other = Pointer(disk, "p")
        other.swap(other.read(), {"x": 3})
        return made

    monkeypatch.setattr(Objects, "create", overtaken)

    assert pointer.swap(first, {"x": 2}).value == {"x": 2}
    assert pointer.read().value == {"x": 3}


def test_a_swap_of_a_pointer_that_began_anew_does_not_count(disk):
    pointer = Pointer(disk, "p")
    held = pointer.swap(pointer.swap(None, {"x": 1}), {"x": 2})
    pointer.delete()
    new = pointer.swap(None, {"x": "new"})

    assert pointer.swap(held, {"x": 3}) is None
    assert pointer.read() == new


def test_a_change_is_tried_again_until_nobody_interferes(objects):
    pointer = Pointer(objects, "p")
    seen = []

    def add(value):
        seen.append(value)
        if len(seen) == 1:
            Pointer(objects, "p").swap(None, {"x": 10})
        return {"x": (value or {"x": 0})["x"] + 1}

    assert pointer.change(add) == {"x": 11}
    assert seen == [None, {"x": 10}]
    assert pointer.change(lambda value: None) is None
    assert pointer.read().value == {"x": 11}


def test_no_change_of_many_threads_is_lost(objects):
    def count():
        pointer = Pointer(Objects(objects.url, store=objects._store), "p")
        for _ in range(10):
            pointer.change(lambda value: {"n": (value or {"n": 0})["n"] + 1})

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert Pointer(objects, "p").read().value == {"n": 40}


def test_only_object_stores_compare_etags(disk):
    assert not disk.has_updates
    with pytest.raises(AssertionError):
        disk.update("k", b"1", None)
