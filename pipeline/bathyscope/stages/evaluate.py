"""evaluate: how well the dictionary gives activations back, and what the model loses by it.

Every figure is on held-out items, with the training value beside it, and controls beside both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bathyscope.config import Config
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.evaluation.controls import Reconstruct, fit_components, random_dictionary
from bathyscope.evaluation.splice import Forward, add_batch
from bathyscope.metrics.latents import LatentCounts
from bathyscope.metrics.reconstruction import Reconstruction
from bathyscope.metrics.splice import TokenLosses
from bathyscope.runs.activations import Rows
from bathyscope.runs.corpus import Corpus
from bathyscope.runs.identity import digest
from bathyscope.runs.run import DICTIONARIES, EVALUATIONS, Run
from bathyscope.runs.work import Begun, Work
from bathyscope.runs.work import finish as publish
from bathyscope.stages.evaluation_results import DICTIONARY, headline, results_of
from bathyscope.stages.masks import kept
from bathyscope.stages.spliced import forward_of
from bathyscope.stages.stage import Guard, Outcome
from bathyscope.values import HELD_OUT, TRAIN, Json, Receipt, Unit, UnitPlan

NAME = "evaluate"
SEMANTICS = 2
_CONTROL_ROWS = 200_000
_BATCH_ROWS = 8192


@dataclass
class Context:
    """What is measured, in what model, beside which controls and baselines."""

    rows: Rows
    dictionary: AnyDictionary
    reconstructions: dict[str, Reconstruct]
    """The dictionary and the controls, by name."""
    baselines: dict[str, Reconstruct]
    """What loss recovered is measured against."""
    forward: Forward
    device: torch.device
    batch_items: int
    last_spliced: dict[str, int]
    """Per split, one past the last item that goes through the model."""


def units(config: Config) -> Work:
    """Units over the items, identified by activations, dictionary and protocol."""
    run = Run(config.url)
    rows = run.activations[config.hook]
    trained = run.manifest(f"{DICTIONARIES}/{config.dictionary.name}")
    identity: Json = {
        "stage": NAME,
        "semantics": SEMANTICS,
        "activations": digest(rows.identity),
        "dictionary": trained.facts["weights_digest"],
        "hook": config.hook,
        "dtype": rows.facts["dtype"],
        **vars(config.evaluate),
    }
    # The units of the harvest: rows and masks are read by unit.
    source = rows.readers[0].segment.plan
    plan = UnitPlan(source.ranges, source.items_per_unit)
    return Work(
        NAME,
        f"{EVALUATIONS}/{config.dictionary.name}",
        identity,
        plan,
        hint="Pass force=true to replace it.",
    )


def open(config: Config, work: Work) -> Context:
    """Dictionary, controls fitted on training rows, and the model after the hook point."""
    run = Run(config.url)
    rows = run.activations[config.hook]
    forward, device = forward_of(config)
    dictionary = run.dictionaries[config.dictionary.name].to(device)
    mean = torch.from_numpy(rows.moments(TRAIN, kept).mean).float().to(device)
    settings = config.evaluate
    return Context(
        rows=rows,
        dictionary=dictionary,
        reconstructions=_reconstructions(config, rows, dictionary, mean),
        baselines={"mean": lambda x: mean.expand_as(x), "zero": torch.zeros_like},
        forward=forward,
        device=device,
        batch_items=settings.batch_items,
        last_spliced={
            HELD_OUT: _last_item(run.corpus, HELD_OUT, settings.splice_tokens or None),
            TRAIN: _last_item(run.corpus, TRAIN, settings.train_splice_tokens),
        },
    )


@torch.no_grad()
def run(unit: Unit, context: Context, guard: Guard) -> Outcome:
    """Measure the reconstructions of a unit, and the spliced model on its first items."""
    sums = _reconstruct(unit, context)
    figures: Json = {"split": unit.split, **sums}
    losses = TokenLosses()
    stop = min(unit.stop, context.last_spliced[unit.split])
    starts = range(unit.start, stop, context.batch_items)
    for number, start in enumerate(starts):
        guard.check()
        _splice(losses, context, unit.split, start, min(start + context.batch_items, stop))
        guard.progress((number + 1) / len(starts), "spliced model")
    figures["losses"] = losses.to_dict()
    return Outcome(valid=unit.num_items, figures=figures)


def finish(config: Config, begun: Begun, receipts: Mapping[int, Receipt]) -> Json:
    """Merge the sums in the order of units, write results.json, publish."""
    results = results_of(config, Run(config.url), receipts)
    key = f"results.{begun.work.segment.name}.json"
    begun.objects.put(key, json.dumps(results, indent=1, allow_nan=False).encode())
    facts = {"results_key": key, **headline(results)}
    publish(begun, facts)
    return facts


def _last_item(corpus: Corpus, split: str, targets: int | None) -> int:
    """One past the last item that is needed for so many targets; all when None."""
    items = corpus.split_range(split)
    if targets is None:
        return items.stop
    # Position 0 is left out and the last position has no target, so an item has P - 2 of them.
    return min(items.start + -(-targets // (corpus.sequence_length - 2)), items.stop)


def _reconstructions(
    config: Config, rows: Rows, dictionary: AnyDictionary, mean: Tensor
) -> dict[str, Reconstruct]:
    components = fit_components(
        _train_blocks(rows), width=rows.width, num=config.evaluate.control_components
    )
    control = random_dictionary(
        _train_blocks(rows, limit=16 * 1024),
        mean=mean,
        num_latents=dictionary.num_latents,
        k=dictionary.k,
        seed=config.evaluate.seed,
    )
    return {
        DICTIONARY: dictionary,
        "pca": components.reconstruct,
        "random": control.reconstruct,
    }


def _train_blocks(rows: Rows, limit: int = _CONTROL_ROWS) -> Iterator[Tensor]:
    """Blocks of training rows that count, from the beginning, up to a number of rows."""
    seen = 0
    for reader, unit in rows.units():
        if unit.split != TRAIN or seen >= limit:
            continue
        keep = torch.from_numpy(kept(rows.masks(unit)))
        for block in reader.read_tensor(rows.name, unit)[keep].split(_BATCH_ROWS):
            if seen < limit:
                seen += len(block)
                yield block


def _reconstruct(unit: Unit, context: Context) -> Json:
    rows = context.rows
    sums = {name: Reconstruction(rows.width) for name in context.reconstructions}
    counts = LatentCounts(context.dictionary.num_latents)
    keep = torch.from_numpy(kept(rows.masks(unit)))
    for block in rows.unit_rows(unit)[keep].split(_BATCH_ROWS):
        x = block.float().to(context.device)
        latents = context.dictionary.encode(x)
        counts.update(latents.values, latents.indices)
        sums[DICTIONARY].update(x, context.dictionary.decode(latents), num_active=latents.count)
        unused = latents.count.new_zeros(len(x))
        for name, reconstruct in context.reconstructions.items():
            if name != DICTIONARY:
                sums[name].update(x, reconstruct(x), num_active=unused)
    return {
        "reconstruction": {name: s.to_dict() for name, s in sums.items()},
        "counts": counts.to_dict(),
    }


def _splice(losses: TokenLosses, context: Context, split: str, start: int, stop: int) -> None:
    corpus, device = context.rows.corpus, context.device
    variants = {**context.reconstructions, **context.baselines}
    if split == TRAIN:
        # The training value stands beside the dictionary's figures; controls need none.
        variants = {DICTIONARY: context.dictionary, **context.baselines}
    add_batch(
        losses,
        context.forward,
        tokens=corpus.tokens(start, stop).to(device),
        activations=context.rows.items(start, stop).to(device),
        keep=torch.from_numpy(kept(corpus.masks(start, stop))).to(device),
        documents=torch.from_numpy(corpus.documents(start, stop).astype("int64")).to(device),
        variants=variants,
    )
