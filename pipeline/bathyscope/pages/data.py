"""What a report shows, as plain values.

The report stage reads a run and fills these; the pages know nothing of stores, runs or models.
A number that was not measured is None or NaN, and is shown as "not measured", never as zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Number = float | int | None


@dataclass(frozen=True, slots=True)
class Headline:
    """One leading figure: the held-out value, its interval, and the train value beside it."""

    label: str
    value: Number
    """On held-out items."""
    unit: str = ""
    """Shown after the values: "nats", "%", "latents per token". Values are shown unscaled."""
    interval: tuple[Number, Number] | None = None
    """Low and high end of the interval of `value`; None where none is defined."""
    train_value: Number = None
    note: str = ""
    """One short sentence: the baseline, the number of tokens behind "dead"."""


@dataclass(frozen=True, slots=True)
class ControlRow:
    """One row of the controls table: the dictionary, PCA, a random dictionary."""

    name: str
    values: Mapping[str, Number]
    """Column title -> held-out value; columns appear in the order in which rows first name them."""


@dataclass(frozen=True, slots=True)
class TrainingCurves:
    """What was logged while training: one column per figure, one entry per logged step."""

    steps: Sequence[int] = ()
    columns: Mapping[str, Sequence[Number]] = field(default_factory=dict)
    """Title -> one value per entry of `steps`."""

    def __post_init__(self) -> None:
        for title, column in self.columns.items():
            assert len(column) == len(self.steps), f"{title}: {len(column)} of {len(self.steps)}"


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts between edges; for densities the edges are log10 of the density."""

    edges: Sequence[float]
    """One more than `counts`, ascending."""
    counts: Sequence[int]

    def __post_init__(self) -> None:
        assert len(self.edges) == len(self.counts) + 1, (len(self.edges), len(self.counts))


@dataclass(frozen=True, slots=True)
class CorpusFacts:
    """The text behind the figures."""

    name: str
    documents: int | None
    train_tokens: int | None
    held_out_tokens: int | None
    sequence_length: int | None
    bos_policy: str
    """One sentence: what a sequence begins with, and which positions were left out."""


@dataclass(frozen=True, slots=True)
class StageTiming:
    """How long a stage took, and the most memory that its processes held."""

    name: str
    seconds: Number
    peak_memory_bytes: int | None = None
    detail: str = ""
    """Rate or size: "2,408 tokens/s"."""


@dataclass(frozen=True, slots=True)
class Definition:
    """One metric and the sentences that define it."""

    term: str
    sentences: str


@dataclass(frozen=True, slots=True)
class Command:
    """A command that the reader may want to run next."""

    line: str
    purpose: str


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything in a report but the latents' own pages, which are streamed."""

    title: str
    run_url: str
    model: str
    hook_point: str
    dictionary_kind: str
    num_latents: int
    k: int | None
    """Active latents per token; None for kinds without a fixed number."""
    corpus: CorpusFacts
    created: str
    versions: Mapping[str, str]
    headlines: Sequence[Headline]
    controls: Sequence[ControlRow] = ()
    curves: TrainingCurves = field(default_factory=TrainingCurves)
    densities: Histogram | None = None
    """Latents per bin of log10 density, those that never fired left out."""
    num_never: int | None = None
    """Latents silent on all of `density_tokens`."""
    density_tokens: int | None = None
    """Tokens on which densities were counted: the N of "silent for N tokens"."""
    timings: Sequence[StageTiming] = ()
    interval_meaning: str = ""
    """What the brackets are: "95 % bootstrap interval over documents"."""
    protocol: Sequence[Definition] = ()
    next_commands: Sequence[Command] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """A stretch of tokens around a place where a latent is active."""

    band: str
    """"top", "quantile 1"…: examples of one band are shown together, in the order given."""
    item: int
    position: int
    """Position of the peak token in the item."""
    document: str
    tokens: Sequence[str]
    activations: Sequence[Number]
    """One per token."""
    peak: int
    """Index into `tokens` of the token that the example was chosen for."""
    split: str
    """"train" or "held out"."""

    def __post_init__(self) -> None:
        assert len(self.tokens) == len(self.activations), (len(self.tokens), len(self.activations))
        assert 0 <= self.peak < len(self.tokens), (self.peak, len(self.tokens))


@dataclass(frozen=True, slots=True)
class LatentPage:
    """One latent. A latent without examples (dead, or not described) has empty fields."""

    latent: int
    density: Number
    """Share of tokens on which it is active; 0 is dead."""
    mean: Number = None
    """Mean activation over the tokens on which it is active."""
    max: Number = None
    histogram: Histogram | None = None
    """Tokens per bin of activation, zeros left out."""
    promoted: Sequence[tuple[str, Number]] = ()
    """Vocabulary tokens that its decoder row raises most, with the change of logit."""
    suppressed: Sequence[tuple[str, Number]] = ()
    examples: Sequence[Example] = ()
