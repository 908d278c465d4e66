"""ladder, third part: every model is trained on the same sequences in the same order.

One unit per model. A model that was interrupted goes on from its last state, and ends as if it had
not been: to the bit on a CPU with as many threads. In the folder `ladder` of the run:

    <family>-<size>-seed<n>/step-000123/   a checkpoint, a Hugging Face folder with its tokenizer
    <family>-<size>-seed<n>/final/         the weights with the best held-out loss
    <family>-<size>-seed<n>/curve.parquet  losses along the training; results.json has its figures
    curves.parquet, results.json, index.html   of all models
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import pyarrow as pa
import torch
import xxhash
from torch import Tensor

from bathyscope.config import Config
from bathyscope.errors import CorpusError
from bathyscope.models.bpe import token_bytes
from bathyscope.models.precision import default_device_kind
from bathyscope.models.rungs import model_files, new_decoder, rung_config
from bathyscope.models.tokenizers import load_tokenizer
from bathyscope.runs.corpus import Corpus
from bathyscope.runs.identity import digest
from bathyscope.runs.run import LADDER, Run
from bathyscope.runs.tables import to_parquet
from bathyscope.runs.work import Begun, Work
from bathyscope.runs.work import finish as publish
from bathyscope.stages.ladder_batches import LadderBatches
from bathyscope.stages.ladder_figures import described, measured
from bathyscope.stages.ladder_models import LadderModel, models_of, num_steps, plan_of
from bathyscope.stages.ladder_results import WEIGHTS, put_results, remove_others
from bathyscope.stages.ladder_states import LadderStates
from bathyscope.stages.ladder_tokenizer import stored_files, with_tokenizer
from bathyscope.stages.stage import Guard, Outcome
from bathyscope.stores.objects import Objects
from bathyscope.training.language import LanguageState, LanguageTraining
from bathyscope.values import HELD_OUT, Json, Receipt, Unit, UnitPlan

NAME = "ladder"
SEMANTICS = 1
_NOT_IDENTITY = (
    "state_steps",
    "most_epochs",
    # Named by the models and the corpus.
    "families",
    "seeds",
    "rungs",
    "tokenizer_chars",
    "vocabulary",
)
_NEWER = ("tokens_per_parameter",)
"""Identify a ladder only where they are set: ladders from before them stay what they are."""


@dataclass
class Context:
    """The corpus, and where the models go."""

    config: Config
    corpus: Corpus
    objects: Objects
    states: LadderStates
    models: list[LadderModel]
    tokenizer: Mapping[str, bytes]
    """Its files, which lie beside the weights in every folder."""
    bytes_of: Tensor
    """Bytes of text of each token [vocabulary]."""
    device: str = field(default_factory=default_device_kind)


def units(config: Config) -> Work:
    """One unit per model, identified by corpus, models and training.

    Raises `CorpusError` for a corpus that is too small for the tokens that are asked for.
    """
    models, corpus = models_of(config), Run(config.url).corpus
    settings = config.ladder
    per_epoch = LadderBatches(corpus, settings.batch_items).steps_per_epoch
    steps = [num_steps(config, model) for model in models]
    _check_tokens(config, steps, per_epoch)
    identity: Json = {
        "stage": NAME,
        "semantics": SEMANTICS,
        "corpus": digest(corpus.identity),
        "models": {m.name: [m.parameters, *vars(m.rung).values()] for m in models},
        "training": {
            k: v
            for k, v in vars(settings).items()
            if k not in _NOT_IDENTITY and (v or k not in _NEWER)
        },
    }
    # All models together have seen as many as if each had seen the mean.
    tokens = sum(steps) * settings.batch_items * corpus.sequence_length // len(models)
    return Work(
        NAME,
        LADDER,
        identity,
        UnitPlan((("all", 0, len(models)),), 1),
        rows_per_item=tokens,
        facts={"models": [model.name for model in models]},
        unit_name="models",
    )


def open(config: Config, work: Work) -> Context:
    """The corpus and the tokenizer."""
    objects = Objects(config.url).at(work.artifact)
    path = with_tokenizer(config).model.path
    assert path is not None
    return Context(
        config=config,
        corpus=Run(config.url).corpus,
        objects=objects,
        states=LadderStates(objects, work.segment.name),
        models=models_of(config),
        tokenizer=stored_files(config),
        bytes_of=torch.tensor(token_bytes(load_tokenizer(path))),
    )


def run(unit: Unit, context: Context, guard: Guard) -> Outcome:
    """Train one model, from its last state if it has one."""
    model = context.models[unit.index]
    state = context.states.read(unit.index)
    folder = context.objects.at(model.name)
    training = _training(context, model, state)
    if state is None:
        folder.delete_folder("")
        _checkpoint(context, model, training, step=0)
    _train(training, context, unit, guard)
    network = training.model
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(training.best()[name])
    guard.progress(1.0, f"{model.name}  last evaluation")
    per_step = context.config.ladder.batch_items * context.corpus.sequence_length
    bfloat16 = context.config.ladder.dtype == "bfloat16"
    figures = {
        **described(model, training.state, per_step),
        **measured(network, context.corpus, context.bytes_of, bfloat16=bfloat16),
    }
    guard.check()
    figures["weights_digest"] = _put_folder(context, folder.at("final"), network)
    points = [asdict(point) for point in training.state.curve]
    folder.put("curve.parquet", to_parquet(pa.Table.from_pylist(points)), fsync=True)
    # Receipts are compared, and hold no times.
    timed = {**figures, "seconds": round(training.state.seconds, 1)}
    folder.put("results.json", json.dumps(timed, indent=1).encode(), fsync=True)
    return Outcome(valid=1, figures=figures)


def finish(config: Config, begun: Begun, receipts: Mapping[int, Receipt]) -> Json:
    """Write the table, the curves and their page; remove what an earlier ladder left."""
    facts = put_results(begun.objects, begun.work.facts["models"])
    publish(begun, facts)
    remove_others(begun.objects, begun.work.facts["models"])
    begun.objects.delete_folder("states")
    begun.objects.sweep("states")
    return facts


def _train(training: LanguageTraining, context: Context, unit: Unit, guard: Guard) -> None:
    """Every step that is left, with checkpoints and states on the way."""
    model = context.models[unit.index]
    plan, every = plan_of(context.config, model), context.config.ladder.state_steps
    while not training.finished:
        training.advance(time.monotonic)
        state = training.state
        if state.step in plan.saved:
            guard.check()
            _checkpoint(context, model, training, step=state.step)
        if state.step % every == 0 or state.step in plan.saved or training.finished:
            guard.check()
            context.states.write(unit.index, training.snapshot())
        guard.progress(state.step / plan.num_steps, _told(model, state))


def _training(
    context: Context, model: LadderModel, state: LanguageState | None
) -> LanguageTraining:
    config, corpus = context.config, context.corpus
    there = corpus.split_range(HELD_OUT)
    watched = max(config.ladder.watched_tokens // corpus.sequence_length, 1)
    settings = rung_config(
        model.family,
        model.rung,
        vocabulary=config.ladder.vocabulary,
        context=corpus.sequence_length,
    )
    return LanguageTraining(
        new_decoder(settings, model.seed).to(context.device),
        plan_of(config, model),
        batches=LadderBatches(corpus, config.ladder.batch_items, context.device),
        held_out=corpus.tokens(there.start, min(there.start + watched, there.stop)).to(
            context.device
        ),
        start=state,
    )


def _checkpoint(
    context: Context, model: LadderModel, training: LanguageTraining, *, step: int
) -> None:
    _put_folder(context, context.objects.at(f"{model.name}/step-{step:06d}"), training.model)


def _put_folder(context: Context, folder: Objects, network: torch.nn.Module) -> str:
    """Write a Hugging Face folder and return the digest of its weights.

    These come last, so that a folder with weights is whole.
    """
    files = {**context.tokenizer, **model_files(network)}
    for name in sorted(files, key=lambda each: each == WEIGHTS):
        folder.put(name, files[name], fsync=True)
    return str(xxhash.xxh3_128_hexdigest(files[WEIGHTS]))


def _told(model: LadderModel, state: LanguageState) -> str:
    held_out = f"{state.curve[-1].held_out_loss:.3f}" if state.curve else "…"
    return f"{model.name}  step {state.step}  held-out loss {held_out}"


def _check_tokens(config: Config, steps: Sequence[int], steps_per_epoch: int) -> None:
    settings = config.ladder
    most = settings.most_epochs * steps_per_epoch
    per_step = settings.batch_items * config.data.sequence_length
    name, asked = "ladder.tokens", f"{settings.tokens:,}"
    if settings.tokens_per_parameter:
        name = "ladder.tokens_per_parameter"
        asked = f"{settings.tokens_per_parameter:g}, {min(steps) * per_step:,} to "
        asked += f"{max(steps) * per_step:,} tokens of a model"
    if min(steps) < 1:
        raise CorpusError(
            f"{name} is {asked}, less than one step of {per_step:,}. Give more tokens, or a "
            "smaller ladder.batch_items."
        )
    if max(steps) > most:
        raise CorpusError(
            f"{name} is {asked}, and the corpus has "
            f"{steps_per_epoch * per_step:,} training tokens in whole steps, of which "
            f"ladder.most_epochs={settings.most_epochs} makes {most * per_step:,}. Add text "
            "(data.packages, data.also=[linux_doc,nlp_corpus]; data.train_tokens bounds it), raise "
            f"ladder.most_epochs, or ask for fewer {name}."
        )
