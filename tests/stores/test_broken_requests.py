"""Requests to an S3 server process that break off, through a proxy that breaks them."""

import itertools
from contextlib import contextmanager

import pytest

from bathyscope.stores.objects import Objects
from bathyscope.stores.pointers import Pointer
from broken_proxy import CONFLICT, LANDED, LOST, broken_proxy
from s3_server import BUCKET, environment

_numbers = itertools.count()


@pytest.fixture
def behind(server):
    """A function that gives the same empty folder, directly and through the broken proxy."""

    @contextmanager
    def make(*fates):
        left = list(fates)
        url = f"s3://{BUCKET}/broken-{next(_numbers)}"
        with environment(server):
            direct = Objects(url)
        with broken_proxy(server["AWS_ENDPOINT_URL"], left) as address:
            with environment({**server, "AWS_ENDPOINT_URL": address}):
                yield direct, Objects(url)
            assert left == [], "a fate that no request met"

    return make


@pytest.mark.parametrize(
    "fates", [(LANDED,), (LOST,), (CONFLICT,), (LOST, LANDED), (CONFLICT, CONFLICT, LANDED)]
)
def test_a_create_that_breaks_off_is_made_once_and_known_to_be_ours(behind, fates):
    with behind(*fates) as (direct, broken):
        assert broken.create("k", b"mine")
        assert direct.get("k") == b"mine"


@pytest.mark.parametrize("fate", [LANDED, LOST, CONFLICT])
def test_a_create_that_breaks_off_never_takes_what_is_anothers(behind, fate):
    with behind(fate) as (direct, broken):
        direct.create("k", b"theirs")

        assert not broken.create("k", b"mine")
        assert direct.get("k") == b"theirs"


@pytest.mark.parametrize("fates", [(LANDED,), (LOST,), (CONFLICT,), (CONFLICT, LANDED)])
def test_a_swap_that_breaks_off_happens_once(behind, fates):
    with behind(*fates) as (direct, broken):
        held = Pointer(direct, "p").swap(None, {"n": 1})

        after = Pointer(broken, "p").swap(held, {"n": 2})

        assert Pointer(direct, "p").read() == after
        assert after.value == {"n": 2}


@pytest.mark.parametrize("fate", [LANDED, LOST, CONFLICT])
def test_a_swap_that_breaks_off_loses_to_one_that_came_before(behind, fate):
    with behind(fate) as (direct, broken):
        held = Pointer(direct, "p").swap(None, {"n": 1})
        Pointer(direct, "p").swap(held, {"n": "theirs"})

        assert Pointer(broken, "p").swap(held, {"n": 2}) is None
        assert Pointer(direct, "p").read().value == {"n": "theirs"}
