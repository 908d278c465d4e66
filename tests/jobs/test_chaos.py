"""What the chaos test of nights is made of: its schedules, hosts, storage, and its judge."""

import shutil
import socket
import sys
import threading
from pathlib import Path

import chaos_schedule
import net_nodes
import pytest
from chaos_night import Outcome
from chaos_schedule import KINDS, as_json, from_json, schedule_of
from chaos_store import ChaosStore, chaos_proxy

from bathyscope.errors import MissingArtifact
from bathyscope.stores.objects import Objects
from s3_server import BUCKET, environment, s3_server

REASON = net_nodes.why_not()
SHARD = "x.zarr/a/c.0.0"
SUBNET = "10.231.79"


def test_a_schedule_follows_from_its_seed_and_is_read_back():
    assert schedule_of(7) == schedule_of(7)
    assert schedule_of(7) != schedule_of(8)
    assert from_json(as_json(schedule_of(7))) == schedule_of(7)


def test_thirty_seeds_hold_every_kind_and_strike_a_write_in_flight_each():
    seeds = [schedule_of(seed) for seed in range(30)]
    assert {fault.kind for faults in seeds for fault in faults} == set(KINDS)
    for faults in seeds:
        assert len(faults) == 4
        assert [f.after for f in faults] == sorted(f.after for f in faults)
        for group in (
            chaos_schedule.IN_FLIGHT,
            chaos_schedule.OF_CLUSTER,
            chaos_schedule.OF_STORAGE,
        ):
            assert any(fault.kind in group for fault in faults)
        assert {fault.node for fault in faults} <= {0, 1}


@pytest.fixture
def hosts():
    if REASON is not None:
        pytest.skip(REASON)
    with net_nodes.network("nettest", 2, SUBNET) as (here, made):
        assert here == f"{SUBNET}.1"
        yield made


def _asks(host, port, log: Path) -> int:
    """Whether a program on a host reaches this machine within a second: its exit code."""
    code = f"import socket; socket.create_connection(('{SUBNET}.1', {port}), 1).close()"
    return host.start([sys.executable, "-c", code], log).wait(30)


def test_a_host_that_is_cut_off_is_not_reached_until_it_is_mended(hosts, tmp_path):
    log = tmp_path / "log"
    with socket.create_server((f"{SUBNET}.1", 0)) as server:
        port = server.getsockname()[1]
        assert _asks(hosts[0], port, log) == 0
        hosts[0].cut()
        assert _asks(hosts[0], port, log) != 0
        assert _asks(hosts[1], port, log) == 0
        hosts[0].mend()
        assert _asks(hosts[0], port, log) == 0


def test_hosts_have_names_and_disks_of_their_own_and_are_killed_whole(hosts, tmp_path):
    script = f'hostname; hostname > "{hosts[0].disk}/said"; sleep 60 & wait'
    started = [host.start(["sh", "-c", script], tmp_path / host.name) for host in hosts]
    wait_until(lambda: all((host.own / "said").exists() for host in hosts))
    assert [(host.own / "said").read_text().strip() for host in hosts] == ["nettest-0", "nettest-1"]
    wait_until(lambda: len(hosts[0].processes()) == 2)
    hosts[0].kill()
    assert hosts[0].processes() == []
    assert started[0].wait(5) == -9
    assert started[1].poll() is None
    hosts[1].kill()
    assert started[1].wait(5) == -9


def test_what_a_killed_run_left_is_removed(hosts, tmp_path):
    left = hosts[0].start(["sleep", "60"], tmp_path / "log")
    wait_until(lambda: len(hosts[0].processes()) == 1)
    net_nodes.remove("nettest")
    assert left.wait(5) == -9
    assert not hosts[0].own.exists()


@pytest.fixture
def behind(tmp_path):
    """A store that fails as it is told, its folder seen through it, and seen directly."""
    store = ChaosStore()
    with (
        s3_server(tmp_path / "log") as server,
        chaos_proxy(server["AWS_ENDPOINT_URL"], store, "127.0.0.1") as proxy,
    ):
        with environment(server):
            direct = Objects(f"s3://{BUCKET}/held")
        with environment({**server, "AWS_ENDPOINT_URL": proxy}):
            through = Objects(f"s3://{BUCKET}/held")
        yield store, through, direct


@pytest.mark.parametrize("lands", [True, False])
def test_the_put_of_a_shard_is_held_until_it_may_go_on(behind, lands):
    store, through, direct = behind
    held = store.hold({"127.0.0.1"}, lands)
    through.put("other", b"passes")
    writer = threading.Thread(target=lambda: through.put(SHARD, b"rows" * 1000))
    writer.start()
    assert held.came.wait(10)
    assert held.key.endswith(SHARD)
    with pytest.raises(MissingArtifact):
        direct.get(SHARD)
    held.goes_on.set()
    writer.join(20)
    # A request that was lost is made again, and is not held a second time.
    assert store.requests["held and lost"] == (not lands)
    assert direct.get(SHARD) == b"rows" * 1000


def test_receipts_that_are_stored_are_seen(behind):
    store, through, _ = behind
    through.create("a/receipts/s/00000000/00000001.json", b"{}")
    through.create("a/leases/s/00000001.json", b"{}")
    assert [key.rsplit("/", 1)[-1] for key in store.receipts] == ["00000001.json"]


def test_the_judge_sees_a_changed_byte_and_a_receipt_that_is_gone(finished_config, tmp_path):
    made = tmp_path / "run"
    shutil.copytree(finished_config.url, made)
    before = Outcome(str(made))
    assert before.wrong == []
    shard = next((made / "activations.zarr").rglob("c.0.0"))
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    receipts = made / "latents.zarr"
    next(receipts.rglob("receipts/**/*.json")).unlink()
    after = Outcome(str(made))
    assert [k for k in before.digests if before.digests[k] != after.digests.get(k, "")] == [
        str(shard.relative_to(made)),
        *[k for k in before.digests if k not in after.digests],
    ]
    [said] = after.wrong
    assert said.startswith("latents.zarr/main has ")


def wait_until(ready):
    """Wait some seconds for it."""
    end = threading.Event()
    for _ in range(100):
        if ready():
            return
        end.wait(0.1)
    raise AssertionError("it did not come")
