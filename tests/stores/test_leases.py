import os
import socket
import subprocess
import sys
import threading
import time

import psutil
import pytest

from bathyscope.errors import LeaseLost
from bathyscope.stores.leases import Holder, Leases, Watch
from bathyscope.stores.pointers import Pointer
from clocks import Clock

FAR = Holder("another-host", 5, 100.0)
FARTHER = Holder("a-third-host", 5, 100.0)


@pytest.fixture
def leases_of(objects, clock):
    """A function that gives the leases of a holder, 100 seconds long, on one clock."""
    return lambda holder: Leases(objects, "seg", holder=holder, seconds=100.0, clock=clock)


def test_a_unit_is_taken_over_from_whoever_holds_it(leases_of):
    lease = leases_of(FAR).claim(3)
    assert leases_of(FARTHER).claim(3) is None

    taken = leases_of(FARTHER).take_over(3)

    assert (taken.term, taken.attempt, taken.holder) == (2, 2, FARTHER)
    with pytest.raises(LeaseLost, match="term 2 by a-third-host"):
        leases_of(FAR).check(lease)
    leases_of(FARTHER).check(taken)
    assert leases_of(FAR).take_over(4).attempt == 1


def test_a_unit_that_is_given_back_is_free_at_once_and_its_terms_go_on(leases_of):
    lease = leases_of(FAR).claim(3)

    leases_of(FAR).give_back(lease)

    taken = leases_of(FARTHER).claim(3)
    assert (taken.term, taken.attempt, taken.holder) == (3, 2, FARTHER)
    with pytest.raises(LeaseLost):
        leases_of(FAR).check(lease)


def test_only_the_holder_gives_a_unit_back(leases_of):
    lease = leases_of(FAR).claim(3)
    taken = leases_of(FARTHER).take_over(3)

    leases_of(FAR).give_back(lease)

    leases_of(FARTHER).check(taken)
    leases_of(FARTHER).release(3)
    leases_of(FARTHER).give_back(taken)
    assert leases_of(FAR).current(3) is None


def test_a_free_unit_is_claimed_with_term_and_attempt_one(leases_of):
    lease = leases_of(FAR).claim(3)

    assert (lease.unit, lease.term, lease.attempt) == (3, 1, 1)
    assert lease.holder == FAR
    assert lease.until == 1100.0
    assert leases_of(FARTHER).current(3) == lease


def test_a_held_unit_is_refused_and_others_are_not(leases_of):
    leases_of(FAR).claim(3)

    assert leases_of(FARTHER).claim(3) is None
    assert leases_of(FARTHER).claim(30).term == 1


@pytest.mark.parametrize(("now", "taken"), [(1099.9, False), (1100.0, True), (9999.0, True)])
def test_a_lease_is_taken_when_its_time_is_over(leases_of, clock, now, taken):
    leases_of(FAR).claim(3)
    clock.now = now

    lease = leases_of(FARTHER).claim(3)

    assert (lease is not None) == taken
    if taken:
        assert (lease.term, lease.attempt) == (2, 2)
        assert lease.until == now + 100.0


def test_the_one_who_lost_it_is_told_by_whom(leases_of, clock):
    lease = leases_of(FAR).claim(3)
    clock.now = 1200.0
    leases_of(FARTHER).claim(3)

    with pytest.raises(LeaseLost, match=r"Unit 3 .* term 1, but is now term 2 by a-third-host"):
        leases_of(FAR).check(lease)


def test_the_first_half_of_the_time_renews_nothing(leases_of, clock, objects):
    lease = leases_of(FAR).claim(3)
    clock.now = 1049.9

    assert leases_of(FAR).check(lease) == lease
    assert len(list(objects.walk("leases"))) == 1


def test_the_second_half_renews_with_another_term_and_the_same_attempt(leases_of, clock):
    leases = leases_of(FAR)
    lease = leases.claim(3)
    for term, now in enumerate((1050.0, 1101.0, 1190.0), start=2):
        clock.now = now
        lease = leases.check(lease)
        assert (lease.term, lease.attempt, lease.until) == (term, 1, now + 100.0)

    assert leases_of(FARTHER).claim(3) is None


def test_an_old_term_is_no_right_after_a_renewal(leases_of, clock):
    leases = leases_of(FAR)
    old = leases.claim(3)
    clock.now = 1060.0
    leases.check(old)

    with pytest.raises(LeaseLost, match="term 2"):
        leases.check(old)


def test_a_lease_that_ran_out_but_was_not_taken_is_renewed(leases_of, clock):
    leases = leases_of(FAR)
    lease = leases.claim(3)
    clock.now = 5000.0

    assert leases.check(lease).until == 5100.0


def test_a_renewal_that_another_worker_overtakes_is_lost(leases_of, clock, monkeypatch):
    leases = leases_of(FAR)
    lease = leases.claim(3)
    clock.now = 1100.0
    before = Pointer(leases._objects, "leases/seg/00000003").read()
    # The other worker takes the unit between the look and the renewal.
    leases_of(FARTHER).claim(3)
    monkeypatch.setattr(Pointer, "read", lambda pointer: before)

    with pytest.raises(LeaseLost, match="Unit 3 was taken while its lease was renewed"):
        leases.check(lease)


def test_a_released_unit_is_free_and_its_lease_is_over(leases_of, objects):
    lease = leases_of(FAR).claim(3)
    leases_of(FAR).claim(4)
    leases_of(FAR).release(3)

    assert leases_of(FAR).current(3) is None
    assert leases_of(FAR).current(4).term == 1
    assert len(list(objects.walk("leases"))) == 1
    with pytest.raises(LeaseLost, match="finished"):
        leases_of(FAR).check(lease)


def test_the_same_term_of_a_stranger_is_no_right(leases_of, clock):
    stale = leases_of(FAR).claim(3)
    clock.now = 2000.0
    leases_of(FARTHER).claim(3)
    leases_of(FARTHER).release(3)
    assert leases_of(FARTHER).claim(3).term == stale.term

    with pytest.raises(LeaseLost, match="term 1 by a-third-host"):
        leases_of(FAR).check(stale)


def test_a_process_may_claim_its_own_unit_again(leases_of):
    first = leases_of(FAR).claim(3)
    second = leases_of(FAR).claim(3)

    assert (second.term, second.attempt) == (2, 2)
    with pytest.raises(LeaseLost):
        leases_of(FAR).check(first)


def test_a_clock_that_jumps_backwards_renews_the_lease_for_those_who_watch(leases_of, clock):
    lease = leases_of(FAR).claim(3)
    clock.now = 10.0

    renewed = leases_of(FAR).check(lease)

    assert (renewed.term, renewed.until) == (2, 110.0)


def test_a_lease_from_the_future_ends_when_it_was_watched_for_its_length(objects):
    # The holder's clock is a year ahead, and its host is gone.
    Leases(objects, "seg", holder=FAR, seconds=100.0, clock=lambda: 3e7).claim(3)
    steady = Clock(5.0)
    waiting = Leases(
        objects, "seg", holder=FARTHER, seconds=30.0, clock=lambda: 10.0, watch=Watch(steady)
    )

    assert waiting.claim(3) is None
    steady.now = 104.9
    assert waiting.claim(3) is None
    steady.now = 105.0
    assert waiting.claim(3).attempt == 2


def test_a_renewal_starts_the_watch_again(objects):
    clock, steady = Clock(), Clock(5.0)
    holder = Leases(objects, "seg", holder=FAR, seconds=100.0, clock=clock)
    lease = holder.claim(3)
    waiting = Leases(objects, "seg", holder=FARTHER, clock=clock, watch=Watch(steady))
    assert waiting.claim(3) is None
    steady.now = clock.now = 60.0
    holder.check(lease)
    steady.now = 104.9
    assert waiting.claim(3) is None
    steady.now = 160.0
    assert waiting.claim(3) is None
    steady.now = 204.9

    assert waiting.claim(3).attempt == 2


def test_a_clock_that_jumps_forwards_gives_the_unit_to_one_worker(leases_of, clock):
    held = leases_of(FAR).claim(3)
    clock.now = 1e9
    taken = leases_of(FARTHER).claim(3)
    clock.now = 1000.0

    assert leases_of(FARTHER).check(taken).attempt == 2
    assert leases_of(FAR).claim(3) is None
    with pytest.raises(LeaseLost):
        leases_of(FAR).check(held)


def test_this_process_is_alive_and_tells_itself_from_a_later_one():
    this = Holder.this_process()

    assert this.pid == os.getpid()
    assert this.host == socket.gethostname()
    assert not this.is_dead()
    assert Holder(this.host, this.pid, this.started - 60.0).is_dead()


def test_processes_of_other_hosts_are_never_called_dead():
    assert not Holder("another-host", 2**22 - 1, 0.0).is_dead()


@pytest.mark.parametrize("reaped", [True, False], ids=["gone", "zombie"])
def test_a_lease_of_a_killed_process_is_void_at_once(leases_of, reaped):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        started = psutil.Process(process.pid).create_time()
        holder = Holder(socket.gethostname(), process.pid, started)
        leases_of(holder).claim(3)
        assert leases_of(FAR).claim(3) is None

        process.kill()
        if reaped:
            process.wait()
        else:
            while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.01)

        assert leases_of(FAR).claim(3).attempt == 2
    finally:
        process.kill()
        process.wait()


def test_one_thread_of_many_wins_every_race(objects):
    holders = [Holder("another-host", number, 0.0) for number in range(6)]
    rounds = 40
    barrier = threading.Barrier(len(holders))
    won = [[] for _ in range(rounds)]

    def race(holder):
        leases = Leases(objects, "seg", holder=holder)
        for unit in range(rounds):
            barrier.wait()
            if leases.claim(unit) is not None:
                won[unit].append(holder)

    threads = [threading.Thread(target=race, args=(holder,)) for holder in holders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [len(winners) for winners in won] == [1] * rounds


def test_one_thread_of_many_takes_a_lease_that_ran_out(objects):
    holders = [Holder("another-host", number, 0.0) for number in range(6)]
    rounds = 40
    for unit in range(rounds):
        Leases(objects, "seg", holder=FAR, clock=lambda: 0.0).claim(unit)
    barrier = threading.Barrier(len(holders))
    won = []

    def race(holder):
        leases = Leases(objects, "seg", holder=holder)
        for unit in range(rounds):
            barrier.wait()
            lease = leases.claim(unit)
            if lease is not None:
                won.append((unit, lease.term))

    threads = [threading.Thread(target=race, args=(holder,)) for holder in holders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(won) == [(unit, 2) for unit in range(rounds)]


def test_processes_share_units_without_doing_one_twice(disk):
    code = (
        "import sys; from bathyscope.stores.leases import Leases\n"
        "from bathyscope.stores.objects import Objects\n"
        "leases = Leases(Objects(sys.argv[1]), 'seg'); print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "print(*[unit for unit in range(60) if leases.claim(unit)])\n"
        "sys.stdout.flush(); sys.stdin.readline()"
    )
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code, disk.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    # None may end before all are done: the leases of a dead process are void.
    claimed = [worker.stdout.readline().split() for worker in workers]
    for worker in workers:
        worker.communicate("end\n")

    assert sorted(int(u) for units in claimed for u in units) == list(range(60))
