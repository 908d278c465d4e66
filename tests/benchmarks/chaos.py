#!/usr/bin/env python
"""Nights survive it when workers, nodes, network, driver and storage of a Ray cluster fail.

    python tests/benchmarks/chaos.py [--folder FOLDER] [--seeds 30] [--tries N] [--results FILE]

Three Ray nodes, each in a network namespace of its own with a name of its own, so that each is a
host that can be killed and cut off; a server that speaks S3 behind a proxy that fails. A night of
three checkpoints of a small ladder model is done once in quiet, in a process of its own, and once
per seed over the cluster. A seed draws four faults: one that strikes while the put of a shard is
held open (SIGKILL of the worker, loss of its node, its cable pulled), one of workers, nodes,
network and driver, one of the storage (requests lost, answers lost, 409, 503, slow), and any other.
A command that was killed or that failed is given again, as a scheduler does.

A seed survives when the night is published without a failure, everything that it made has the
digests of the quiet night (shards, tables, statistics, examples, comparisons, manifests; times,
hosts and attempts aside), and every unit has one receipt.

Each seed's schedule and outcome are appended to the results, and seeds that are there are not run
again: the script goes on where it was stopped. `--tries N` does no more than N seeds now,
`--replay 7` does seed 7 again as it was saved. It takes root and `ip` (iproute2).
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import net_nodes
from chaos_night import Outcome, night, prepare, published
from chaos_schedule import Fault, as_json, from_json, schedule_of
from chaos_seed import NightUnderWay, Striker
from chaos_store import ChaosStore, chaos_proxy
from ray_hosts import RayHosts

from bathyscope.errors import BathyscopeError
from bathyscope.stores.objects import Objects
from bench import COMMIT, conclude, folder
from s3_server import BUCKET, environment, s3_server

NETWORK, SUBNET, NODES = "chaos", "10.231.77", 3
LONGEST_S = 240
Results = dict[int, dict[str, Any]]


class Stage:
    """What all seeds share: the cluster, the storage, and the quiet night."""

    def __init__(self, base: Path, nodes: RayHosts, store: ChaosStore) -> None:
        self.base, self.nodes, self.store = base, nodes, store
        self.quiet: dict[str, str] = {}
        self.units = 0

    def do_quiet(self) -> None:
        """The night without a fault, in one process of its own."""
        url = f"s3://{BUCKET}/quiet"
        log = self.base / "quiet.log"
        with log.open("ab") as out:
            words = night(self.base, url, "cluster=inline")
            subprocess.run(words, check=True, stdout=out, stderr=out)
        found = Outcome(url)
        assert not found.wrong, found.wrong
        self.quiet, self.units = found.digests, found.units
        kept = {"commit": COMMIT, "units": found.units, "digests": found.digests}
        (self.base / "quiet.json").write_text(json.dumps(kept, indent=1))
        # The server keeps everything in memory, and a listing goes through all of it.
        Objects(url).delete_folder("")

    def try_seed(self, seed: int, faults: list[Fault], through: dict[str, str]) -> dict[str, Any]:
        """A night under the faults of a seed, and what came of it."""
        url = f"s3://{BUCKET}/seed-{seed}"
        self.store.receipts.clear()
        self.store.requests.clear()
        cluster = ("cluster=address", f"cluster.address={self.nodes.address}")
        words = night(
            self.base, url, *cluster, f"cluster.workers={NODES}", "cluster.max_failures=10",
            "cluster.start_s=60",
        )  # fmt: skip
        starts, started = self.nodes.starts, time.monotonic()
        under_way = NightUnderWay(self.nodes, words, self.base / f"seed-{seed}.log", through)
        striker = Striker(under_way, self.store, self.units)

        def until(over: Callable[[], bool]) -> None:
            while not over() and not under_way.ended and time.monotonic() - started < LONGEST_S:
                under_way.look()
                time.sleep(0.05)

        try:
            striker.strike_all(faults, until)
            until(lambda: False)
        finally:
            under_way.close()
            self.store.calm()
        seconds = round(time.monotonic() - started, 1)
        found = {
            "seed": seed,
            **self._judged(url, well=under_way.well),
            "in_flight": sum("in_flight" in one and one["hit"] for one in striker.struck),
            "struck": striker.struck,
            "commands": under_way.commands,
            "exit_codes": under_way.codes,
            "nodes_started_again": self.nodes.starts - starts,
            "requests": dict(self.store.requests),
            "seconds": seconds,
            "faults": as_json(faults),
            "commit": COMMIT,
        }
        Objects(url).delete_folder("")
        return found

    def _judged(self, url: str, *, well: bool) -> dict[str, Any]:
        """Whether the night is the quiet one."""
        if not well:
            return {"survived": False, "why": ["the command did not end well"]}
        try:
            found, last = Outcome(url), published(url)
        except BathyscopeError as error:
            return {"survived": False, "why": [f"{type(error).__name__}: {error}"]}
        why = [*found.wrong, *(f"{k} failed" for k in last["failed"])]
        why += [f"{k} is missing" for k in self.quiet if k not in found.digests]
        both = self.quiet.keys() & found.digests.keys()
        why += [f"{k} differs" for k in sorted(both) if self.quiet[k] != found.digests[k]]
        more = sorted(found.digests.keys() - self.quiet.keys())
        return {
            "survived": not why,
            "why": why[:20],
            "units": found.units,
            "nights": last["night"],
            "digests": len(found.digests),
            "left_over": more[:20],
        }


def main() -> None:
    """All seeds that are not in the results yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="where model, logs and results are kept")
    parser.add_argument("--results", type=Path, help="JSON lines, one per seed")
    parser.add_argument("--seeds", default="30", help="how many, or FIRST:END")
    parser.add_argument("--tries", type=int, help="do no more seeds than these now")
    parser.add_argument("--replay", type=int, metavar="SEED", help="do a saved seed again")
    given = parser.parse_args()
    reason = net_nodes.why_not()
    if reason is not None:
        sys.exit(f"The chaos test cannot be run here: {reason}. Nothing was started.")
    # Hosts and servers are taken away also when this process is told to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    first, _, end = given.seeds.rpartition(":")
    seeds = list(range(int(first or 0), int(end)))
    with folder(given.folder) as base:
        base = base.absolute()
        results = given.results or base / "chaos.jsonl"
        lines = results.read_text().splitlines() if results.exists() else []
        done: Results = {one["seed"]: one for one in map(json.loads, lines)}
        left = [seed for seed in seeds if seed not in done][: given.tries]
        if given.replay is not None:
            seeds = left = [given.replay]
        if left:
            _try_all(left, base, results, done)
    _tell([done[seed] for seed in seeds if seed in done])


def _try_all(seeds: list[int], base: Path, results: Path, done: Results) -> None:
    prepare(base)
    store = ChaosStore()
    with (
        net_nodes.network(NETWORK, NODES, SUBNET) as (here, hosts),
        s3_server(base / "s3.log") as server,
        environment(server),
        chaos_proxy(server["AWS_ENDPOINT_URL"], store, here) as proxy,
    ):
        through = {
            **server, "AWS_ENDPOINT_URL": proxy, "RAY_AUTH_MODE": "disabled",
            "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        nodes = RayHosts(hosts, base / "ray", through)
        stage = Stage(base, nodes, store)
        stage.do_quiet()
        for seed in seeds:
            saved = base / "schedules" / f"{seed}.json"
            one = stage.try_seed(seed, _schedule(seed, saved), through)
            done[seed] = one
            with results.open("a") as file:
                file.write(json.dumps(one) + "\n")
            kinds = ", ".join(f["kind"] + ("" if f["hit"] else " (missed)") for f in one["struck"])
            print(
                f"seed {seed}: {'survived' if one['survived'] else 'LOST'} in {one['seconds']} s; "
                f"{one['commands']} command(s); {kinds}" + "".join(f"\n  {w}" for w in one["why"]),
                flush=True,
            )


def _schedule(seed: int, saved: Path) -> list[Fault]:
    """What was saved of a seed, or what is drawn from it and saved."""
    if saved.exists():
        return from_json(json.loads(saved.read_text()))
    faults = schedule_of(seed, NODES - 1)
    saved.parent.mkdir(exist_ok=True)
    saved.write_text(json.dumps(as_json(faults), indent=1))
    return faults


def _tell(shown: list[dict[str, Any]]) -> None:
    hits = [one for seed in shown for one in seed["struck"] if one["hit"]]
    conclude(
        {
            "tried": len(shown),
            "survived": sum(one["survived"] for one in shown),
            "in_flight": sum(one["in_flight"] for one in shown),
            "faults": len(hits),
            "kinds": {
                kind: n
                for kind in sorted({h["kind"] for h in hits})
                if (n := sum(h["kind"] == kind for h in hits))
            },
            "commands": sum(one["commands"] for one in shown),
            "more_than_one_night": sum(one.get("nights", 1) > 1 for one in shown),
            "left_over": sum(len(one.get("left_over", ())) for one in shown),
            "seconds": round(sum(one["seconds"] for one in shown), 1),
            "commits": sorted({one["commit"] for one in shown}),
        }
    )


if __name__ == "__main__":
    main()
