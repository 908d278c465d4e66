"""An S3 server that is away for seconds, or refuses: through a proxy that fails as it is told."""

import itertools
import time

import pytest
from chaos_store import ChaosStore, chaos_proxy

from bathyscope.errors import StoreError
from bathyscope.stores.objects import Objects
from bathyscope.stores.shards import ArraySpec, create_array
from s3_server import BUCKET, environment

_numbers = itertools.count()
# More than the eight attempts of a second and a quarter, after which requests once failed.
OUTAGE_S = 2.5

ASKS = {
    "get": lambda objects: objects.get("a/k"),
    "get_range": lambda objects: objects.get_range("a/k", 0, 1),
    "size": lambda objects: objects.size("a/k"),
    "walk": lambda objects: list(objects.walk()),
    "children": lambda objects: objects.children(),
    "files": lambda objects: objects.files("a"),
    "put": lambda objects: objects.put("a/k", b"v"),
    "create": lambda objects: objects.create("a/new", b"v"),
    "delete": lambda objects: objects.delete("a/k"),
    "delete_many": lambda objects: objects.delete_many(["a/k", "a/l"]),
}


@pytest.fixture
def store():
    return ChaosStore()


@pytest.fixture
def objects(server, store):
    with chaos_proxy(server["AWS_ENDPOINT_URL"], store, "127.0.0.1") as address:
        with environment({**server, "AWS_ENDPOINT_URL": address}):
            made = Objects(f"s3://{BUCKET}/outage-{next(_numbers)}")
        made.put("a/k", b"v")
        yield made


@pytest.mark.parametrize("ask", ["get", "walk", "create", "delete_many"])
def test_requests_wait_for_a_store_that_is_away_for_seconds(objects, store, ask):
    store.hinder("unavailable", OUTAGE_S)
    started = time.monotonic()
    ASKS[ask](objects)
    assert time.monotonic() - started > OUTAGE_S
    assert store.requests["unavailable"] > 0


@pytest.mark.parametrize("ask", ASKS)
def test_a_refused_request_is_an_explained_error(objects, store, ask):
    store.fail("denied", 10)
    with pytest.raises(StoreError, match=r"cannot be written or read: .*connection"):
        ASKS[ask](objects)


@pytest.mark.parametrize("fate", ["lost", "landed"])
@pytest.mark.parametrize("ask", ASKS)
def test_a_request_that_breaks_off_is_made_again(objects, store, ask, fate):
    store.fail(fate, 2)
    ASKS[ask](objects)
    assert store.requests[fate] > 0


def test_the_groups_of_an_array_are_written_through_conflicts(objects, store):
    spec = ArraySpec("x", (3,), "uint16", "uint16", 2, 4)
    store.fail("conflict", 4)
    create_array(objects.at("a.zarr"), "seg", spec, capacity=8)
    assert store.requests["conflict"] == 4
    keys = {key for key, _ in objects.walk() if key.endswith("zarr.json")}
    assert keys == {f"{at}zarr.json" for at in ("", "a.zarr/", "a.zarr/x/", "a.zarr/x/seg/")}
