"""The lease of a night, which two threads of its holder confirm."""

import time

import pytest

from bathyscope.errors import LeaseLost
from bathyscope.stages.nights.lease import one_night
from bathyscope.stores.leases import Leases
from bathyscope.stores.objects import Objects


class FarAway(Objects):
    """A store whose answers take their time."""

    def get_tagged(self, key):
        found = super().get_tagged(key)
        time.sleep(0.03)
        return found


def test_a_night_that_looks_all_the_time_does_not_lose_its_lease_to_itself():
    objects = FarAway("memory://night-lease")
    end = time.monotonic() + 2.0
    # Renewed at half its time by whoever looks first: dozens of times here.
    with one_night(objects, seconds=0.4) as holding:
        while time.monotonic() < end:
            holding.check()


@pytest.mark.parametrize("looks", [True, False])
def test_a_lease_that_was_taken_stays_with_who_took_it(looks):
    objects = Objects(f"memory://night-lease-taken-{looks}")
    leases = Leases(objects, "night")
    with one_night(objects, seconds=60.0) as holding:
        taken = leases.take_over(0)
        if looks:
            with pytest.raises(LeaseLost):
                holding.check()
    assert leases.current(0) == taken
