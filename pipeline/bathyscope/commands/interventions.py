"""Interventions on the model of a run: what `bathyscope.intervene` and the command do.

Everything that can be wrong is found out from the run, the model's config and the tokenizer; only
then are weights loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bathyscope.attribution.interventions.checks import check_interventions, check_length
from bathyscope.attribution.interventions.effects import clean_logits, effect, side_effects
from bathyscope.attribution.interventions.generation import Sampling, generate
from bathyscope.attribution.interventions.intervention import Intervention, Latents
from bathyscope.attribution.interventions.reference import with_reference
from bathyscope.attribution.interventions.report import Continuation, HeldOut, Report, Variant
from bathyscope.attribution.interventions.specs import intervention_of
from bathyscope.config import Config
from bathyscope.errors import ConfigError, MissingArtifact, ModelError
from bathyscope.metrics.splice import CLEAN, DocumentLosses
from bathyscope.models.families import family_of
from bathyscope.models.tokenizers import END_OF_TEXT, load_tokenizer, token_strings
from bathyscope.runs.run import ACTIVATIONS, Run
from bathyscope.stages.inputs import is_of_images
from bathyscope.stages.masks import kept
from bathyscope.stages.model import ModelFacts, describe_model, load_whole
from bathyscope.stages.model_check import check_digest, check_tokenizer
from bathyscope.stages.recorded import recorded_config
from bathyscope.stores.manifests import latest
from bathyscope.values import HELD_OUT, TRAIN

Wanted = Intervention | Mapping[str, Any]
"""An intervention, or the words of one: see `attribution.interventions.specs`."""
Variants = Mapping[str, Sequence[Wanted]]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """How much is computed."""

    dictionary: str = "main"
    """The dictionary of latents whose intervention names none."""
    tokens: int = 40
    """Tokens to generate; 0 generates none."""
    sampling: Sampling = field(default_factory=Sampling)
    top: int = 5
    """Most probable next tokens to show."""
    held_out_items: int = 0
    """Held-out sequences over which side effects are measured; 0 measures none."""
    reference_items: int = 8
    """Training sequences that means and resampled rows are taken from."""
    batch_items: int = 2
    """Sequences of a forward."""


def intervene_on_run(
    run: Run,
    prompt: str,
    variants: Variants,
    options: Options,
    *,
    config: Config | None = None,
    say: Say = lambda _: None,
) -> Report:
    """What each variant does to the predictions along a prompt, to its continuation and elsewhere.

    The model is that of the run's record; `config` is one that replaces it. Raises `ConfigError`,
    `HookPointError`, `MissingArtifact` and `ModelError`, before weights are loaded, for what does
    not fit, and `NonFiniteError` for logits that overflow.
    """
    _check_given(prompt, variants)
    config = recorded_config(run) if config is None else config
    wanted = {
        name: [_intervention(run, each, options) for each in some]
        for name, some in variants.items()
    }
    facts = _described(run, config)
    tokenizer = load_tokenizer(facts.folder)
    ids = torch.tensor(tokenizer(prompt)["input_ids"], dtype=torch.int64)
    check_length(facts.hf, len(ids), options.tokens)
    check_interventions(facts.hf, [each for some in wanted.values() for each in some])

    say(f"loads      {facts.name}, {facts.dtype_name}")
    loaded = load_whole(config)
    _to_device(wanted, loaded.input_device)
    filled = _with_reference(run, loaded.model, wanted, options, say)
    text = _Text(loaded.model, tokenizer, ids, options)
    clean = text.continued([])
    side = _held_out(run, loaded.model, filled, options, say)
    logits = clean_logits(loaded.model, ids)
    made = []
    for name, some in filled.items():
        say(f"changes    {name}")
        found = effect(loaded.model, ids, some, top=options.top, clean=logits)
        held_out = HeldOut.of(side[CLEAN], side[name]) if side else None
        words = tuple(each.described for each in some)
        made.append(Variant(name, words, found, text.continued(some), held_out))
    return Report(
        prompt, tuple(token_strings(tokenizer, ids.tolist())), clean, tuple(made),
        _vocabulary(tokenizer, made),
    )  # fmt: skip


def _check_given(prompt: str, variants: Variants) -> None:
    """What a tokenizer would hide, and what words alone would be taken for."""
    if not prompt:
        raise ConfigError("The prompt is empty. Give a text.")
    for name, some in variants.items():
        if not isinstance(some, Sequence) or isinstance(some, str) or not some:
            raise ConfigError(
                f"{name!r} stands for {some!r}. A list of interventions is wanted, such as "
                "[{'latent': 412, 'steer': 8}], or a mapping from names to such lists."
            )


def _intervention(run: Run, wanted: Wanted, options: Options) -> Intervention:
    if isinstance(wanted, Intervention):
        return wanted
    return intervention_of(wanted, run.dictionaries, name=options.dictionary)


def _described(run: Run, config: Config) -> ModelFacts:
    """The run's model without weights. Raises where it is not what the run was made with."""
    if is_of_images(config) or config.model.kind == "module":
        raise ConfigError(
            f"{run.url} was made with a model that reads no text or has no tokenizer "
            f"(data.kind {config.data.kind}, model.kind {config.model.kind}). Interventions on a "
            "run take a language model; `attribution.interventions.splice.intervened` takes any "
            "module."
        )
    facts = describe_model(config)
    family = family_of(facts.hf)
    if family is not None and family.auto_class != "AutoModelForCausalLM":
        raise ModelError(
            f"{facts.name} is of type {facts.hf.model_type}, which predicts no next token. "
            "Interventions on a run take a language model."
        )
    # Not only a complete one: a stream takes rows away again, and its record stays.
    harvested = latest(run.objects.at(ACTIVATIONS))
    if harvested is None:
        raise MissingArtifact(
            f"{run.url} has no {ACTIVATIONS}, so it is not known which model it was made with. "
            "Run the harvest, or `bathyscope run` for all stages."
        )
    check_digest(harvested.identity, config, facts)
    check_tokenizer(facts.folder, run.corpus.identity)
    return facts


def _to_device(variants: Mapping[str, Sequence[Intervention]], device: torch.device) -> None:
    for some in variants.values():
        for each in some:
            if isinstance(each.target, Latents):
                each.target.dictionary.to(device)


def _with_reference(
    run: Run,
    model: Any,
    variants: Mapping[str, list[Intervention]],
    options: Options,
    say: Say,
) -> dict[str, list[Intervention]]:
    if not any(each.wants_activations for some in variants.values() for each in some):
        return dict(variants)
    tokens, keep, _ = _items(run, TRAIN, options.reference_items)
    say(f"captures   {len(tokens)} training sequences to take means and resampled rows from")
    size = options.batch_items
    return {
        name: with_reference(model, some, tokens=tokens, keep=keep, batch_items=size)
        for name, some in variants.items()
    }


def _held_out(
    run: Run, model: Any, variants: Mapping[str, list[Intervention]], options: Options, say: Say
) -> dict[str, DocumentLosses]:
    if options.held_out_items == 0:
        return {}
    tokens, keep, documents = _items(run, HELD_OUT, options.held_out_items)
    say(f"measures   side effects on {len(tokens)} held-out sequences")
    return side_effects(
        model, variants, tokens=tokens, keep=keep, documents=documents,
        batch_items=options.batch_items,
    )  # fmt: skip


def _items(run: Run, split: str, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, kept positions and documents [items, positions] of a split's first items."""
    where = run.corpus.split_range(split)
    start, stop = where.start, min(where.start + count, where.stop)
    return (
        run.corpus.tokens(start, stop),
        torch.from_numpy(kept(run.corpus.masks(start, stop))),
        torch.from_numpy(run.corpus.documents(start, stop).astype("int64")),
    )


class _Text:
    """Continues one prompt."""

    def __init__(self, model: Any, tokenizer: Any, ids: Tensor, options: Options) -> None:
        self._model, self._tokenizer, self._ids, self._options = model, tokenizer, ids, options
        end = tokenizer.get_vocab().get(END_OF_TEXT)
        self._stop = {i for i in (tokenizer.eos_token_id, end) if i is not None}

    def continued(self, interventions: Sequence[Intervention]) -> Continuation | None:
        options = self._options
        if options.tokens == 0:
            return None
        made = generate(
            self._model, self._ids, interventions,
            tokens=options.tokens, sampling=options.sampling, stop=self._stop,
        )  # fmt: skip
        text: str = self._tokenizer.decode(made, clean_up_tokenization_spaces=False)
        return Continuation(tuple(made), text)


def _vocabulary(tokenizer: Any, variants: Sequence[Variant]) -> dict[int, str]:
    ids = sorted({p.token for v in variants for p in (*v.effect.before, *v.effect.after)})
    return dict(zip(ids, token_strings(tokenizer, ids), strict=True))
