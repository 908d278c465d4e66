"""What the front page of a report shows, gathered from the artifacts of a run."""

from __future__ import annotations

import numpy as np

from bathyscope.config import Config
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.pages.data import (
    Command,
    ControlRow,
    CorpusFacts,
    Definition,
    Headline,
    Histogram,
    ReportData,
    StageTiming,
    TrainingCurves,
)
from bathyscope.runs.record import now
from bathyscope.runs.run import FEATURES, Run
from bathyscope.values import HELD_OUT, SPLITS, TRAIN, Json

_DEFINITIONS = (
    Definition(
        "FVU",
        "Fraction of variance unexplained: Σ‖x - x̂‖² / Σ‖x - x̄‖², pooled over all rows and centred "
        "on their mean. 0 is perfect, 1 is the mean.",
    ),
    Definition("L0", "Mean number of active latents per token."),
    Definition(
        "ΔCE",
        "Rise of the model's next-token cross entropy, in nats, when reconstructions take the "
        "place of activations.",
    ),
    Definition("KL", "Σ p log(p/q) in nats; p is the clean model, q the spliced one."),
    Definition(
        "Loss recovered",
        "(CE ablated - CE spliced) / (CE ablated - CE clean). The baseline is named: zero sets "
        "activations to zero, mean to their mean over training rows.",
    ),
    Definition("Dead share", "Share of latents that were silent on all of the stated tokens."),
    Definition("Cosine", "Mean cosine of x and x̂."),
    Definition("Relative reconstruction bias", "E‖x̂‖² / E[x·x̂]. 1 is unbiased, below 1 shrinks."),
)


def report_data(config: Config, run: Run) -> ReportData:
    """Headline figures, controls, curves, densities, timings and definitions."""
    name = config.dictionary.name
    results = run.evaluations[name]
    dictionary = run.dictionaries[name]
    features = run.manifest(f"{FEATURES}/{name}").facts
    history = run.record["history"]
    return ReportData(
        title=f"{config.hook} of {results['model']}",
        run_url=config.url,
        model=results["model"],
        hook_point=config.hook,
        dictionary_kind=_kind(dictionary),
        num_latents=dictionary.num_latents,
        k=dictionary.known_k,
        corpus=_corpus(config, run),
        created=now(),
        versions={"bathyscope": history[-1]["bathyscope"], **history[-1]["versions"]},
        headlines=_headlines(results),
        controls=_controls(results),
        curves=_curves(run, name),
        densities=_densities(run, name),
        num_never=features["silent"],
        density_tokens=features["rows"],
        timings=_timings(history),
        interval_meaning="95 % bootstrap interval over documents",
        protocol=_protocol(results),
        next_commands=_commands(config),
    )


_NAMES = {
    "topk": "TopK",
    "batch_topk": "BatchTopK",
    "jumprelu": "JumpReLU",
    "relu": "ReLU",
    "gated": "Gated",
}


def _kind(dictionary: AnyDictionary) -> str:
    """What kind of dictionary it is, as people say it."""
    name = _NAMES[dictionary.parts[0].activation.name]
    nested = "Matryoshka " if len(dictionary.prefixes) > 1 else ""
    return f"{nested}{name} {dictionary.kind.replace('_', ' ')}"


def _headlines(results: Json) -> list[Headline]:
    held_out = results["reconstruction"][HELD_OUT]["dictionary"]
    train = results["reconstruction"][TRAIN]["dictionary"]
    splice = results["splice"][HELD_OUT]
    spliced = splice["variants"]["dictionary"]
    trained = _train_splice(results)
    zero, mean = spliced["loss_recovered_zero"], spliced["loss_recovered_mean"]
    targets = f"{splice['targets']:,} targets of {splice['documents']} documents"
    return [
        Headline("FVU", held_out["fvu"], train_value=train["fvu"]),
        Headline("L0", held_out["l0"], "latents per token", train_value=train["l0"]),
        Headline(
            "Loss recovered, zero",
            zero["value"],
            interval=tuple(zero["interval"]),
            train_value=trained["loss_recovered_zero"]["value"],
            note=f"against zero ablation; {targets}",
        ),
        Headline(
            "Loss recovered, mean",
            mean["value"],
            interval=tuple(mean["interval"]),
            train_value=trained["loss_recovered_mean"]["value"],
            note="against mean ablation",
        ),
        Headline(
            "ΔCE",
            spliced["delta_ce"],
            "nats",
            tuple(spliced["delta_ce_interval"]),
            train_value=trained["delta_ce"],
            note=f"clean CE {splice['clean_ce']:.3f} nats",
        ),
        Headline("KL", spliced["kl"], "nats", tuple(spliced["kl_interval"]), trained["kl"]),
        Headline(
            "Dead share",
            100 * held_out["dead_share"],
            "%",
            train_value=100 * train["dead_share"],
            note=f"silent for {held_out['dead_share_rows']:,} held-out tokens; "
            f"train: for {train['dead_share_rows']:,}",
        ),
        Headline("Cosine", held_out["cosine"], train_value=train["cosine"]),
        Headline(
            "Relative reconstruction bias",
            held_out["relative_bias"],
            train_value=train["relative_bias"],
            note="1 is unbiased",
        ),
    ]


def _train_splice(results: Json) -> Json:
    """Figures of the spliced model on training items, None where they were not measured."""
    found = results["splice"][TRAIN]
    if found is None:
        nothing = {"value": None}
        return {"delta_ce": None, "kl": None} | dict.fromkeys(
            ("loss_recovered_zero", "loss_recovered_mean"), nothing
        )
    spliced: Json = found["variants"]["dictionary"]
    return spliced


def _controls(results: Json) -> list[ControlRow]:
    names = {
        "dictionary": "this dictionary",
        "pca": results["protocol"]["controls"]["pca"],
        "random": "random dictionary, scaled",
        "mean": "mean of training rows",
        "zero": "zero",
    }
    rows = []
    for name, title in names.items():
        spliced = results["splice"][HELD_OUT]["variants"][name]
        fvu = {split: results["reconstruction"][split].get(name, {}) for split in SPLITS}
        rows.append(
            ControlRow(
                title,
                {
                    "FVU": fvu[HELD_OUT].get("fvu"),
                    "FVU, train": fvu[TRAIN].get("fvu"),
                    "ΔCE, nats": spliced["delta_ce"],
                    "KL, nats": spliced["kl"],
                    "Loss recovered, zero": spliced["loss_recovered_zero"]["value"],
                },
            )
        )
    return rows


def _corpus(config: Config, run: Run) -> CorpusFacts:
    facts = run.corpus.facts
    source = ", ".join(config.data.packages) if config.data.kind == "documentation" else ""
    return CorpusFacts(
        name=f"{config.data.kind} {source}".strip(),
        documents=facts["documents"],
        train_tokens=facts["train_tokens"],
        held_out_tokens=facts["held_out_tokens"],
        sequence_length=facts["sequence_length"],
        bos_policy=f"{facts['policy']} The first position is left out.",
    )


def _curves(run: Run, name: str) -> TrainingCurves:
    columns = run.curve(name).to_pydict()
    titles = {"fvu": "FVU", "auxk": "AuxK", "dead_share": "dead share", "lr": "learning rate"}
    return TrainingCurves(columns["step"], {t: columns[key] for key, t in titles.items()})


def _densities(run: Run, name: str) -> Histogram | None:
    density = run.features(name).column("density").to_numpy()
    alive = np.log10(density[density > 0])
    if len(alive) == 0:
        return None
    low, high = np.floor(alive.min() * 4) / 4, np.ceil(alive.max() * 4) / 4
    edges = np.arange(low, max(high, low + 0.25) + 0.125, 0.25)
    counts, _ = np.histogram(alive, bins=edges)
    return Histogram(edges.tolist(), counts.tolist())


def _timings(history: list[Json]) -> list[StageTiming]:
    """The last time that each stage did work."""
    found: dict[str, StageTiming] = {}
    for entry in history:
        for stage, facts in entry["stages"].items():
            if not facts.get("reused"):
                found[stage] = StageTiming(
                    stage, facts["seconds"], facts.get("peak_bytes"), facts.get("detail", "")
                )
    return list(found.values())


def _protocol(results: Json) -> list[Definition]:
    protocol = results["protocol"]
    return [
        *_DEFINITIONS,
        Definition("Positions", protocol["positions"]),
        Definition("Clean", protocol["clean"].capitalize() + "."),
        Definition("Random dictionary", protocol["controls"]["random"].capitalize() + "."),
    ]


def _commands(config: Config) -> list[Command]:
    name = config.dictionary.name
    return [
        Command(
            f"bathyscope run url={config.url} dictionary.name=wide dictionary.expansion=16",
            "a second, wider dictionary on the same activations",
        ),
        Command(
            f"python -c \"import bathyscope; run = bathyscope.open('{config.url}'); "
            f"print(run.features('{name}').slice(0, 3).to_pylist())\"",
            "the table of latents in Python",
        ),
    ]
