"""A run: one folder with everything that was made, opened lazily.

`bathyscope.open(url)` gives one. Stages and the report read through it too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, TypeVar

import pyarrow as pa
import xxhash

from bathyscope.dictionaries.files import from_files
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.errors import FormatVersionError, MissingArtifact, StoreError
from bathyscope.runs.activations import Rows
from bathyscope.runs.corpus import Corpus
from bathyscope.runs.identity import digest
from bathyscope.runs.latents import Latents
from bathyscope.runs.nights import all_nights, night_of, table_of_night
from bathyscope.runs.tables import from_parquet
from bathyscope.stores.manifests import COMPLETE, Manifest, latest
from bathyscope.stores.objects import Objects, local_path
from bathyscope.values import Json

FORMAT_VERSION = 1
CORPUS = "corpus.zarr"
SHARED = "shared"
"""Where a manifest says that the corpus or the dictionary lies in another run."""
ACTIVATIONS = "activations.zarr"
DICTIONARIES = "dictionaries"
LATENTS = "latents.zarr"
EVALUATIONS = "evaluations"
FEATURES = "features"
OBSERVATIONS = "observations"
"""Sums over documents, by which nights are compared."""
REPORT = "report"
LADDER = "ladder"
STUDIES = "studies"
NIGHTS = "nights"
MAIN = "main"
"""The dictionary of a run that was given no other name."""
GRAPHS = "graphs"
ATTRIBUTIONS = "attributions"
GRAPH_ROWS = "graph_rows"

T = TypeVar("T")


def report_folder(dictionary: str) -> str:
    """Where the report of a dictionary lies: `report`, and `report-<name>` of further ones."""
    return REPORT if dictionary == MAIN else f"{REPORT}-{dictionary}"


class Run:
    """Artifacts of one run folder. Everything is read when it is asked for."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.objects = Objects(url)

    @classmethod
    def open(cls, url: str) -> Run:
        """The run at a path or URL.

        Raises `MissingArtifact` when no run is there, `FormatVersionError` when it was written
        in an unknown format.
        """
        path = local_path(url)
        if path is not None and not path.is_dir():
            raise MissingArtifact(f"There is no folder {url}. Give the folder of a run.")
        run = cls(url)
        version = run.record.get("format_version")
        if version != FORMAT_VERSION:
            raise FormatVersionError(
                f"{url} was written in format version {version}; this Bathyscope reads version "
                f"{FORMAT_VERSION}. Open it with the version named in its run.json."
            )
        return run

    @property
    def record(self) -> Json:
        """run.json: the resolved configuration and the history."""
        record: Json = json.loads(self.objects.get("run.json"))
        return record

    @cached_property
    def corpus(self) -> Corpus:
        """Token sequences, masks and documents: its own, or those of the run that it shares.

        Raises `StoreError` where the shared one is another than it was.
        """
        manifest = self.manifest(CORPUS)
        shared = manifest.facts.get(SHARED)
        if shared is None:
            return Corpus(self.objects.at(CORPUS), manifest)
        source = Run(shared["run"]).corpus
        if digest(source.identity) != shared["corpus"]:
            raise StoreError(
                f"{self.url} reads the corpus of {shared['run']}, and that was made anew since: "
                "its items are others. Put it back, or choose another url."
            )
        return source.first(shared["most_items"], manifest.identity)

    @cached_property
    def activations(self) -> Mapping[str, Rows]:
        """Harvested activations by hook point."""
        return _Lazy(self._activations, self._hook_points())

    @cached_property
    def growing(self) -> Mapping[str, Rows]:
        """Activations by hook point, as far as they are harvested."""
        return _Lazy(self._growing, self._hook_points(state=None))

    @cached_property
    def dictionaries(self) -> Mapping[str, AnyDictionary]:
        """Trained dictionaries by name."""
        return _Lazy(self._dictionary, self._complete(DICTIONARIES))

    @cached_property
    def latents(self) -> Mapping[str, Latents]:
        """Encoded rows by dictionary."""
        return _Lazy(self._latents, self._complete(LATENTS))

    @cached_property
    def evaluations(self) -> Mapping[str, Json]:
        """Results of the evaluation by dictionary."""
        return _Lazy(self._evaluation, self._complete(EVALUATIONS))

    @cached_property
    def ladder(self) -> Json:
        """Results of a ladder: `models`, a row for each, and `definitions` of their columns."""
        key = self.manifest(LADDER).facts["results_key"]
        results: Json = json.loads(self.objects.at(LADDER).get(key))
        return results

    def study(self, name: str) -> Json:
        """What a study found: verdicts, fits, plots, tables, definitions and protocol."""
        artifact = f"{STUDIES}/{name}"
        key = self.manifest(artifact).facts["results_key"]
        results: Json = json.loads(self.objects.at(artifact).get(key))
        return results

    def study_table(self, name: str) -> pa.Table:
        """Every row that a study measured."""
        return self._table(f"{STUDIES}/{name}", "table_key")

    def graphs(self, name: str = "main") -> Json:
        """Figures of attribution graphs: `prompts`, a row for each, and `definitions`."""
        artifact = f"{GRAPHS}/{name}"
        key = self.manifest(artifact).facts["results_key"]
        results: Json = json.loads(self.objects.at(artifact).get(key))
        return results

    def attributions(self, name: str = "main") -> Json:
        """Effects of nodes on pairs of prompts: `method`, and `pairs`, a row for each."""
        artifact = f"{ATTRIBUTIONS}/{name}"
        key = self.manifest(artifact).facts["results_key"]
        results: Json = json.loads(self.objects.at(artifact).get(key))
        return results

    def features(self, dictionary: str = "main") -> pa.Table:
        """One row per latent: density, activation range, promoted and suppressed tokens."""
        return self._table(f"{FEATURES}/{dictionary}", "latents_key")

    def examples(self, dictionary: str = "main") -> pa.Table:
        """Example windows of every latent, with tokens and activations."""
        return self._table(f"{FEATURES}/{dictionary}", "examples_key")

    def curve(self, dictionary: str = "main") -> pa.Table:
        """The training curve: one row per logged step."""
        return self._table(f"{DICTIONARIES}/{dictionary}", "curve_key")

    def scalings(self, dictionary: str = "main") -> pa.Table:
        """Norm shares and latent scaling of every latent of a crosscoder, per hook point."""
        return self._table(f"{EVALUATIONS}/{dictionary}", "latents_key")

    def night(self, number: int | None = None) -> Json:
        """What a night of `bathyscope nightly` published; the last one without a number.

        Raises `MissingArtifact` for one that there is not.
        """
        return night_of(self.objects.at(NIGHTS), number)

    def nights(self) -> list[Json]:
        """Every complete night, the oldest first: `night`, `started`, `finished`, `told`, …

        Of those that were let go a line is kept; of the others there is more in `night(number)`.
        """
        return all_nights(self.objects.at(NIGHTS))

    def night_features(self, checkpoint: str) -> pa.Table:
        """One row per latent, over all slices that a checkpoint had read by the last night."""
        return self._of_night(checkpoint, "latents")

    def night_examples(self, checkpoint: str) -> pa.Table:
        """The strongest examples of every latent over these slices, each with its `slice`."""
        return self._of_night(checkpoint, "examples")

    def manifest(self, artifact: str) -> Manifest:
        """The complete manifest of an artifact. Raises `MissingArtifact` when there is none."""
        found = latest(self.objects.at(artifact), state=COMPLETE)
        if found is None:
            raise MissingArtifact(
                f"{self.url} has no complete {artifact}. Run the stage that makes it, or "
                "`bathyscope run` for all stages."
            )
        return found

    def _of_night(self, checkpoint: str, name: str) -> pa.Table:
        return table_of_night(self.objects.at(NIGHTS), checkpoint, name)

    def _activations(self, hook_point: str) -> Rows:
        manifest = self.manifest(ACTIVATIONS)
        return Rows(self.objects.at(ACTIVATIONS), manifest, hook_point, self.corpus)

    def _growing(self, hook_point: str) -> Rows:
        objects = self.objects.at(ACTIVATIONS)
        manifest = latest(objects)
        assert manifest is not None, "there are hook points"
        return Rows(objects, manifest, hook_point, self.corpus)

    def _hook_points(self, state: str | None = COMPLETE) -> list[str]:
        found = latest(self.objects.at(ACTIVATIONS), state=state)
        arrays = found.segments[0].arrays if found else ()
        return [array.name for array in arrays if array.scales_of is None]

    def _dictionary(self, name: str) -> AnyDictionary:
        facts = self.manifest(f"{DICTIONARIES}/{name}").facts
        shared = facts.get(SHARED)
        if shared is not None:
            return Run(shared["run"])._pinned(shared["name"], facts["weights_digest"], self.url)
        folder = self.objects.at(f"{DICTIONARIES}/{name}")
        weights = folder.get(facts["weights_key"])
        if xxhash.xxh3_128_hexdigest(weights) != facts["weights_digest"]:
            raise StoreError(
                f"The weights in {folder.location} are not those that its manifest describes. "
                "They are being replaced, or damaged: open the run again, or train again with "
                "force=true."
            )
        return from_files(folder.get(facts["config_key"]), weights)

    def _pinned(self, name: str, weights_digest: str, reader: str) -> AnyDictionary:
        """A dictionary that another run reads. Raises `StoreError` where it is another by now."""
        if self.manifest(f"{DICTIONARIES}/{name}").facts["weights_digest"] != weights_digest:
            raise StoreError(
                f"{reader} reads dictionary {name} of {self.url}, and that was trained anew since. "
                "Put the old one back, or choose another url."
            )
        return self._dictionary(name)

    def _latents(self, name: str) -> Latents:
        artifact = f"{LATENTS}/{name}"
        return Latents(self.objects.at(artifact), self.manifest(artifact), self.corpus)

    def _evaluation(self, name: str) -> Json:
        artifact = f"{EVALUATIONS}/{name}"
        key = self.manifest(artifact).facts["results_key"]
        results: Json = json.loads(self.objects.at(artifact).get(key))
        return results

    def _table(self, artifact: str, fact: str) -> pa.Table:
        key = self.manifest(artifact).facts[fact]
        return from_parquet(self.objects.at(artifact).get(key))

    def _complete(self, folder: str) -> list[str]:
        names = self.objects.children(folder)
        return [n for n in names if latest(self.objects.at(f"{folder}/{n}"), state=COMPLETE)]


class _Lazy(Mapping[str, T]):
    """A mapping whose values are made when they are first asked for."""

    def __init__(self, make: Any, names: list[str]) -> None:
        self._make = make
        self._names = names
        self._made: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        if name not in self._names:
            have = ", ".join(self._names) or "nothing yet"
            raise MissingArtifact(f"This run has no {name!r}. It has: {have}.")
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
