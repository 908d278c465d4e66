"""The night of the chaos test: a few checkpoints of a ladder model, some files of text, small.

And what must come of it whatever fails: the digests of everything that the night made, without
what tells of times, hosts and attempts.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from bathyscope.corpora.documentation import documentation
from bathyscope.runs.run import Run
from bathyscope.stores.manifests import COMPLETE, OPEN, every, latest
from bathyscope.stores.objects import Objects
from bathyscope.stores.receipts import Receipts
from bathyscope.stores.stored_receipts import StoredReceipts

NIGHT_LEASE_S, UNIT_LEASE_S = 10.0, 6.0
"""Short, so that what a killed command or node held is free again within seconds."""
CHECKPOINTS = 3
FILES, DOCUMENTS = 3, 24
_MODEL = "llama-0.08M-seed0"
# Of one run only, by whom and when.
_TOLD = {"started", "finished", "host", "steps", "writer", "term", "mtime_ns", "notes"}
_PASSING = ("events/", "/leases/", "heartbeat.json", "/receipts/", "/manifests/", "index.html")


def command(*words: str) -> list[str]:
    """The command line of this environment's `bathyscope`."""
    return [sys.executable, "-m", "bathyscope.cli", *words]


def prepare(base: Path) -> None:
    """Ladder, dictionary, checkpoints and texts, unless they are there."""
    done = base / "prepared"
    if done.exists():
        return
    prose = [d.text for d in documentation(["stdlib"], cache_folder=base)]
    pieces = [text[i : i + 900] for text in prose for i in range(0, len(text), 900)]
    _write(base / "main.jsonl", pieces[-600:])
    for number in range(FILES):
        _write(base / "inbox" / f"{number}.jsonl", pieces[number * DOCUMENTS :][:DOCUMENTS])
    text = ["data=jsonl", f"data.paths=[{base}/main.jsonl]", "data.sequence_length=32"]
    here = ["cluster=inline", "cluster.threads=1"]
    rung = "{parameters: 80000, width: 32, layers: 4, heads: 2}"
    ladder = command(
        "ladder", "ladder=cpu", "data=jsonl", f"data.paths=[{base}/main.jsonl]",
        "data.packages=[]", "data.train_tokens=60000", "data.held_out_tokens=4000",
        "data.sequence_length=64", "ladder.families=[llama]", f"ladder.rungs=[{rung}]",
        "ladder.seeds=[0]", "ladder.tokens=60000", "ladder.vocabulary=512", "ladder.checkpoints=3",
        *here, f"url={base / 'ladder'}",
    )  # fmt: skip
    subprocess.run(ladder, check=True)
    steps = sorted((base / "ladder" / "ladder" / _MODEL).glob("step-*"))
    for step in steps[-CHECKPOINTS:]:
        shutil.copytree(step, base / "checkpoints" / step.name, dirs_exist_ok=True)
    for stage in ("corpus", "harvest", "train"):
        words = command(
            stage, "model=folder", f"model.path={steps[-1]}", "model.dtype=float32", *text,
            "data.train_tokens=20000", "data.held_out_tokens=3000", "hooks.points=[resid_post.1]",
            "dictionary.num_latents=128", "dictionary.k=8", "train.batch_rows=512",
            *here, f"url={base / 'main'}",
        )  # fmt: skip
        subprocess.run(words, check=True)
    done.touch()


def night(base: Path, url: str, *cluster: str) -> list[str]:
    """The command of the night."""
    return command(
        "nightly", "model=folder", "model.dtype=float32", "data=jsonl",
        f"data.paths=[{base}/inbox/*.jsonl]", "data.sequence_length=32",
        "hooks.points=[resid_post.1]", "hooks.batch_items=8", f"dictionary.run={base / 'main'}",
        f"nightly.checkpoints=[{base / 'checkpoints'}]", "nightly.settle_s=0",
        f"nightly.newest={CHECKPOINTS}", "nightly.keep_latents=all",
        "nightly.keep_activations=true", f"nightly.lease_s={NIGHT_LEASE_S}",
        f"store.lease_s={UNIT_LEASE_S}",
        "store.items_per_unit=64", "store.chunk_bytes=32768", "store.shard_bytes=131072",
        "evaluate.splice_tokens=200", "evaluate.resamples=50", "describe.top_examples=3",
        "describe.sampled_examples=8", f"cache={base / 'cache'}", "cluster.threads=1", *cluster,
        f"url={url}",
    )  # fmt: skip


class Outcome:
    """What lies in a folder of nights."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._objects = Objects(url)
        self.digests: dict[str, str] = {}
        self.units = 0
        self.wrong: list[str] = []
        """Artifacts that are not complete, and units without their one receipt."""
        self._look()

    def _look(self) -> None:
        keys = [key for key, _ in self._objects.walk()]
        artifacts = {key.partition("/manifests/")[0] for key in keys if "/manifests/" in key}
        for key in keys:
            if not any(part in key for part in _PASSING):
                self.digests[key] = self._digest(key)
        for artifact in sorted(artifacts):
            self._artifact(artifact)

    def _artifact(self, artifact: str) -> None:
        """Its manifest, and its receipts: one for each unit, and of which shards."""
        objects = self._objects.at(artifact)
        manifest = latest(objects)
        if manifest is None or manifest.state != COMPLETE:
            self.wrong.append(f"{artifact} is not complete")
            return
        facts = self._plain({"identity": manifest.identity, "facts": manifest.facts})
        self.digests[f"{artifact}: manifest"] = _hashed(facts)
        # Units are of the segment with which the work began; a corpus publishes others.
        begun = {s.name: s for m in every(objects) if m.state == OPEN for s in m.segments}
        for segment in begun.values():
            receipts = Receipts(objects, segment.name)
            loose, packs = receipts.listed()
            found = StoredReceipts(receipts)
            self.units += len(found)
            if len(found) != segment.plan.num_units:
                self.wrong.append(f"{artifact} has {len(found)} of {segment.plan.num_units}")
            if packs and len(loose):
                self.wrong.append(f"{artifact} has receipts in packs and {len(loose)} beside them")
            for unit, receipt in found.items():
                shards = [(s.key, s.size_bytes, s.stored_digest) for s in receipt.shards]
                self.digests[f"{artifact}: unit {unit}"] = _hashed([receipt.valid, shards])

    def _digest(self, key: str) -> str:
        data = self._objects.get(key)
        if key.endswith(".json"):
            return _hashed(self._plain(json.loads(data)))
        return xxhash.xxh3_128_hexdigest(data)

    def _plain(self, value: Any) -> Any:
        """A record without what is of one run only."""
        if isinstance(value, Mapping):
            return {k: self._plain(v) for k, v in value.items() if k not in _TOLD}
        if isinstance(value, list | tuple):
            return [self._plain(each) for each in value]
        return value.replace(self._url, "URL") if isinstance(value, str) else value


def published(url: str) -> dict[str, Any]:
    """The last night that is complete: its manifest's facts."""
    return dict(Run(url).night())


def _write(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")


def _hashed(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return xxhash.xxh3_128_hexdigest(text.encode())
