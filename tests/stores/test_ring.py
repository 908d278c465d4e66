import threading
import time

import pytest

from bathyscope.errors import StoreError
from bathyscope.stores.ring import Ring


def test_a_buffer_that_was_given_back_is_taken_again():
    ring = Ring(100)
    first = ring.take(40)
    ring.give(first)

    assert ring.take(40).data_ptr() == first.data_ptr()
    assert ring.made_bytes == 40
    assert len(ring.take(60)) == 60
    assert ring.made_bytes == 100
    assert ring.waited_s < 0.1


def test_buffers_of_another_size_make_room():
    ring = Ring(100)
    ring.give(ring.take(50))
    ring.give(ring.take(50))

    assert len(ring.take(80)) == 80
    assert ring.made_bytes == 80


def test_more_than_the_ring_holds_is_refused_at_once():
    with pytest.raises(StoreError, match=r"101 bytes .* holds 100\. Set a larger hooks\.ring_b"):
        Ring(100).take(101)


def test_who_finds_no_room_waits_until_there_is_some():
    ring = Ring(100)
    held = ring.take(70)
    taken = []
    waiting = threading.Thread(target=lambda: taken.append(ring.take(60)))
    waiting.start()
    time.sleep(0.1)
    assert taken == []
    assert ring.waited_s > 0.05, "also before it is over"

    ring.give(held)
    waiting.join(5)

    assert [len(t) for t in taken] == [60]
    assert ring.made_bytes == 60
    assert ring.waited_s >= 0.1
